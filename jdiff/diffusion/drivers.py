"""Drivers: walk a ladder with a sampler."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jdiff.common import keys as keylib
from jdiff.diffusion.denoiser import Cond, Denoise
from jdiff.diffusion.samplers import Sampler
from jdiff.diffusion.schedules import Schedule

Project = Callable[[Array, Array, Array], Array]  # (x [B, ...], sigma [], keys [B]) -> x


class Walk(NamedTuple):
    """x0: the images [B, ...]. trajectory: x at every rung, the start and x0 included [N + 1, B, ...]; None unless
    kept. carry: what the sampler remembers at the end.
    """

    x0: Float[Array, "b ..."]
    trajectory: Float[Array, "n b ..."] | None
    carry: Any


def prior(keys: Key[Array, " b"], like: Float[Array, "b ..."], sigma_max: Array, schedule: Schedule) -> Array:
    """Where a walk starts: x = prior_std z, z ~ N(0, 1), image i from its own key; of `like`'s shape and dtype."""
    return schedule.prior_std(sigma_max) * prior_noise(keys, like)


def prior_noise(keys: Key[Array, " b"], like: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """The z that a walk starts from, which is the same for every ladder and sampler."""
    return keylib.normal(keylib.named(keys, "prior"), like)


def scan(
    sampler: Sampler,
    denoise: Denoise,
    x: Float[Array, "b ..."],
    sigmas: Float[Array, " n"],
    cond: Cond,
    keys: Key[Array, " b"],
    *,
    project: Project | None = None,
    repeats: int = 1,
    keep_trajectory: bool = False,
) -> Walk:
    """Walk x along the ladder `sigmas` inside one compiled loop (lax.scan); the noise of rung i comes from
    fold_in(key, i).

    project: applied after each step, at the sigma it led to. repeats: how often each step is made, x being brought back
    up in between by sqrt(s^2 - s'^2) z, so that what `project` imposes and what the model draws come to agree (the
    resampling of RePaint). Both are for samplers without a memory, whose noise is the step's own. Memory does not grow
    with the number of rungs unless the trajectory is kept.
    """
    denoise_given = partial(_with_cond, denoise, cond)

    def rung(state, now):
        x, before = state
        index, sigma, sigma_next = now
        keys_here = keylib.folded(keys, index)

        def attempt(x, keys_now, *, is_repeat):
            if is_repeat:
                back_up = jnp.sqrt(jnp.maximum(sigma**2 - sigma_next**2, 0.0))
                x += back_up * keylib.normal(keylib.named(keys_now, "back up"), x)
            x, carry = sampler.step(denoise_given, before, x, sigma, sigma_next, keys_now)
            return (x if project is None else project(x, sigma_next, keylib.named(keys_now, "project"))), carry

        x, carry = attempt(x, keys_here, is_repeat=False)
        if repeats > 1:

            def again(state, number):
                return attempt(state[0], keylib.folded(keylib.named(keys_here, "repeat"), number), is_repeat=True), None

            (x, carry), _ = jax.lax.scan(again, (x, carry), jnp.arange(repeats - 1))
        return (x, carry), x if keep_trajectory else None

    rungs = (jnp.arange(len(sigmas) - 1), sigmas[:-1], sigmas[1:])
    (x_last, carry), visited = jax.lax.scan(rung, (x, sampler.init(x, keys)), rungs)
    return Walk(x_last, jnp.concatenate([x[None], visited]) if keep_trajectory else None, carry)


def _with_cond(denoise: Denoise, cond: Cond, x: Array, sigma: Array):
    return denoise(x, sigma, cond)

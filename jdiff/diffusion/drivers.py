"""Drivers: walk a ladder with a sampler; `scan` in one compiled loop, `step` a rung at a time, to be seen meanwhile."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jdiff.common import keys as keylib
from jdiff.diffusion.denoiser import Cond, Denoise, Denoised, Sigma
from jdiff.diffusion.samplers import Sampler
from jdiff.diffusion.schedules import Schedule


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
    keep_trajectory: bool = False,
) -> Walk:
    """Walk x along the ladder `sigmas` inside one compiled loop (lax.scan); the noise of rung i comes from
    fold_in(key, i). Memory does not grow with the number of rungs unless the trajectory is kept.

    Without a network: the posterior mean of pixels of N(1, 0), all of them 1, brings any noise to 1.

    >>> from jdiff.common.keys import image_keys
    >>> from jdiff.diffusion.denoiser import Denoised
    >>> from jdiff.diffusion.ladders import karras
    >>> from jdiff.diffusion.samplers import Heun
    >>> from jdiff.diffusion.schedules import EDM
    >>> def ones(x, sigma, cond, to=None):
    ...     return Denoised(jnp.ones_like(x), jnp.ones_like(x))
    >>> keys = image_keys(0, jnp.arange(2))
    >>> sigmas = jnp.asarray(karras(5, sigma_min=0.002, sigma_max=80.0), jnp.float32)
    >>> noise = prior(keys, jnp.zeros((2, 1, 1, 1)), sigmas[0], EDM())
    >>> scan(Heun(), ones, noise, sigmas, {}, keys).x0.ravel().tolist()
    [1.0, 1.0]
    """

    def rung(state, now):
        index, sigma, sigma_next = now
        x, carry = step(sampler, denoise, state, index, sigma, sigma_next, cond, keys)
        return (x, carry), x if keep_trajectory else None

    rungs = (jnp.arange(len(sigmas) - 1), sigmas[:-1], sigmas[1:])
    (x_last, carry), visited = jax.lax.scan(rung, (x, sampler.init(x, keys)), rungs)
    return Walk(x_last, jnp.concatenate([x[None], visited]) if keep_trajectory else None, carry)


def step(
    sampler: Sampler,
    denoise: Denoise,
    state: tuple[Float[Array, "b ..."], Any],
    index: Array,
    sigma: Sigma,
    sigma_next: Sigma,
    cond: Cond,
    keys: Key[Array, " b"],
) -> tuple[Float[Array, "b ..."], Any]:
    """(x, what the sampler remembers) after rung `index`, from sigma to sigma_next."""

    def conditioned(x: Float[Array, "b ..."], sigma: Sigma, to: Sigma | None = None) -> Denoised:
        return denoise(x, sigma, cond, to)

    x, carry = state
    return sampler.step(conditioned, carry, x, sigma, sigma_next, keylib.folded(keys, index))

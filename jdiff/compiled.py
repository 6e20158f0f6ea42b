"""What a model compiles: pure functions of (weights, settings, rows), jitted once for each form of these.

`rows` holds what belongs to single images, [B, ...] each: "indices" (the image's number, from which its randomness
follows), "cond", "scale" (of the guidance) and, where they are given, "noise", "image" and "mask".
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree
from tqdm import tqdm

from jdiff.common.keys import image_keys, named
from jdiff.common.pictures import to_float, to_uint8
from jdiff.diffusion import drivers, variational
from jdiff.diffusion.denoiser import Denoise
from jdiff.diffusion.likelihood import bits_per_dim, log_likelihood
from jdiff.diffusion.samplers import RePaint, Sampler
from jdiff.diffusion.schedules import Schedule
from jdiff.networks.attention import forward_differentiable
from jdiff.training import sharding

Guided = Callable[[Any, dict], Denoise]  # (weights, rows) -> the denoiser with its guidance


def walk(
    guided: Guided,
    solver: Sampler,
    schedule: Schedule,
    shape: tuple[int, int, int],
    mesh: Mesh,
    *,
    repeats: int = 1,
    keep_trajectory: bool = False,
    as_floats: bool = False,
) -> Callable:
    """(weights, seed, sigmas, rows) -> images uint8 (as_floats: near [-1, 1], as they are), trajectory uint8 or None,
    the denoiser's calls where the sampler counts them.

    Starts from rows["noise"] where given, scaled to the ladder's head; from rows["image"] with noise of the ladder's
    head (SDEdit; Meng et al., arXiv 2108.01073); else from the prior. Where rows["mask"] is false, rows["image"] stays:
    at every rung that part is the image with that rung's noise (RePaint; Lugmayr et al., arXiv 2201.09865).
    """

    @jax.jit
    def program(weights, seed, sigmas, rows):
        keys = image_keys(seed, rows["indices"])
        like = jax.lax.with_sharding_constraint(jnp.zeros((len(keys), *shape)), sharding.of_batch(mesh, len(keys)))
        image = to_float(rows["image"]) if "image" in rows else None
        if "noise" in rows:
            x = schedule.prior_std(sigmas[0]) * rows["noise"]
        elif image is not None and "mask" not in rows:
            x = image + sigmas[0] * drivers.prior_noise(keys, like)
        else:
            x = drivers.prior(keys, like, sigmas[0], schedule)

        sampler = solver
        if image is not None and "mask" in rows:
            sampler = RePaint(sampler=solver, image=image, mask=rows["mask"], repeats=repeats)
        walked = drivers.scan(
            sampler,
            guided(weights, rows),
            x,
            sigmas,
            rows["cond"],
            keys,
            keep_trajectory=keep_trajectory,
        )
        frames = to_uint8(seen(walked.trajectory, sigmas)) if keep_trajectory else None
        images = walked.x0 if as_floats else to_uint8(walked.x0)
        return images, frames, walked.carry if solver.nfe(1) is None else None

    return program


def seen(x: Any, sigmas: Array) -> Array:
    """x at each sigma scaled by 1/sqrt(1 + sigma^2), so that it can be looked at."""
    return x / jnp.sqrt(1 + sigmas**2).reshape(-1, *[1] * (x.ndim - 1))


def encode(guided: Guided, solver: Sampler, schedule: Schedule) -> Callable:
    """(weights, seed, rising sigmas, rows) -> the noise that leads to rows["image"], of unit variance: the probability
    flow walked upwards (Song et al., arXiv 2010.02502, section 5.4).
    """

    @jax.jit
    def program(weights, seed, sigmas, rows):
        keys = image_keys(seed, rows["indices"])
        x = to_float(rows["image"])
        walked = drivers.scan(solver, guided(weights, rows), x, sigmas, rows["cond"], keys)
        return walked.x0 / schedule.prior_std(sigmas[-1])

    return program


def ode_bits(guided: Guided, schedule: Schedule, *, exact: bool, rtol: float, atol: float) -> Callable:
    """(weights, seed, sigmas, rows) -> bits a pixel value of rows["image"] between the first sigma and the last."""

    @jax.jit
    def program(weights, seed, sigmas, rows):
        keys = image_keys(seed, rows["indices"])
        image = to_float(rows["image"])
        within = jax.vmap(lambda key: jax.random.uniform(key, image.shape[1:], minval=-0.5, maxval=0.5))
        x = image + within(named(keys, "dequantize")) / 127.5
        prior_std = schedule.prior_std(sigmas[-1])
        with forward_differentiable():
            nats = log_likelihood(
                guided(weights, rows),
                x,
                sigmas[0],
                sigmas[-1],
                prior_std,
                rows["cond"],
                named(keys, "probe"),
                exact=exact,
                rtol=rtol,
                atol=atol,
            )
        return bits_per_dim(nats, x[0].size)

    return program


def bound_bits(guided: Guided, schedule: Schedule) -> Callable:
    """(weights, seed, rising sigmas, rows) -> the variational bound on bits a pixel value of rows["image"]."""

    @jax.jit
    def program(weights, seed, sigmas, rows):
        keys, x0 = image_keys(seed, rows["indices"]), to_float(rows["image"])
        prior_std = schedule.prior_std(sigmas[-1])
        return variational.bound(guided(weights, rows), sigmas, prior_std, x0, rows["cond"], keys)

    return program


def in_batches(
    start: Callable[[PyTree], PyTree], rows: PyTree, count: int, size: int, mesh: Mesh, *, progress: bool = False
) -> Iterator[PyTree]:
    """start(batch) of `count` rows, `size` at a time, as NumPy arrays: batch has their "indices" beside what `rows` has
    for them, in turn where that is fewer. The last batch is filled up with rows to spare.
    """
    size += -size % mesh.size  # every device holds as many

    def started(first: int) -> PyTree:
        indices = np.arange(first, first + size, dtype=np.uint32)
        batch = jax.tree.map(lambda values: values[indices % len(values)], rows) | {"indices": indices}
        return start(jax.device_put(batch, sharding.of_batch(mesh)))

    # One batch ahead: the devices work while the host fetches.
    firsts = list(range(0, count, size))
    ahead = started(firsts[0])
    for following in tqdm([*firsts[1:], None], desc="sampling", unit="batch", disable=not progress, leave=False):
        now, ahead = ahead, None if following is None else started(following)
        yield jax.tree.map(_whole, now)


def _whole(array: Array) -> np.ndarray:
    """All rows, on every process."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)

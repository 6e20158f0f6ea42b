"""What a model compiles: pure functions of (weights, guidances, seed, sigmas, rows), once for each form of these.

`rows` holds what belongs to single images, [B, ...] each: "indices" (the image's number, from which its randomness
follows), "cond" and, where they are given, "noise", "image" and "mask".
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, PyTree, UInt
from tqdm import tqdm

from jdiff.common.errors import DrawingError, UserError, is_out_of_memory
from jdiff.common.keys import image_keys, named, wrapped
from jdiff.diffusion import drivers, variational
from jdiff.diffusion.denoiser import Denoised
from jdiff.diffusion.guidance import Guidance, guided
from jdiff.diffusion.likelihood import bits_per_dim, log_likelihood
from jdiff.diffusion.samplers import RePaint, Sampler
from jdiff.networks.attention import forward_differentiable
from jdiff.spaces import Latents, Masks, Space
from jdiff.spaces.first_stage import FirstStage
from jdiff.tasks import Weights
from jdiff.tasks.autoencoder import AutoencoderTask
from jdiff.tasks.classifier import ClassifierTask
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.tasks.elbo import bits_per_dim as elbo_bits
from jdiff.tasks.segmentation import SegmentationTask
from jdiff.training import sharding

Guidances = tuple[Guidance, ...]
BEYOND_ALL = 1e6  # images lie in [-1, 1]: values so large are a failure, too


@dataclass(frozen=True, eq=False)
class Coding:
    """Programs of latents of `shape`: features(weights, {"image"}) -> what the encoder says, encode(weights, {"image"})
    -> latents, decode(weights, {"latent"}) -> images.
    """

    shape: tuple[int, int, int]
    features: Callable[[Weights, PyTree], Array]
    encode: Callable[[Weights, PyTree], Array]
    decode: Callable[[Weights, PyTree], Array]


def features_first(space: Space, mesh: Mesh, rows: int, parts: int) -> Callable[[Weights, PyTree], PyTree]:
    """(weights, batch) -> the batch with what an autoencoder says of its images in place of these, by a program of its
    own of `rows` images in `parts`, so that training is the same to the bit where that was prepared. In pixels the
    batch itself.
    """
    if not isinstance(space, Latents):
        return lambda weights, batch: batch
    of_batch = partial(space.features, rows=rows, parts=parts)
    features = jax.jit(of_batch, out_shardings=sharding.of_batch(mesh))
    replicated = jax.jit(of_batch, out_shardings=sharding.replicated(mesh))

    def first(weights: Weights, batch: PyTree) -> PyTree:
        images = batch["x0"]
        if images.dtype == jnp.float16:
            return batch
        return {**batch, "x0": (replicated if len(images) % mesh.size else features)(weights, images)}

    return first


def coding_of_space(space: Latents) -> Coding:
    """The programs of a space of latents."""
    return Coding(
        shape=space.shape,
        features=jax.jit(lambda weights, rows: space.features(weights, rows["image"])),
        encode=jax.jit(lambda weights, rows: space.encode(weights, rows["image"], None)),
        decode=jax.jit(lambda weights, rows: space.decode(weights, rows["latent"])),
    )


def elbo(stage: FirstStage, weights: Weights, rows: PyTree, *, samples: int) -> Array:
    """Bits a pixel value of rows["image"], at most, with the randomness of rows["key"]."""
    return elbo_bits(stage, weights, rows["image"], wrapped(rows["key"]), samples)


def coding_of_autoencoder(stage: FirstStage) -> Coding:
    """The programs of an autoencoder by itself."""
    values, features = stage.pixels.values, lambda weights, rows: stage.features(weights, rows["image"])
    return Coding(
        shape=stage.shape,
        features=jax.jit(features),
        encode=jax.jit(lambda weights, rows: stage.latents(features(weights, rows), None)),
        decode=jax.jit(lambda weights, rows: values.from_model(stage.decode(weights, rows["latent"]))),
    )


class Compiled:
    """The programs of a task on a mesh. Numbers, weights and rows are traced; a sampler and the form of guidances are
    what a program is compiled for.
    """

    def __init__(self, task: Any, mesh: Mesh):
        self.coding: Coding | None = None
        if isinstance(task, ClassifierTask):
            self.classify = jax.jit(task.classify)
            return
        if isinstance(task, AutoencoderTask):
            self.coding = coding_of_autoencoder(task.first_stage)
            self.elbo = jax.jit(partial(elbo, task.first_stage), static_argnames="samples")
            return
        if isinstance(task, SegmentationTask):
            self.segment = jax.jit(partial(classes_told, task), static_argnames="dropout")
            return
        if isinstance(task.space, Latents):
            self.coding = coding_of_space(task.space)
        if isinstance(task.space, Masks):
            self.segment = jax.jit(partial(classes_drawn, task, mesh), static_argnames="sampler")
        self.encode = jax.jit(lambda weights, images: task.space.encode(weights, images, None))
        self.denoise = jax.jit(partial(denoised, task))
        self.show = jax.jit(lambda weights, x: shown(task.space, task.space.decode(weights, x)))
        of_walk = ("sampler", "repeats", "keep_trajectory")
        self.walk = jax.jit(partial(walk, task, mesh), static_argnames=of_walk)
        self.begin = jax.jit(partial(begin, task, mesh), static_argnames="sampler")
        self.step = jax.jit(partial(step, task), static_argnames="sampler")
        self.invert = jax.jit(partial(invert, task), static_argnames="sampler")
        self.ode_bits = jax.jit(partial(ode_bits, task), static_argnames=("exact", "rtol", "atol"))
        self.bound_bits = jax.jit(partial(bound_bits, task))


def denoised(
    task: DiffusionTask,
    weights: Weights,
    guidances: Guidances,
    x: Array,
    sigma: Array,
    cond: PyTree,
    to: Array | None = None,
) -> Denoised:
    """D(x, sigma, to), guided."""
    return guided(task.denoiser(weights), guidances)(x, sigma, cond, to)


def walk(
    task: DiffusionTask,
    mesh: Mesh,
    weights: Weights,
    guidances: Guidances,
    seed: Array,
    sigmas: Array,
    rows: PyTree,
    *,
    sampler: Sampler,
    repeats: int = 1,
    keep_trajectory: bool = False,
) -> tuple[Array, Array | None, Bool[Array, " b"], Array | None]:
    """(images in the data's dtype and range; trajectory uint8 or None; whether each image's values are finite; denoiser
    calls where the sampler counts them).

    Starts from rows["noise"] where given, scaled to the ladder's head; from rows["image"] with noise of the ladder's
    head (SDEdit; Meng et al., arXiv 2108.01073); else from the prior. Where rows["mask"] is false, rows["image"] stays
    (RePaint).
    """
    keys, space, schedule = image_keys(seed, rows["indices"]), task.space, task.parameterization.schedule
    like = _like(space, mesh, len(keys))
    image = space.encode(weights, rows["image"], None) if "image" in rows else None
    solver = sampler
    if "noise" in rows:
        x = schedule.prior_std(sigmas[0]) * rows["noise"]
    elif image is None:
        x = drivers.prior(keys, like, sigmas[0], schedule)
    elif "mask" in rows:
        x = drivers.prior(keys, like, sigmas[0], schedule)
        solver = RePaint(sampler=sampler, image=image, mask=space.mask(rows["mask"]), repeats=repeats)
    else:
        x = image + sigmas[0] * drivers.prior_noise(keys, like)
    denoise = guided(task.denoiser(weights), guidances)
    walked = drivers.scan(solver, denoise, x, sigmas, rows["cond"], keys, keep_trajectory=keep_trajectory)
    frames = None
    if keep_trajectory:
        rung = lambda x: shown(space, space.decode(weights, x))  # noqa: E731
        frames = jax.lax.map(rung, seen(walked.trajectory, sigmas))  # one at a time: a decoder may take much memory
    images = space.decode(weights, walked.x0)
    if "mask" in rows:  # a decoder alone would change what is kept, too
        images = jnp.where(rows["mask"], images, space.values.from_model(space.values.to_model(rows["image"])))
    return images, frames, _finite(walked.x0), walked.carry if sampler.nfe(1) is None else None


def begin(
    task: DiffusionTask, mesh: Mesh, seed: Array, sigma: Array, rows: PyTree, *, sampler: Sampler
) -> tuple[Array, Any]:
    """The state that a walk from the prior starts in: (x, what the sampler remembers)."""
    keys = image_keys(seed, rows["indices"])
    x = drivers.prior(keys, _like(task.space, mesh, len(keys)), sigma, task.parameterization.schedule)
    return x, sampler.init(x, keys)


def step(
    task: DiffusionTask,
    weights: Weights,
    guidances: Guidances,
    seed: Array,
    index: Array,
    sigma: Array,
    sigma_next: Array,
    state: tuple[Array, Any],
    rows: PyTree,
    *,
    sampler: Sampler,
) -> tuple[tuple[Array, Any], Array, Bool[Array, " b"]]:
    """(the state after rung `index`, from sigma to sigma_next; its x as a picture, uint8; whether each image's values
    are finite): one turn of `walk`.
    """
    keys, denoise = image_keys(seed, rows["indices"]), guided(task.denoiser(weights), guidances)
    state = drivers.step(sampler, denoise, state, index, sigma, sigma_next, rows["cond"], keys)
    x = seen(state[0], sigma_next)
    return state, shown(task.space, task.space.decode(weights, x)), _finite(x)


def classes_drawn(
    task: DiffusionTask,
    mesh: Mesh,
    weights: Weights,
    guidances: Guidances,
    seed: Array,
    sigmas: Array,
    rows: PyTree,
    *,
    sampler: Sampler,
) -> tuple[Array, Bool[Array, " b"]]:
    """(the classes' probabilities [B, h, w, classes] in a mask that is drawn, whether its values are finite).

    A mask's randomness follows from rows["number"].
    """
    keys, space = image_keys(seed, rows["number"]), task.space
    assert isinstance(space, Masks)
    x = drivers.prior(keys, _like(space, mesh, len(keys)), sigmas[0], task.parameterization.schedule)
    walked = drivers.scan(sampler, guided(task.denoiser(weights), guidances), x, sigmas, rows["cond"], keys)
    return space.probabilities(walked.x0), _finite(walked.x0)


def classes_told(
    task: SegmentationTask, weights: Weights, seed: Array, rows: PyTree, *, dropout: bool
) -> tuple[Array, Bool[Array, " b"]]:
    """The same of a network that tells them at once. dropout: whether what it leaves out is drawn as in training, by
    rows["number"] (Gal and Ghahramani, arXiv 1506.02142).
    """
    if not dropout:
        ln_p = task.ln_probabilities(weights, rows["cond"])
    else:
        keys = image_keys(seed, rows["number"])
        one = lambda key, cond: task.ln_probabilities(weights, jax.tree.map(lambda v: v[None], cond), key)[0]  # noqa: E731
        ln_p = jax.vmap(one)(keys, rows["cond"])
    return jnp.exp(ln_p), _finite(ln_p)


def _like(space: Space, mesh: Mesh, rows: int) -> Array:
    """Zeros of x's shape, as a batch lies on the mesh."""
    return jax.lax.with_sharding_constraint(jnp.zeros((rows, *space.shape)), sharding.of_batch(mesh, rows))


def _finite(x: Array) -> Bool[Array, " b"]:
    return (jnp.abs(x) < BEYOND_ALL).all(axis=tuple(range(1, x.ndim)))


def invert(
    task: DiffusionTask,
    weights: Weights,
    guidances: Guidances,
    seed: Array,
    sigmas: Array,
    rows: PyTree,
    *,
    sampler: Sampler,
) -> Array:
    """The noise that leads to rows["image"], of unit variance: the probability flow walked up the rising sigmas (Song
    et al., arXiv 2010.02502, section 5.4).
    """
    keys, x = image_keys(seed, rows["indices"]), task.space.encode(weights, rows["image"], None)
    denoise = guided(task.denoiser(weights), guidances)
    walked = drivers.scan(sampler, denoise, x, sigmas, rows["cond"], keys)
    return walked.x0 / task.parameterization.schedule.prior_std(sigmas[-1])


def ode_bits(
    task: DiffusionTask,
    weights: Weights,
    guidances: Guidances,
    seed: Array,
    sigmas: Array,
    rows: PyTree,
    *,
    exact: bool,
    rtol: float,
    atol: float,
) -> Array:
    """Bits a pixel value of rows["image"], along the probability flow between the first sigma and the last."""
    keys, image = image_keys(seed, rows["indices"]), task.space.encode(weights, rows["image"], None)
    within = jax.vmap(lambda key: jax.random.uniform(key, image.shape[1:], minval=-0.5, maxval=0.5))
    half_level = task.space.values.half_level
    x = image + within(named(keys, "dequantize")) / (0.5 / half_level)
    with forward_differentiable():
        nats = log_likelihood(
            guided(task.denoiser(weights), guidances),
            x,
            sigmas[0],
            sigmas[-1],
            task.parameterization.schedule.prior_std(sigmas[-1]),
            rows["cond"],
            named(keys, "probe"),
            exact=exact,
            rtol=rtol,
            atol=atol,
        )
    return bits_per_dim(nats, x[0].size, half_level)


def bound_bits(
    task: DiffusionTask, weights: Weights, guidances: Guidances, seed: Array, sigmas: Array, rows: PyTree
) -> Array:
    """The variational bound on bits a pixel value of rows["image"], over the rising sigmas."""
    keys, x0 = image_keys(seed, rows["indices"]), task.space.encode(weights, rows["image"], None)
    denoise = guided(task.denoiser(weights), guidances)
    prior_std = task.parameterization.schedule.prior_std(sigmas[-1])
    return variational.bound(denoise, sigmas, prior_std, x0, rows["cond"], keys, task.space.values.half_level)


def seen(x: Any, sigmas: Any) -> Any:
    """x at a sigma, or at each of several, scaled by 1/sqrt(1 + sigma^2), so that it can be looked at."""
    scale = jnp.sqrt(1 + jnp.square(sigmas))
    return x / scale.reshape(*jnp.shape(sigmas), *[1] * (x.ndim - jnp.ndim(sigmas)))


def shown(space: Space, images: Any) -> Any:
    """Images as they are on a screen, uint8, whatever the data's range."""
    return space.values.on_screen(images)


def batch_of(rows: PyTree, indices: UInt[np.ndarray, " b"], mesh: Mesh) -> PyTree:
    """What `rows` has for these numbers, in turn where that is fewer, and their "indices", on the mesh."""
    batch = jax.tree.map(lambda values: values[indices % len(values)], rows) | {"indices": indices}
    return jax.device_put(batch, sharding.of_batch(mesh))


def in_batches(
    start: Callable[[PyTree], PyTree],
    rows: PyTree,
    numbers: range,
    size: int,
    mesh: Mesh,
    *,
    progress: str = "",
) -> Iterator[tuple[Int[np.ndarray, " b"], PyTree]]:
    """(indices, start(batch)) for the rows of these numbers, `size` at a time, as NumPy arrays: batch has their
    "indices" beside what `rows` has for them, in turn where that is fewer. The last batch is filled up with rows to
    spare. progress: the bar's name, if there is to be one.

    Where memory runs out, the size is halved and a warning says so; DrawingError where there is nothing left to halve.
    One of several processes raises UserError at once: the others, who know nothing of it, wait for its part.
    """
    size += -size % mesh.size  # every device holds as many
    at, ahead = numbers.start, None

    def started(first: int) -> PyTree:
        return start(batch_of(rows, np.arange(first, first + size, dtype=np.uint32), mesh))

    with tqdm(total=len(numbers), desc=progress, unit="image", disable=not progress, leave=False) as bar:
        while at < numbers.stop:
            try:
                now, ahead = started(at) if ahead is None else ahead, None
                if at + size < numbers.stop:  # one batch ahead: the devices work while the host fetches
                    ahead = started(at + size)
                done = jax.tree.map(sharding.whole, now)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                now = ahead = None
                size = _smaller(size, mesh, error)
                continue
            indices = np.arange(at, min(at + size, numbers.stop))
            at += size
            yield indices, done
            bar.update(len(indices))


def _smaller(size: int, mesh: Mesh, error: Exception) -> int:
    """About half of `size`."""
    half, alone = size // 2 // mesh.size * mesh.size, jax.process_count() == 1
    if not half:
        raise (DrawingError if alone else UserError)(
            f"out of memory, even for {size} images at a time: end what else uses the device's memory, or take a "
            "larger device"
        ) from error
    if not alone:
        raise UserError(f"out of memory for {size} images at a time: set sample.batch_size={half}") from error
    warnings.warn(
        f"out of memory for {size} images at a time; going on with {half}; set sample.batch_size={half}",
        stacklevel=2,
    )
    return half

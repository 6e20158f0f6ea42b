"""Guidances: a denoiser made from a denoiser, guidance(denoise) -> denoise, so that they compose."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jdiff.common.arrays import per_image
from jdiff.diffusion.denoiser import Cond, Denoise, Denoised, Sigma

LogProbability: TypeAlias = Callable[[Array, Array, Cond], Array]  # (x [B, ...], sigma [B] or scalar, cond) -> ln p [B]


@runtime_checkable
class Guidance(Protocol):
    """A frozen dataclass and a pytree: its numbers are leaves, which a compiled program takes as they come; its other
    fields are static. passes: network passes of one call of the denoiser that it makes.
    """

    @property
    def passes(self) -> int: ...

    def __call__(self, denoise: Denoise) -> Denoise: ...


def guided(denoise: Denoise, guidances: Sequence[Guidance]) -> Denoise:
    """`denoise` with the guidances applied in order, the first one innermost."""
    for guidance in guidances:
        denoise = guidance(denoise)
    return denoise


@struct.dataclass
class ClassifierFree:
    """D = w D_cond + (1 - w) D_uncond (Ho & Salimans, arXiv 2207.12598, whose omega is w - 1), exact at w = 0 and 1.

    scale: w, a number or one per image. rescale: phi in D <- phi std(D_cond) / std(D) D + (1 - phi) D, the standard
    deviation over each image (Lin et al., arXiv 2305.08891, eq. 15-16, on D); None: not rescaled. conditions: the names
    that D_uncond lacks; (): all. D_cond and D_uncond come from one call on twice the batch.
    """

    scale: Any
    rescale: Any = None
    conditions: tuple[str, ...] = struct.field(pytree_node=False, default=())
    passes: ClassVar[int] = 2

    def __call__(self, denoise: Denoise) -> Denoise:
        def guided(x: Float[Array, "b ..."], sigma: Sigma, cond: Cond, to: Sigma | None = None) -> Denoised:
            conditional, unconditional = _both(denoise, x, sigma, cond, to, self.conditions)
            return _mixed(conditional, unconditional, self.scale, self.rescale)

        return guided


@struct.dataclass
class CFGPlusPlus:
    """D = w D_cond + (1 - w) D_uncond with 0 <= w <= 1, the step's direction from D_uncond (Chung et al., arXiv
    2406.08070, algorithm 2, whose lambda is w). For samplers of first order.

    scale: w, a number or one per image. conditions: the names that D_uncond lacks; (): all.
    """

    scale: Any
    conditions: tuple[str, ...] = struct.field(pytree_node=False, default=())
    passes: ClassVar[int] = 2

    def __call__(self, denoise: Denoise) -> Denoise:
        def guided(x: Float[Array, "b ..."], sigma: Sigma, cond: Cond, to: Sigma | None = None) -> Denoised:
            conditional, unconditional = _both(denoise, x, sigma, cond, to, self.conditions)
            return replace(_mixed(conditional, unconditional, self.scale, None), x0_dir=unconditional.x0_dir)

        return guided


GUIDANCE_SCALE = "guidance_scale"  # in cond: w of a guidance that is trained in, [B]


@struct.dataclass
class TrainedIn:
    """A guidance of which the network learned the answer, w being an input (Meng et al., arXiv 2210.03142): one pass.

    scale: w, a number or one per image.
    """

    scale: Any
    passes: ClassVar[int] = 1

    def __call__(self, denoise: Denoise) -> Denoise:
        def guided(x: Float[Array, "b ..."], sigma: Sigma, cond: Cond, to: Sigma | None = None) -> Denoised:
            scale = jnp.broadcast_to(jnp.asarray(self.scale, x.dtype), x.shape[:1])
            return denoise(x, sigma, {**cond, GUIDANCE_SCALE: scale}, to)

        return guided


@struct.dataclass
class Autoguidance:
    """D = w D_strong + (1 - w) D_weak, both conditional: away from a worse model's errors (Karras et al., arXiv
    2406.02507, eq. 3).

    scale: w, a number or one per image. weak: a denoiser that is a pytree. rescale: as in ClassifierFree.
    """

    scale: Any
    weak: Any
    rescale: Any = None
    passes: ClassVar[int] = 2

    def __call__(self, denoise: Denoise) -> Denoise:
        def guided(x: Float[Array, "b ..."], sigma: Sigma, cond: Cond, to: Sigma | None = None) -> Denoised:
            return _mixed(denoise(x, sigma, cond, to), self.weak(x, sigma, cond, to), self.scale, self.rescale)

        return guided


@struct.dataclass
class ClassifierGuidance:
    """D + w sigma^2 grad_x ln p(condition | x), as score = (D - x) / sigma^2 (Dhariwal & Nichol, arXiv 2105.05233,
    section 4).

    scale: w, a number or one per image. log_probability: (x, sigma, cond) -> ln p [B], a pytree. of_denoised: it reads
    D(x, sigma) in place of x, as a classifier of clean images must; the gradient goes through D.
    """

    scale: Any
    log_probability: Any
    of_denoised: bool = struct.field(pytree_node=False, default=True)
    passes: ClassVar[int] = 2

    def __call__(self, denoise: Denoise) -> Denoise:
        def guided(x: Float[Array, "b ..."], sigma: Sigma, cond: Cond, to: Sigma | None = None) -> Denoised:
            def total(x):
                image = denoise(x, sigma, cond, to).x0 if self.of_denoised else x
                return jnp.sum(self.log_probability(image, sigma, cond))

            push = jax.grad(total)(x)
            strength = per_image(jnp.asarray(self.scale, x.dtype) * jnp.asarray(sigma, x.dtype) ** 2, x)
            return _changed(denoise(x, sigma, cond, to), lambda d: d + strength * push)

        return guided


@struct.dataclass
class Interval:
    """A guidance where low < sigma <= high alone (Kynkaanniemi et al., arXiv 2404.07724, eq. 6).

    Where sigma is one number for all images, only the denoiser that counts is called.
    """

    guidance: Any
    low: Any
    high: Any

    @property
    def passes(self) -> int:
        return self.guidance.passes

    def __call__(self, denoise: Denoise) -> Denoise:
        inner = self.guidance(denoise)

        def guided(x: Float[Array, "b ..."], sigma: Sigma, cond: Cond, to: Sigma | None = None) -> Denoised:
            sigma = jnp.asarray(sigma, x.dtype)
            inside = (sigma > self.low) & (sigma <= self.high)
            if not sigma.ndim:
                return jax.lax.cond(inside, lambda: inner(x, sigma, cond, to), lambda: denoise(x, sigma, cond, to))
            here = per_image(inside, x)
            within, outside = inner(x, sigma, cond, to), denoise(x, sigma, cond, to)
            return jax.tree.map(lambda a, b: jnp.where(here, a, b), within, outside)

        return guided


@struct.dataclass
class StaticThreshold:
    """D clipped to [low, high], the range of the data; the step's direction follows."""

    low: float = struct.field(pytree_node=False, default=-1.0)
    high: float = struct.field(pytree_node=False, default=1.0)
    passes: ClassVar[int] = 1

    def __call__(self, denoise: Denoise) -> Denoise:
        def guided(x: Float[Array, "b ..."], sigma: Sigma, cond: Cond, to: Sigma | None = None) -> Denoised:
            return _changed(denoise(x, sigma, cond, to), lambda d: jnp.clip(d, self.low, self.high))

        return guided


@struct.dataclass
class DynamicThreshold:
    """D clipped to [-s, s] and divided by s = max(1, the quantile of |D| in each image) (Saharia et al., arXiv
    2205.11487, section 2.3).
    """

    quantile: Any = 0.995
    passes: ClassVar[int] = 1

    def __call__(self, denoise: Denoise) -> Denoise:
        def threshold(d: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
            s = jnp.maximum(1.0, jnp.quantile(jnp.abs(d.reshape(d.shape[0], -1)), self.quantile, axis=1))
            s = per_image(s, d)
            return jnp.clip(d, -s, s) / s

        def guided(x: Float[Array, "b ..."], sigma: Sigma, cond: Cond, to: Sigma | None = None) -> Denoised:
            return _changed(denoise(x, sigma, cond, to), threshold)

        return guided


def dropping(cond: Cond, drop: Array, conditions: tuple[str, ...] = ()) -> dict:
    """`cond` with these conditions, (): all, replaced by the learned null in the rows where `drop` [B] is true."""
    names = [name for name in cond if name != "drop" and (not conditions or name in conditions)]
    already = cond.get("drop", {})
    now = {name: already[name] | drop if name in already else drop for name in names}
    return {**cond, "drop": {**already, **now}}


def _both(
    denoise: Denoise, x: Array, sigma: Array, cond: Cond, to: Array | None, conditions: tuple[str, ...]
) -> tuple[Denoised, Denoised]:
    """(D_cond, D_uncond), by one call on twice the batch."""
    # Each image stands beside its twin (a b -> a a b b): where the batch is sharded, twins share a device.
    twice = jnp.tile(jnp.array([False, True]), x.shape[0])
    rows = (
        x,
        jnp.broadcast_to(sigma, x.shape[:1]),
        dict(cond),
        None if to is None else jnp.broadcast_to(to, x.shape[:1]),
    )
    x_both, sigma_both, cond_both, to_both = jax.tree.map(lambda a: jnp.repeat(a, 2, axis=0), rows)
    both = denoise(x_both, sigma_both, dropping(cond_both, twice, conditions), to_both)
    return jax.tree.map(lambda d: d[0::2], both), jax.tree.map(lambda d: d[1::2], both)


def _mixed(right: Denoised, wrong: Denoised, scale: Any, rescale: Any) -> Denoised:
    """w right + (1 - w) wrong, brought towards right's standard deviation over the image by phi."""
    x = right.x0
    w = per_image(jnp.asarray(scale, x.dtype), x)

    def mix(a, b):
        mixed = w * a + (1 - w) * b
        if rescale is None:
            return mixed
        over = tuple(range(1, x.ndim))
        ratio = jnp.std(a, axis=over, keepdims=True) / jnp.maximum(jnp.std(mixed, axis=over, keepdims=True), 1e-12)
        return (rescale * ratio + (1 - rescale)) * mixed

    return Denoised(x0=mix(right.x0, wrong.x0), x0_dir=mix(right.x0_dir, wrong.x0_dir), variance=right.variance)


def _changed(denoised: Denoised, change: Callable[[Array], Array]) -> Denoised:
    return replace(denoised, x0=change(denoised.x0), x0_dir=change(denoised.x0_dir))

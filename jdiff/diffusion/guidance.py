"""Guidance: a denoiser made from denoisers, guide(denoise) -> denoise, so that guidances compose.

With w the scale (a number or one per image, traced), D_c the conditional answer and D_u the one without condition:

    classifier_free   D = w D_c + (1 - w) D_u, w = 0 unconditional, 1 conditional, > 1 guided
      rescaled        D <- phi std(D_c) / std(D) D + (1 - phi) D
    cfg_plus_plus     D = w D_c + (1 - w) D_u, 0 <= w <= 1, and D_u gives the step's direction
    autoguidance      D = w D_strong + (1 - w) D_weak
    classifier        D = D_c + w sigma^2 grad_x ln p(condition | x)
    interval          one denoiser where low < sigma <= high, another elsewhere
    static_clip       D clipped to [low, high]
    dynamic_threshold D clipped to its own quantile s >= 1 and divided by it
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.common.arrays import per_image
from jdiff.diffusion.denoiser import Cond, Denoise, Denoised

LogProbability = Callable[[Array, Array, Cond], Array]  # (x [B, ...], sigma [B] or scalar, cond) -> ln p [B]


def classifier_free(
    denoise: Denoise,
    scale: Float[Array, "*b"],
    *,
    rescale: float | Float[Array, ""] = 0.0,
    conditions: tuple[str, ...] = (),
) -> Denoise:
    """D = w D_cond + (1 - w) D_uncond (Ho & Salimans, arXiv 2207.12598, whose omega is w - 1).

    In this form w = 0 and w = 1 are exact in floating point. rescale: phi (Lin et al., arXiv 2305.08891, eq. 15-16, on
    D). conditions: those that the image is guided towards, the others being given to D_uncond too; (): all. Both halves
    go through the network in one call.
    """

    def guided(x: Float[Array, "b ..."], sigma: Float[Array, "*b"], cond: Cond) -> Denoised:
        with_cond, without = _both(denoise, x, sigma, cond, conditions)
        return _mixed(with_cond, without, scale, rescale)

    return guided


def cfg_plus_plus(denoise: Denoise, scale: Float[Array, "*b"], *, conditions: tuple[str, ...] = ()) -> Denoise:
    """As classifier_free with w (lambda in the paper) in [0, 1], but the step's direction is taken from the
    unconditional answer (Chung et al., arXiv 2406.08070, algorithm 2). For samplers of first order.
    """

    def guided(x: Float[Array, "b ..."], sigma: Float[Array, "*b"], cond: Cond) -> Denoised:
        with_cond, without = _both(denoise, x, sigma, cond, conditions)
        return replace(_mixed(with_cond, without, scale, 0.0), x0_dir=without.x0_dir)

    return guided


def autoguidance(
    denoise: Denoise, weak: Denoise, scale: Float[Array, "*b"], *, rescale: float | Float[Array, ""] = 0.0
) -> Denoise:
    """D = w D_strong + (1 - w) D_weak, both conditional: away from a worse model's mistakes (Karras et al., arXiv
    2406.02507, eq. 3).
    """

    def guided(x: Float[Array, "b ..."], sigma: Float[Array, "*b"], cond: Cond) -> Denoised:
        return _mixed(denoise(x, sigma, cond), weak(x, sigma, cond), scale, rescale)

    return guided


def classifier(denoise: Denoise, log_probability: LogProbability, scale: Float[Array, "*b"]) -> Denoise:
    """D + w sigma^2 grad_x ln p(condition | x), as score = (D - x) / sigma^2 (Dhariwal & Nichol, arXiv 2105.05233,
    section 4).
    """

    def guided(x: Float[Array, "b ..."], sigma: Float[Array, "*b"], cond: Cond) -> Denoised:
        push = jax.grad(lambda x: jnp.sum(log_probability(x, sigma, cond)))(x)
        strength = per_image(jnp.asarray(scale, x.dtype) * jnp.asarray(sigma, x.dtype) ** 2, x)
        return _changed(denoise(x, sigma, cond), lambda d: d + strength * push)

    return guided


def interval(guided: Denoise, plain: Denoise, low: float | Float[Array, ""], high: float | Float[Array, ""]) -> Denoise:
    """`guided` where low < sigma <= high, `plain` elsewhere (Kynkaanniemi et al., arXiv 2404.07724, eq. 6).

    Where sigma is one number for all images, only the one that counts is computed.
    """

    def limited(x: Float[Array, "b ..."], sigma: Float[Array, "*b"], cond: Cond) -> Denoised:
        sigma = jnp.asarray(sigma, x.dtype)
        inside = (sigma > low) & (sigma <= high)
        if not sigma.ndim:
            return jax.lax.cond(inside, lambda: guided(x, sigma, cond), lambda: plain(x, sigma, cond))
        here = per_image(inside, x)
        return jax.tree.map(lambda a, b: jnp.where(here, a, b), guided(x, sigma, cond), plain(x, sigma, cond))

    return limited


def static_clip(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """D clipped to the range of the data; the step's direction follows."""

    def clipped(x: Float[Array, "b ..."], sigma: Float[Array, "*b"], cond: Cond) -> Denoised:
        return _changed(denoise(x, sigma, cond), lambda d: jnp.clip(d, low, high))

    return clipped


def dynamic_threshold(denoise: Denoise, quantile: float | Float[Array, ""] = 0.995) -> Denoise:
    """s = max(1, that quantile of |D| in each image); D clipped to [-s, s] and divided by s (Saharia et al., arXiv
    2205.11487, section 2.3).
    """

    def threshold(d: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        s = jnp.maximum(1.0, jnp.quantile(jnp.abs(d.reshape(d.shape[0], -1)), quantile, axis=1))
        s = per_image(s, d)
        return jnp.clip(d, -s, s) / s

    def thresholded(x: Float[Array, "b ..."], sigma: Float[Array, "*b"], cond: Cond) -> Denoised:
        return _changed(denoise(x, sigma, cond), threshold)

    return thresholded


def dropping(cond: Cond, drop: Array, conditions: tuple[str, ...] = ()) -> dict:
    """`cond` with these conditions (by default all) dropped, for the learned null, in the rows where `drop` [B] is
    true.
    """
    names = [name for name in cond if name != "drop" and (not conditions or name in conditions)]
    already = cond.get("drop", {})
    now = {name: already[name] | drop if name in already else drop for name in names}
    return {**cond, "drop": {**already, **now}}


def _both(
    denoise: Denoise, x: Array, sigma: Array, cond: Cond, conditions: tuple[str, ...]
) -> tuple[Denoised, Denoised]:
    """(with the conditions, without them), through the network in one call."""
    # Each image stands beside its twin (a b -> a a b b): where the batch is sharded, twins share a device.
    twice = jnp.tile(jnp.array([False, True]), x.shape[0])
    sigmas = jnp.broadcast_to(sigma, x.shape[:1])
    x_both, sigma_both, cond_both = jax.tree.map(lambda a: jnp.repeat(a, 2, axis=0), (x, sigmas, dict(cond)))
    both = denoise(x_both, sigma_both, dropping(cond_both, twice, conditions))
    return jax.tree.map(lambda d: d[0::2], both), jax.tree.map(lambda d: d[1::2], both)


def _mixed(right: Denoised, wrong: Denoised, scale: Array, rescale: float | Array) -> Denoised:
    """w right + (1 - w) wrong, brought towards right's standard deviation over the image by phi."""
    x = right.x0
    w = per_image(jnp.asarray(scale, x.dtype), x)

    def mix(a, b):
        mixed = w * a + (1 - w) * b
        if isinstance(rescale, (int, float)) and rescale == 0:
            return mixed
        over = tuple(range(1, x.ndim))
        ratio = jnp.std(a, axis=over, keepdims=True) / jnp.maximum(jnp.std(mixed, axis=over, keepdims=True), 1e-12)
        return (rescale * ratio + (1 - rescale)) * mixed

    return Denoised(x0=mix(right.x0, wrong.x0), x0_dir=mix(right.x0_dir, wrong.x0_dir), variance=right.variance)


def _changed(denoised: Denoised, change: Callable[[Array], Array]) -> Denoised:
    return replace(denoised, x0=change(denoised.x0), x0_dir=change(denoised.x0_dir))

"""Guidance: a denoiser made from denoisers, guide(denoise) -> denoise, so that guidances compose."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.diffusion.denoiser import Cond, Denoise, Denoised, per_image


def classifier_free(denoise: Denoise, scale: Float[Array, "*b"]) -> Denoise:
    """D = w D_cond + (1 - w) D_uncond: w = 0 unconditional, 1 conditional, > 1 guided.

    `scale` is w: traced, one number or one per image. The paper's omega is w - 1 (Ho & Salimans, arXiv 2207.12598). In
    this form w = 0 and w = 1 are exact in floating point. Both halves go through the network in one call.
    """

    def guided(x: Float[Array, "b ..."], sigma: Float[Array, "*b"], cond: Cond) -> Denoised:
        # Each image stands beside its twin (a b -> a a b b): where the batch is sharded, twins share a device.
        twice = jnp.tile(jnp.array([False, True]), x.shape[0])
        sigmas = jnp.broadcast_to(sigma, x.shape[:1])
        x_both, sigma_both, cond_both = jax.tree.map(lambda a: jnp.repeat(a, 2, axis=0), (x, sigmas, dict(cond)))
        both = denoise(x_both, sigma_both, dropping(cond_both, twice))
        w = per_image(jnp.asarray(scale, x.dtype), x)
        return jax.tree.map(lambda d: w * d[0::2] + (1 - w) * d[1::2], both)

    return guided


def dropping(cond: Cond, drop: Array) -> dict:
    """`cond` with every condition dropped (for the learned null) in the rows where `drop` [B] is true."""
    names = [name for name in cond if name != "drop"]
    already = cond.get("drop", {})
    return {**cond, "drop": {name: already[name] | drop if name in already else drop for name in names}}

"""The denoiser: the posterior mean D(x, sigma) = E[x0 | x], all that samplers ever see of a model.

Conditions travel as one dictionary, `cond`: {"label": [B]} and so on. `cond["drop"]`, where it is there, holds a
boolean [B] for each condition's name: true rows get the learned null in place of their condition.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jdiff.diffusion.parameterization import Parameterization

Cond: TypeAlias = Mapping[str, Any]


@struct.dataclass
class Denoised:
    """A denoiser's answer.

    x0: the estimate of the clean image, [B, H, W, C].
    x0_dir: the estimate from which a step's direction (x - x0_dir) / sigma is taken; x0 itself unless a guidance says
    otherwise.
    """

    x0: Float[Array, "b ..."]
    x0_dir: Float[Array, "b ..."]


Denoise: TypeAlias = Callable[[Array, Array, Cond], Denoised]  # (x [B, ...], sigma [B] or scalar, cond)
Network: TypeAlias = Callable[[Array, Array, Cond], Array]  # F(c_in x, c_noise [B], cond)


def make_denoiser(network: Network, parameterization: Parameterization) -> Denoise:
    """D(x, sigma, cond) = c_skip x + c_out F(c_in x, c_noise, cond)  (Karras et al., arXiv 2206.00364, eq. 7)."""

    def denoise(x: Float[Array, "b ..."], sigma: Float[Array, "*b"], cond: Cond) -> Denoised:
        sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
        c_skip, c_out, c_in, c_noise = parameterization(sigma)
        F = network(per_image(c_in, x) * x, c_noise, cond).astype(x.dtype)
        x0 = per_image(c_skip, x) * x + per_image(c_out, x) * F
        return Denoised(x0=x0, x0_dir=x0)

    return denoise


def per_image(value: Float[Array, "*b"], x: Float[Array, "b ..."]) -> Float[Array, "..."]:
    """A number per image [B] (or one for all) in a shape that multiplies x."""
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value

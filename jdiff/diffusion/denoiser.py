"""The denoiser: the posterior mean D(x, sigma) = E[x0 | x], all that samplers ever see of a model.

Conditions travel as one dictionary, `cond`: {"label": [B]} and so on. `cond["drop"]`, where it is there, holds a
boolean [B] for each condition's name: true rows get the learned null in place of their condition.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jdiff.common.arrays import per_image
from jdiff.diffusion.parameterization import Parameterization

Cond: TypeAlias = Mapping[str, Any]


@struct.dataclass
class Denoised:
    """A denoiser's answer.

    x0: the estimate of the clean image, [B, H, W, C].
    x0_dir: the estimate from which a step's direction (x - x0_dir) / sigma is taken; x0 itself unless a guidance says
    otherwise.
    variance: where the model learns it, the reverse step's ln variance as a fraction, 0 at the posterior's ("small")
    and 1 at beta ("large"), [B, H, W, C]; else None.
    """

    x0: Float[Array, "b ..."]
    x0_dir: Float[Array, "b ..."]
    variance: Float[Array, "b ..."] | None = None


Denoise: TypeAlias = Callable[[Array, Array, Cond], Denoised]  # (x [B, ...], sigma [B] or scalar, cond)
Network: TypeAlias = Callable[[Array, Array, Cond], Array]  # F(c_in x, c_noise [B], cond)


def make_denoiser(network: Network, parameterization: Parameterization, *, learned_variance: bool = False) -> Denoise:
    """D(x, sigma, cond) = c_skip x + c_out F(c_in x, c_noise, cond)  (Karras et al., arXiv 2206.00364, eq. 7).

    learned_variance: the network answers with twice the channels, F and then 2 v - 1 with v the variance's fraction
    (Nichol & Dhariwal, arXiv 2102.09672, eq. 15).
    """

    def denoise(x: Float[Array, "b ..."], sigma: Float[Array, "*b"], cond: Cond) -> Denoised:
        sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
        c_skip, c_out, c_in, c_noise = parameterization(sigma)
        F, variance = network(per_image(c_in, x) * x, c_noise, cond).astype(x.dtype), None
        if learned_variance:
            F, nu = jnp.split(F, 2, axis=-1)
            variance = (nu + 1) / 2
        x0 = per_image(c_skip, x) * x + per_image(c_out, x) * F
        return Denoised(x0=x0, x0_dir=x0, variance=variance)

    return denoise

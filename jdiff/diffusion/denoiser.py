"""The denoiser, all that samplers ever see of a model."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jdiff.common.arrays import per_image
from jdiff.diffusion.parameterization import Parameterization

Cond: TypeAlias = Mapping[str, Any]
Sigma: TypeAlias = Float[Array, "..."]  # one for all images, or one per image [B]


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


@runtime_checkable
class Denoise(Protocol):
    """D(x, sigma, cond, to): with x_s the end, at sigma = s, of the probability flow through x,

        x_s = D(x, sigma, s) + (s / sigma) (x - D(x, sigma, s))

    sigma, to: scalars, or one per image [B]. to: s; None is s = sigma, the posterior mean E[x0 | x], which every model
    has; s = 0 is a consistency function. cond: {"label": [B], ...}; cond["drop"], where given, holds a boolean [B] for
    each condition's name: true rows get the learned null in place of their condition.
    """

    def __call__(self, x: Float[Array, "b ..."], sigma: Sigma, cond: Cond, to: Sigma | None = None) -> Denoised: ...


JUMP = "jump"  # in cond: where a network that learned a flow map is to go, [B, 2]

Network: TypeAlias = Callable[[Array, Array, Cond], Array]  # F(c_in x, c_noise [B], cond)


def make_denoiser(
    network: Network, parameterization: Parameterization, *, learned_variance: bool = False, jumps: bool = False
) -> Denoise:
    """D(x, sigma, cond) = c_skip x + c_out F(c_in x, c_noise, cond)  (Karras et al., arXiv 2206.00364, eq. 7).

    learned_variance: the network answers with twice the channels, F and then 2 v - 1 with v the variance's fraction
    (Nichol & Dhariwal, arXiv 2102.09672, eq. 15). jumps: the network knows where it goes, by cond["jump"] = (ln sigma /
    4, 1 - to / sigma). The denoiser of another raises ValueError where `to` is given.
    """

    def denoise(x: Float[Array, "b ..."], sigma: Sigma, cond: Cond, to: Sigma | None = None) -> Denoised:
        if to is not None and not jumps:
            raise ValueError("D(x, sigma, to) of a network that learned D(x, sigma) alone: to must be None")
        sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
        if jumps:
            end = sigma if to is None else jnp.broadcast_to(jnp.asarray(to, x.dtype), x.shape[:1])
            cond = {**cond, JUMP: jnp.stack([jnp.log(sigma) / 4, 1 - end / sigma], axis=-1)}
        c_skip, c_out, c_in, c_noise = parameterization(sigma)
        F, variance = network(per_image(c_in, x) * x, c_noise, cond).astype(x.dtype), None
        if learned_variance:
            F, nu = jnp.split(F, 2, axis=-1)
            variance = (nu + 1) / 2
        x0 = per_image(c_skip, x) * x + per_image(c_out, x) * F
        return Denoised(x0=x0, x0_dir=x0, variance=variance)

    return denoise

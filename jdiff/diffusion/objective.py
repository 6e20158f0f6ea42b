"""The objective: where training draws sigma, and what a denoiser's error costs there."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from jdiff.common.arrays import per_image
from jdiff.diffusion.draws import Draw, stratified, uniform
from jdiff.diffusion.weights import Weight

Rho = Literal["l2", "l1", "huber"]


@dataclass(frozen=True)
class Objective:
    """loss = E_{sigma ~ draw} mean over pixels of rho(sqrt(weight(sigma)) (D(x0 + sigma eps, sigma) - x0))

    rho(e) = e^2 ("l2"), |e| ("l1"), or Huber's: e^2/2 where |e| < delta, else delta (|e| - delta/2). With the simple
    weight, e is F - F*, the error of what the network predicts. vlb: the weight of the variational term, where the
    model learns its variance.
    """

    draw: Draw
    weight: Weight
    rho: Rho = "l2"
    huber_delta: float = 1.0
    stratified: bool = False
    vlb: float = 0.001

    def sigmas(self, key: Key[Array, ""], count: int) -> Float[Array, " count"]:
        """A batch's sigmas."""
        return self.draw((stratified if self.stratified else uniform)(key, count))

    def losses(
        self, x0: Float[Array, "b ..."], denoised: Float[Array, "b ..."], sigma: Float[Array, " b"]
    ) -> Float[Array, " b"]:
        """The loss of each image, a mean over its pixels."""
        error = jnp.sqrt(per_image(self.weight(sigma), x0)) * (denoised - x0)
        rho = {"l2": jnp.square, "l1": jnp.abs, "huber": lambda e: optax.losses.huber_loss(e, delta=self.huber_delta)}
        return jnp.mean(rho[self.rho](error), axis=tuple(range(1, x0.ndim)))


def uncertain(losses: Float[Array, " b"], u: Float[Array, " b"]) -> Float[Array, " b"]:
    """loss / exp(u) + u, u = u(sigma) learned along: each noise level weighs by how well it can be done (Karras et al.,
    arXiv 2312.02696, eq. 21).
    """
    return losses / jnp.exp(u) + u

"""The second player of an autoencoder's loss: a discriminator D of images and their reconstructions.

hinge            discriminator  mean max(0, 1 - D(x)) + mean max(0, 1 + D(x_hat))    generator  -mean D(x_hat)
non_saturating   discriminator  mean ln(1 + e^-D(x)) + mean ln(1 + e^D(x_hat))       generator  mean ln(1 + e^-D(x_hat))
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

GREATEST_RATIO = 1e4


@dataclass(frozen=True, kw_only=True, eq=False)
class Adversary:
    """weight * ratio * generator's loss + discriminator's, from step `start_step` on; 0 before.

    network: an image -> logits [B, h, w, 1]. The generator's loss has no gradient for D, and D's none for x_hat, so
    both are parts of one loss. adaptive: ratio = |grad of the reconstruction terms| / |grad of the generator's loss|
    for the decoder's last kernel, at most 1e4 (Esser et al., arXiv 2012.09841, eq. 7); 1 otherwise. r1_gamma: of
    gamma/2 mean |grad_x D(x)|^2, D's mean over patches (Mescheder et al., arXiv 1801.04406).
    """

    network: nn.Module
    kind: Literal["hinge", "non_saturating"] = "hinge"
    weight: float = 0.5
    adaptive: bool = True
    start_step: int = 0
    r1_gamma: float = 0.0

    def init(self, key: Array, shape: tuple[int, int, int]) -> PyTree:
        """D's parameters, for images of this shape."""
        return self.network.init(key, jnp.zeros((1, *shape)))["params"]

    def generator(self, params: PyTree, fake: Float[Array, "b h w c"]) -> Float[Array, ""]:
        """The generator's loss, with no gradient for D's parameters."""
        logits = self._logits(lax.stop_gradient(params), fake)
        return -jnp.mean(logits) if self.kind == "hinge" else jnp.mean(jax.nn.softplus(-logits))

    def discriminator(
        self, params: PyTree, real: Float[Array, "b h w c"], fake: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """(D's loss, with no gradient for images; logs)"""
        real, fake = lax.stop_gradient((real, fake))
        of_real, of_fake = self._logits(params, real), self._logits(params, fake)
        margin = jax.nn.softplus if self.kind == "non_saturating" else lambda logits: jax.nn.relu(1 + logits)
        loss = jnp.mean(margin(-of_real)) + jnp.mean(margin(of_fake))
        logs = {"discriminator": loss, "logits_real": jnp.mean(of_real), "logits_fake": jnp.mean(of_fake)}
        if self.r1_gamma:
            slopes = jax.grad(lambda x: self._logits(params, x).mean(axis=(1, 2, 3)).sum())(real)
            logs["r1"] = jnp.mean(jnp.sum(slopes**2, axis=(1, 2, 3)))
            loss += self.r1_gamma / 2 * logs["r1"]
        return loss, logs

    def active(self, term: Float[Array, ""], step: Array) -> Float[Array, ""]:
        """The term from `start_step` on; 0, with gradients of 0, before."""
        return jnp.where(step >= self.start_step, term, 0.0)

    def _logits(self, params: PyTree, x: Array) -> Array:
        return self.network.apply({"params": params}, x)  # type: ignore[return-value]


def ratio(
    to_kernel: Callable[[Array], tuple[Array]],
    x_hat: Float[Array, "b h w c"],
    reconstruction: Callable[[Array], Array],
    generator: Callable[[Array], Array],
) -> Float[Array, ""]:
    """|grad reconstruction(x_hat)| / |grad generator(x_hat)| for the kernel to which `to_kernel` takes the gradients of
    x_hat; at most 1e4, and without a gradient of its own.
    """
    x_hat = lax.stop_gradient(x_hat)
    over, under = (optax.global_norm(to_kernel(jax.grad(loss)(x_hat))) for loss in (reconstruction, generator))
    return lax.stop_gradient(jnp.clip(over / jnp.maximum(under, 1e-12), 0.0, GREATEST_RATIO))

"""The exponential moving average of the weights."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


@dataclass(frozen=True, kw_only=True)
class Ema:
    """ema <- beta ema + (1 - beta) params, beta = 0.5^(batch_size / halflife) (Karras et al., arXiv 2206.00364, F.2).

    halflife = min(halflife_images, rampup * images seen), or halflife_images where rampup is 0. The ramp-up lets the
    average follow the weights while they change fast; without it, early samples are noise. halflife_images 0: no
    averaging.
    """

    halflife_images: float
    rampup: float = 0.05

    def decay(self, step: Int[Array, ""], batch_size: int) -> Float[Array, ""]:
        """beta after `step` steps of batch_size images."""
        halflife = jnp.float32(self.halflife_images)
        if self.rampup:
            halflife = jnp.minimum(halflife, self.rampup * step.astype(jnp.float32) * batch_size)
        return jnp.where(halflife > 0, 0.5 ** (batch_size / jnp.maximum(halflife, 1e-8)), 0.0)

    def update(self, ema: PyTree, params: PyTree, step: Int[Array, ""], batch_size: int) -> PyTree:
        """beta ema + (1 - beta) params, from the nearer of the two, so that it is exact for weights that are frozen and
        for beta = 0.
        """
        beta = self.decay(step, batch_size)

        def mean(e: Array, p: Array) -> Array:
            gap = p.astype(e.dtype) - e
            return jnp.where(beta > 0.5, e + (1 - beta) * gap, p.astype(e.dtype) - beta * gap)

        return jax.tree.map(mean, ema, params)


def groups(params: PyTree, names: tuple[str, ...]) -> PyTree:
    """The top groups of params with these names; (): all."""
    return {name: params[name] for name in names} if names else params

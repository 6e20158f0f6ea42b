"""The exponential moving average of the weights, measured in images (Karras et al., arXiv 2206.00364, appendix F.2).

    ema <- beta ema + (1 - beta) params,   beta = 0.5^(batch / halflife),   halflife = min(h, rampup * images seen)

The ramp lets the average follow the weights while they still move fast: without it, early samples are noise.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


@dataclass(frozen=True, kw_only=True)
class Ema:
    """halflife_images: h above, 0 for no averaging. rampup: the share of the images seen, 0 for no ramp."""

    halflife_images: float
    rampup: float = 0.05

    def decay(self, step: Int[Array, ""], batch_size: int) -> Float[Array, ""]:
        """beta at a step; `step` steps, of batch_size images each, came before it."""
        halflife = jnp.float32(self.halflife_images)
        if self.rampup:
            halflife = jnp.minimum(halflife, self.rampup * step.astype(jnp.float32) * batch_size)
        return jnp.where(halflife > 0, 0.5 ** (batch_size / jnp.maximum(halflife, 1e-8)), 0.0)

    def update(self, ema: PyTree, params: PyTree, step: Int[Array, ""], batch_size: int) -> PyTree:
        beta = self.decay(step, batch_size)
        return jax.tree.map(lambda e, p: beta * e + (1 - beta) * p.astype(e.dtype), ema, params)


def groups(params: PyTree, names: tuple[str, ...]) -> PyTree:
    """The top groups of params with these names; (): all."""
    return {name: params[name] for name in names} if names else params

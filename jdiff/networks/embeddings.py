"""Embeddings of scalars and of conditions."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def sinusoidal(values: Float[Array, " b"], features: int, *, longest: float = 10_000.0) -> Float[Array, "b f"]:
    """[cos(v w_k), sin(v w_k)], w_k = longest^(-k / (features/2)) (Vaswani et al., arXiv 1706.03762, section 3.5)."""
    half = features // 2
    frequencies = jnp.exp(-math.log(longest) * jnp.arange(half) / half)
    angles = values.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class LabelEmbedding(nn.Module):
    """A learned vector a class, and one more, the null, for the rows where the label is dropped."""

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, labels: Int[Array, " b"], drop: Bool[Array, " b"] | None = None) -> Float[Array, "b f"]:
        if drop is not None:
            labels = jnp.where(drop, self.num_classes, labels)
        return nn.Embed(self.num_classes + 1, self.features, embedding_init=nn.initializers.normal(1.0))(labels)

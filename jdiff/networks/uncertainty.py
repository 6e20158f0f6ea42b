"""How hard each noise level is: a scalar function, learned along with a model and thrown away after training."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.embeddings import sinusoidal


class Uncertainty(nn.Module):
    """u(value) for each value [B], a two-layer perceptron on sinusoidal features; 0 at the start."""

    features: int = 128

    @nn.compact
    def __call__(self, value: Float[Array, " b"]) -> Float[Array, " b"]:
        hidden = nn.silu(nn.Dense(self.features)(sinusoidal(value, self.features, longest=100.0)))
        return jnp.squeeze(nn.Dense(1, kernel_init=nn.initializers.zeros)(hidden), axis=-1)

"""The learned uncertainty of each noise level, which weighs the loss in training (EDM2) and is not sampled with."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.embeddings import sinusoidal


class Uncertainty(nn.Module):
    """u(v) = W_1 SiLU(W_0 sinusoidal(v)), [B] -> [B], zero at initialisation (Karras et al., arXiv 2312.02696)."""

    features: int = 128

    @nn.compact
    def __call__(self, value: Float[Array, " b"]) -> Float[Array, " b"]:
        hidden = nn.silu(nn.Dense(self.features)(sinusoidal(value, self.features, max_period=100.0)))
        return jnp.squeeze(nn.Dense(1, kernel_init=nn.initializers.zeros)(hidden), axis=-1)

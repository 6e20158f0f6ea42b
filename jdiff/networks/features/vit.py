"""The vision transformer's layers (Dosovitskiy et al., arXiv 2010.11929), for inference in full float32."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.attention import MultiHead
from jdiff.networks.layers import Dense


class PatchEmbedding(nn.Module):
    """[B, H, W, C] -> [B, T, features]: W patch + b for each of the T patches of size x size pixels, row by row."""

    features: int
    size: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b t f"]:
        batch, height, width, channels = x.shape
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=(0, 1, 2))
        kernel = self.param("kernel", init, (self.size, self.size, channels, self.features))
        patches = x.reshape(batch, height // self.size, self.size, width // self.size, self.size, channels)
        tokens = jnp.einsum("bhpwqc,pqcf->bhwf", patches, kernel).reshape(batch, -1, self.features)
        return tokens + self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else tokens


class Block(nn.Module):
    """h += s attention(norm(h)); h += s' mlp(norm(h)), with an mlp of 4 d hidden units.

    layer_scale: s and s' are learned vectors (Touvron et al., arXiv 2103.17239), not 1. activation: x Phi(x), or its
    approximation x sigmoid(1.702 x).
    """

    heads: int
    eps: float
    activation: Literal["gelu", "quick_gelu"]
    layer_scale: bool

    @nn.compact
    def __call__(self, h: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        features = h.shape[-1]

        def scaled(branch: Array, name: str) -> Array:
            return branch * self.param(name, nn.initializers.ones, (features,)) if self.layer_scale else branch

        mixed = MultiHead(self.heads, name="attention")(layer_norm(self.eps, "norm_0")(h))
        h += scaled(mixed, "scale_0")
        wide = Dense(4 * features, name="wide")(layer_norm(self.eps, "norm_1")(h))
        gate = wide * nn.sigmoid(1.702 * wide) if self.activation == "quick_gelu" else nn.gelu(wide, approximate=False)
        return h + scaled(Dense(features, name="narrow")(gate), "scale_1")


def layer_norm(eps: float, name: str) -> nn.LayerNorm:
    """(x - mean) / sqrt(var + eps), scaled and shifted; the variance by deviations from the mean, as theirs."""
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, name=name)

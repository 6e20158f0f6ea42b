"""Attention over the pixels of a feature map."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.blocks import Dtype, Norm, fan_avg


class SelfAttention(nn.Module):
    """x + W softmax(q k^T / sqrt(d)) v over the H x W pixels, a norm before (Ho et al., 2006.11239, appendix B)."""

    heads: int = 1
    skip_scale: float = 1.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        if c % self.heads:
            raise ValueError(f"{c} channels do not divide by {self.heads} attention heads")
        tokens = Norm(self.dtype, name="norm")(x).reshape(b, h * w, c)
        qkv = nn.Dense(3 * c, kernel_init=fan_avg, dtype=self.dtype, name="qkv")(tokens)
        q, k, v = (part.reshape(b, h * w, self.heads, c // self.heads) for part in jnp.split(qkv, 3, axis=-1))
        mixed = jax.nn.dot_product_attention(q, k, v).reshape(b, h * w, c)
        out = nn.Dense(c, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="out")(mixed)
        return (x + out.reshape(b, h, w, c)) * self.skip_scale

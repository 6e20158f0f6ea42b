"""Building blocks of the UNet and of other convolutional networks. Images are NHWC."""

import math
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.convolution import conv2d

Dtype = Any
Resample = Literal["none", "down", "up"]

fan_avg = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


class Conv(nn.Module):
    """A convolution with symmetric padding: `size` x `size`, output side = input side / stride."""

    features: int
    size: int = 3
    stride: int = 1
    zero_init: bool = False  # for a layer that ends a residual branch or the network: training starts at the identity
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        init = nn.initializers.zeros if self.zero_init else fan_avg
        kernel = self.param("kernel", init, (self.size, self.size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        return conv2d(x, kernel, stride=self.stride) + bias


class Norm(nn.Module):
    """Group normalisation with float32 statistics; at most 32 groups of at least 4 channels (as EDM's networks)."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"]) -> Float[Array, "b ... c"]:
        channels = x.shape[-1]
        groups = math.gcd(channels, max(1, min(32, channels // 4)))
        return nn.GroupNorm(groups, epsilon=1e-6, dtype=self.dtype)(x)


def downsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The mean of each 2 x 2 square."""
    return nn.avg_pool(x, (2, 2), (2, 2))


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Each pixel four times (nearest)."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


RESAMPLE = {"none": lambda x: x, "down": downsample, "up": upsample}


class ResBlock(nn.Module):
    """norm - SiLU - conv, + embedding, norm - SiLU - dropout - conv, + skip (Dhariwal & Nichol, arXiv 2105.05233).

    The embedding enters as a shift, or as scale and shift of the second norm (`scale_shift`). `resample` halves or
    doubles the image inside the block, on both branches. `skip_scale` multiplies the sum (sqrt(1/2) keeps its
    variance).
    """

    features: int
    dropout: float = 0.0
    scale_shift: bool = True
    skip_scale: float = 1.0
    resample: Resample = "none"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"], train: bool
    ) -> Float[Array, "b h2 w2 f"]:
        resample = RESAMPLE[self.resample]
        h = resample(nn.silu(Norm(self.dtype, name="norm_0")(x)))
        h = Conv(self.features, dtype=self.dtype, name="conv_0")(h)

        outputs = 2 * self.features if self.scale_shift else self.features
        shift = nn.Dense(outputs, kernel_init=fan_avg, dtype=self.dtype, name="embedding")(embedding)[:, None, None, :]
        if self.scale_shift:
            scale, shift = jnp.split(shift, 2, axis=-1)
            h = Norm(self.dtype, name="norm_1")(h) * (1 + scale) + shift
        else:
            h = Norm(self.dtype, name="norm_1")(h + shift)
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(h))
        h = Conv(self.features, zero_init=True, dtype=self.dtype, name="conv_1")(h)

        skip = resample(x)
        if x.shape[-1] != self.features or self.resample != "none":
            skip = Conv(self.features, size=1, dtype=self.dtype, name="skip")(skip)
        return (skip + h) * self.skip_scale

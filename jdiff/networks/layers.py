"""The layers that all networks are made of. Images are NHWC.

Layers, blocks and attention of one network share a `Style`: what they compute in, how they normalise, and so on.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.convolution import conv2d

Dtype = Any

fan_avg = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


@dataclass(frozen=True, kw_only=True)
class Style:
    """What the layers of a network have in common.

    norm: "group" (statistics over the pixels and a group of channels), "layer" (over the channels of a pixel), "rms"
    (likewise, without the mean) or "instance" (over the pixels of a channel). norm_groups: 0 is at most 32 groups of at
    least 4 channels, as EDM's networks have them. scale_shift: an embedding scales and shifts the second norm of a
    block, or only shifts its input. skip_scale multiplies every residual sum (sqrt(1/2) keeps its variance).
    resample_filter: "box" (nearest up, mean down) or "fir", the kernel [1, 3, 3, 1] on each axis. project_resampled:
    a block that halves or doubles has a 1x1 convolution on its skip branch even where the channels stay.
    """

    norm: Literal["group", "layer", "rms", "instance"] = "group"
    norm_groups: int = 0
    norm_eps: float = 1e-6
    scale_shift: bool = True
    skip_scale: float = 1.0
    dropout: float = 0.0
    resample_filter: Literal["box", "fir"] = "box"
    project_resampled: bool = True
    dtype: Dtype = jnp.float32


class Conv(nn.Module):
    """A convolution of `size` x `size`; output side = ceil(input side / stride) with the default padding.

    padding: zeros (before, after) each axis, size//2 each by default.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: tuple[int, int] | None = None
    zero_init: bool = False  # for a layer that ends a residual branch or the network: training starts at the identity
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        init = nn.initializers.zeros if self.zero_init else fan_avg
        kernel = self.param("kernel", init, (self.size, self.size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        return conv2d(x, kernel, stride=self.stride, padding=self.padding) + bias


class Dense(nn.Module):
    """x W + b over the last axis."""

    features: int
    use_bias: bool = True
    zero_init: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... f"]:
        init = nn.initializers.zeros if self.zero_init else fan_avg
        kernel = self.param("kernel", init, (x.shape[-1], self.features)).astype(self.dtype)
        y = x.astype(self.dtype) @ kernel
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


class Norm(nn.Module):
    """Normalisation with float32 statistics and a learned scale (and, but for "rms", shift) a channel."""

    style: Style = Style()

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"]) -> Float[Array, "b ... c"]:
        style, channels = self.style, x.shape[-1]
        common = {"epsilon": style.norm_eps, "dtype": style.dtype, "name": "norm"}
        if style.norm == "layer":
            return nn.LayerNorm(**common)(x)
        if style.norm == "rms":
            return nn.RMSNorm(**common)(x)
        if style.norm == "instance":
            return nn.GroupNorm(channels, **common)(x)
        groups = style.norm_groups or math.gcd(channels, max(1, min(32, channels // 4)))
        return nn.GroupNorm(groups, **common)(x)

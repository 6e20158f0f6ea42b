"""The layers of all networks, and the `Style` that one network's layers share. Images are NHWC."""

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
    """The hyperparameters that all layers of a network share.

    norm: the statistics are over the pixels and a group of channels ("group"), over the channels of a pixel ("layer";
    "rms", without the mean), or over the pixels of a channel ("instance"). norm_groups: 0 means at most 32 groups of at
    least 4 channels (EDM). scale_shift: an embedding scales and shifts the output of a block's second norm, instead of
    only shifting its input. skip_scale multiplies every residual sum (sqrt(1/2) keeps its variance). resample_filter:
    of `resample`. project_resampled: blocks that halve or double have a 1x1 convolution on the skip branch even where
    the number of channels stays. dtype: of the computation.
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
    """`conv2d` with a kernel of size x size, plus a bias."""

    features: int
    size: int = 3
    stride: int = 1
    padding: tuple[int, int] | None = None
    zero_init: bool = False  # for the last layer of a residual branch or network: training starts at the identity
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        init = nn.initializers.zeros if self.zero_init else fan_avg
        kernel = self.param("kernel", init, (self.size, self.size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        return conv2d(x, kernel, stride=self.stride, padding=self.padding) + bias


class Dense(nn.Module):
    """x W + b on the last axis."""

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
    """scale (x - mean) / std + shift ("rms": scale x / rms), with the statistics of `Style.norm`, in float32, and a
    learned scale and shift for each channel.
    """

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

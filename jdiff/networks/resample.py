"""Downsampling and upsampling of feature maps by a factor of 2."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jdiff.networks.layers import Conv, Style

Resample = Literal["none", "down", "up"]


def resample(x: Float[Array, "b h w c"], direction: Resample, kernel: Literal["box", "fir"] = "box") -> Array:
    """x with half ("down") or double ("up") its sides, or x itself ("none").

    box   down: the mean of each 2 x 2 square; up: nearest neighbour
    fir   down: y[i] = (x[2i-1] + 3 x[2i] + 3 x[2i+1] + x[2i+2]) / 8 on each axis, with zeros outside
          up:   y[2i] = (x[i-1] + 3 x[i]) / 4, y[2i+1] = (3 x[i] + x[i+1]) / 4   (Zhang, arXiv 1904.11486)
    """
    if direction == "none":
        return x
    if kernel == "box":
        return nn.avg_pool(x, (2, 2), (2, 2)) if direction == "down" else _nearest(x)
    one_axis = _fir_down if direction == "down" else _fir_up
    return one_axis(one_axis(x, 1), 2)


class Downsample(nn.Module):
    """[B, H, W, C] -> [B, H/2, W/2, C]: by a convolution of stride 2 ("conv") or by `resample` ("pool"). With the FIR
    filter "conv" is `resample` and a convolution of stride 1.
    """

    kind: Literal["conv", "pool"]
    style: Style
    padding: tuple[int, int] | None = None  # of the strided convolution

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        strided = self.kind == "conv" and self.style.resample_filter == "box"
        if not strided:
            x = resample(x, "down", self.style.resample_filter)
        if self.kind == "pool":
            return x
        stride, padding = (2, self.padding) if strided else (1, None)
        return Conv(x.shape[-1], stride=stride, padding=padding, dtype=self.style.dtype, name="conv")(x)


class Upsample(nn.Module):
    """[B, H, W, C] -> [B, 2H, 2W, C] by `resample`, followed by a convolution in "conv"."""

    kind: Literal["conv", "pool"]
    style: Style

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        x = resample(x, "up", self.style.resample_filter)
        return x if self.kind == "pool" else Conv(x.shape[-1], dtype=self.style.dtype, name="conv")(x)


def _nearest(x: Array) -> Array:
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def _fir_down(x: Array, axis: int) -> Array:
    half = x.shape[axis] // 2
    padded = _zero_padded(x, axis)

    def every_other(first: int) -> Array:
        return lax.slice_in_dim(padded, first, first + 2 * half - 1, stride=2, axis=axis)

    return (every_other(0) + 3 * every_other(1) + 3 * every_other(2) + every_other(3)) / 8


def _fir_up(x: Array, axis: int) -> Array:
    side = x.shape[axis]
    padded = _zero_padded(x, axis)
    before, after = (lax.slice_in_dim(padded, first, first + side, axis=axis) for first in (0, 2))
    pairs = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis=axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * side, *x.shape[axis + 1 :])


def _zero_padded(x: Array, axis: int) -> Array:
    """x with one zero before and after on this axis."""
    return jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)])

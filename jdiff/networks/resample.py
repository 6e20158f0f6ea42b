"""Halving and doubling an image.

box   down: the mean of each 2 x 2 square; up: each pixel four times (nearest)
fir   down: y[i] = (x[2i-1] + 3 x[2i] + 3 x[2i+1] + x[2i+2]) / 8 on each axis, zeros outside
      up:   y[2i] = (x[i-1] + 3 x[i]) / 4, y[2i+1] = (3 x[i] + x[i+1]) / 4   (Zhang, arXiv 1904.11486)
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jdiff.networks.layers import Conv, Style

Resample = Literal["none", "down", "up"]


def resample(x: Float[Array, "b h w c"], way: Resample, kind: Literal["box", "fir"] = "box") -> Array:
    """x of half ("down") or double ("up") its sides, or as it is."""
    if way == "none":
        return x
    if kind == "box":
        return nn.avg_pool(x, (2, 2), (2, 2)) if way == "down" else _nearest(x)
    one_axis = _fir_down if way == "down" else _fir_up
    return one_axis(one_axis(x, 1), 2)


class Downsample(nn.Module):
    """Half the side: a convolution of stride 2 ("conv"), or no parameters at all ("pool"). With the FIR filter a
    convolution is of stride 1, on the filtered image.
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
    """Twice the side, and then, with "conv", a convolution."""

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
    padded = _edged(x, axis)

    def every_other(first: int) -> Array:
        return lax.slice_in_dim(padded, first, first + 2 * half - 1, stride=2, axis=axis)

    return (every_other(0) + 3 * every_other(1) + 3 * every_other(2) + every_other(3)) / 8


def _fir_up(x: Array, axis: int) -> Array:
    side = x.shape[axis]
    padded = _edged(x, axis)
    before, after = (lax.slice_in_dim(padded, first, first + side, axis=axis) for first in (0, 2))
    pairs = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis=axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * side, *x.shape[axis + 1 :])


def _edged(x: Array, axis: int) -> Array:
    """x with one row of zeros before and after."""
    return jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)])

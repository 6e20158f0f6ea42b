"""The resizes of published evaluation protocols, [B, H, W, C] -> [B, size, size, C], values of [0, 255].

All are separable. An output pixel is a weighted sum over input pixels, y[i] = sum_k w[i, k] x[k]. They differ in w, in
what lies between pixels of the border, and in rounding:

tf1             bilinear at i * H/size, no antialiasing (TensorFlow 1's resize_bilinear, align_corners=False)
torch           bilinear at (i + 1/2) H/size - 1/2, no antialiasing (torch's interpolate, align_corners=False)
clean           Pillow's bicubic a channel in float, antialiased, clipped to [0, 255] (Parmar et al., arXiv 2104.11222)
pil_bicubic     Pillow's bicubic of uint8 images, antialiased: rounded to whole numbers after each axis
torch_bicubic   torch's interpolate with mode="bicubic", antialias=True: `clean` without its clip
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num, UInt8

FIXED_POINT = 22  # bits after the binary point of Pillow's weights for uint8


def resize_tf1(images: Num[Array, "b h w c"], size: int) -> Float[Array, "b s s c"]:
    """Bilinear between the pixels floor(i H/size) and the next one, clamped to the border, as TensorFlow 1 does."""
    images = jnp.asarray(images, jnp.float32)
    for axis in (2, 1):  # in their order, for their rounding
        length = images.shape[axis]
        places = np.arange(size, dtype=np.float32) * np.float32(length / size)
        images = _between(images, axis, places)
    return images


def resize_torch(images: Num[Array, "b h w c"], size: int) -> Float[Array, "b s s c"]:
    """Bilinear at (i + 1/2) H/size - 1/2, clamped to the border, as torch's interpolate without antialiasing does."""
    images = jnp.asarray(images, jnp.float32)
    for axis in (2, 1):
        scale = np.float64(np.float32(images.shape[axis] / size))  # torch: a float32, then rounding once
        places = np.maximum(scale * (np.arange(size) + 0.5) - 0.5, 0).astype(np.float32)
        images = _between(images, axis, places)
    return images


def resize_torch_bicubic(images: Num[Array, "b h w c"], size: int) -> Float[Array, "b s s c"]:
    """Antialiased bicubic (a = -1/2) in float32, as torch's interpolate with antialias=True does. Values may leave
    [0, 255].
    """
    images = jnp.asarray(images, jnp.float32)
    for axis in (2, 1):
        images = apply_matrix(images, axis, antialiased_bicubic(images.shape[axis], size).matrix())
    return images


def resize_clean(images: Num[Array, "b h w c"], size: int) -> Float[Array, "b s s c"]:
    """Pillow's bicubic of each channel in float32, clipped to [0, 255] and not rounded, as clean-fid does."""
    return jnp.clip(resize_torch_bicubic(images, size), 0, 255)


def resize_pil_bicubic(images: UInt8[Array, "b h w c"], size: int) -> Float[Array, "b s s c"]:
    """Pillow's bicubic of uint8 images, to the last bit: whole numbers of [0, 255], in fixed point, rounded after each
    axis.
    """
    values = jnp.asarray(images, jnp.int32)
    for axis in (2, 1):
        taps = antialiased_bicubic(values.shape[axis], size)
        weights = np.trunc(taps.weights * (1 << FIXED_POINT) + np.copysign(0.5, taps.weights)).astype(np.int32)
        values = _sum_of_taps(values, axis, taps.places, weights) + (1 << (FIXED_POINT - 1))
        values = jnp.clip(values >> FIXED_POINT, 0, 255)
    return values.astype(jnp.float32)


RESIZES = {
    "tf1": resize_tf1,
    "torch": resize_torch,
    "clean": resize_clean,
    "pil_bicubic": resize_pil_bicubic,
    "torch_bicubic": resize_torch_bicubic,
}


@dataclass(frozen=True)
class Taps:
    """y[i] = sum_k weights[i, k] x[places[i, k]] on an axis of `length` pixels."""

    places: np.ndarray
    weights: np.ndarray
    length: int

    def matrix(self) -> Float[np.ndarray, "out length"]:
        """The weights as a matrix, y = matrix x."""
        matrix = np.zeros((len(self.places), self.length))
        np.add.at(matrix, (np.arange(len(self.places))[:, None], self.places), self.weights)
        return matrix


def antialiased_bicubic(length: int, size: int) -> Taps:
    """Pillow's weights (Resample.c): the bicubic kernel with a = -1/2, as wide as `length / size` where that is above
    1, over the pixels inside the image, normalised.
    """
    scale = length / size
    stretch = max(scale, 1.0)
    centers = (np.arange(size) + 0.5) * scale
    first = np.maximum((centers - 2 * stretch + 0.5).astype(int), 0)
    last = np.minimum((centers + 2 * stretch + 0.5).astype(int), length)
    places = first[:, None] + np.arange(2 * math.ceil(2 * stretch) + 1)
    weights = _cubic((places - centers[:, None] + 0.5) / stretch, -0.5)
    weights = np.where(places < last[:, None], weights, 0)
    return Taps(np.minimum(places, length - 1), weights / weights.sum(axis=1, keepdims=True), length)


def bicubic(length: int, size: int, scale: float) -> Taps:
    """torch's weights without antialiasing: the bicubic kernel with a = -3/4 at (i + 1/2) scale - 1/2. Outside the
    image is the border's pixel.
    """
    centers = (np.arange(size) + 0.5) * scale - 0.5
    places = np.floor(centers).astype(int)[:, None] + np.arange(-1, 3)
    return Taps(np.clip(places, 0, length - 1), _cubic(places - centers[:, None], -0.75), length)


def apply_matrix(x: Float[Array, "..."], axis: int, matrix: np.ndarray) -> Float[Array, "..."]:
    """matrix x on one axis, in full float32."""
    y = jnp.tensordot(x, jnp.asarray(matrix, jnp.float32), axes=(axis, 1), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(y, -1, axis)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel: 0 from |x| = 2 on."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _between(x: Array, axis: int, places: np.ndarray) -> Array:
    """Linear interpolation at these places, of float32."""
    low = np.minimum(places.astype(int), x.shape[axis] - 1)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    fraction = _along(axis, places - low.astype(np.float32))
    below, above = jnp.take(x, low, axis=axis), jnp.take(x, high, axis=axis)
    return below + (above - below) * fraction


def _sum_of_taps(x: Array, axis: int, places: np.ndarray, weights: np.ndarray) -> Array:
    taps = (
        jnp.take(x, place, axis=axis) * _along(axis, weight) for place, weight in zip(places.T, weights.T, strict=True)
    )
    return sum(taps, start=jnp.zeros((), x.dtype))


def _along(axis: int, values: np.ndarray) -> np.ndarray:
    """A vector that broadcasts along one of an image batch's axes."""
    return values.reshape([-1 if i == axis else 1 for i in range(4)])

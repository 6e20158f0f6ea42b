"""Distances of images and their reconstructions, which an autoencoder's loss is a weighted sum of.

Each is a function of x, x_hat [B, H, W, C] in [-1, 1] -> [B], differentiable, 0 for equal images.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jdiff.metrics.image import WINDOW
from jdiff.networks.features.lpips import LPIPS
from jdiff.networks.resample import resample

Images: TypeAlias = Float[Array, "b h w c"]
Distance: TypeAlias = Callable[[Array, Array], Array]

LPIPS_SIDE = 32  # smaller sides are brought to it: AlexNet's layers need 31
SCALES = 3  # of `gradient`
EPS = 1e-3  # of a gradient's length, which has no derivative at 0


@dataclass(frozen=True)
class Term:
    """weight * mean distance(x, x_hat), logged by its name without the weight."""

    name: str
    distance: Distance
    weight: float = 1.0


def l1(x: Images, x_hat: Images) -> Float[Array, " b"]:
    """mean |x - x_hat|"""
    return jnp.mean(jnp.abs(x - x_hat), axis=(1, 2, 3))


def l2(x: Images, x_hat: Images) -> Float[Array, " b"]:
    """mean (x - x_hat)^2"""
    return jnp.mean((x - x_hat) ** 2, axis=(1, 2, 3))


def ssim(x: Images, x_hat: Images) -> Float[Array, " b"]:
    """1 - SSIM, in [0, 2] (`metrics.image.ssim`, data range 2). On sides below 11 pixels the Gaussian window is cut to
    the largest odd number of pixels that fits.
    """
    c_1, c_2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    moments = jnp.concatenate([x, x_hat, x * x, x_hat * x_hat, x * x_hat], axis=-1)
    mu_x, mu_y, xx, yy, xy = jnp.split(_windowed(moments), 5, axis=-1)
    structure = (2 * (xy - mu_x * mu_y) + c_2) / (xx - mu_x**2 + yy - mu_y**2 + c_2)
    whole = structure * (2 * mu_x * mu_y + c_1) / (mu_x**2 + mu_y**2 + c_1)
    return 1 - jnp.mean(whole, axis=(1, 2, 3))


def gradient(x: Images, x_hat: Images) -> Float[Array, " b"]:
    """The mean over scales of mean | |grad x| - |grad x_hat| |, grad being the differences to the next row and column.

    Three scales, each the last one averaged over 2x2 pixels, as far as its sides are even and at least 4.
    """
    distances = []
    for _ in range(SCALES):
        distances.append(l1(_slope(x), _slope(x_hat)))
        if any(side % 2 or side < 8 for side in x.shape[1:3]):
            break
        x, x_hat = resample(x, "down"), resample(x_hat, "down")
    return jnp.mean(jnp.stack(distances), axis=0)


@dataclass(frozen=True, eq=False)
class Perceptual:
    """LPIPS (`networks.features.lpips`) with its weights. Grey images have three equal channels; sides below 32 pixels
    are brought to 32, bilinearly.
    """

    network: LPIPS
    params: PyTree = field(repr=False)

    def __call__(self, x: Images, x_hat: Images) -> Float[Array, " b"]:
        return self.network.apply({"params": self.params}, _rgb(x), _rgb(x_hat))  # type: ignore[return-value]


def _windowed(x: Array) -> Array:
    """Gaussian means over the windows within the image, axis by axis: few shifted sums, as convolutions of one channel
    would be slow.
    """
    for axis in (1, 2):
        side = min(len(WINDOW), x.shape[axis] - 1 + x.shape[axis] % 2)
        cut = (len(WINDOW) - side) // 2
        window = WINDOW[cut : cut + side] / WINDOW[cut : cut + side].sum()
        places = x.shape[axis] - side + 1
        shifted = [jax.lax.slice_in_dim(x, start, start + places, axis=axis) for start in range(side)]
        x = sum(
            (np.float32(w) * part for w, part in zip(window[1:], shifted[1:], strict=True)),
            np.float32(window[0]) * shifted[0],
        )
    return x


def _slope(x: Array) -> Array:
    """|grad x| at every pixel but those of the last row and column."""
    here = x[:, :-1, :-1]
    return jnp.sqrt((x[:, 1:, :-1] - here) ** 2 + (x[:, :-1, 1:] - here) ** 2 + EPS**2)


def _rgb(x: Array) -> Array:
    height, width = (max(side, LPIPS_SIDE) for side in x.shape[1:3])
    if (height, width) != x.shape[1:3]:
        x = jax.image.resize(x, (len(x), height, width, x.shape[-1]), "linear")
    return jnp.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x

"""Thumbnails: what the doctor compares images by."""

import functools

import numpy as np
from jaxtyping import Float

DETAIL = 16  # pixels a side of the grey thumbnail
COARSE = 8  # pixels a side of the coloured one


def thumbnails(images: Float[np.ndarray, "n h w c"], side: int) -> Float[np.ndarray, "n side side c"]:
    """The mean of what each of side x side equal parts of an image covers, whatever its aspect."""
    count, height, width, channels = images.shape
    rows = np.matmul(_areas(height, side), images.reshape(count, height, width * channels))
    return np.matmul(_areas(width, side), rows.reshape(count, side, width, channels))


@functools.lru_cache(maxsize=64)
def _areas(size: int, side: int) -> Float[np.ndarray, "side size"]:
    """Row i has the share of each of `size` pixels in the i-th of `side` equal parts of them."""
    edges = np.arange(side + 1) * (size / side)
    pixels = np.arange(size)
    upper = np.minimum(edges[1:, None], pixels + 1)
    lower = np.maximum(edges[:-1, None], pixels)
    return (np.maximum(upper - lower, 0) * (side / size)).astype(np.float32)


def grey_and_colour(
    images: Float[np.ndarray, "n h w c"], *, alpha: bool
) -> tuple[Float[np.ndarray, "n d d"], Float[np.ndarray, "n k k 3"] | None]:
    """(grey thumbnail, coloured one or None) of images in [0, 1].

    Grey is the mean of the channels, so that it does not depend on their order. Images of 3 channels have colour, and
    those of 4 where the fourth is transparency: they are laid on white.
    """
    small = thumbnails(images, DETAIL)
    channels = images.shape[-1]
    if channels == 4 and alpha:
        opaque = images[..., 3:]
        small = thumbnails(images[..., :3] * opaque + (1 - opaque), DETAIL)
    grey = small.mean(axis=-1)
    if small.shape[-1] != 3:
        return grey, None
    half = DETAIL // COARSE
    return grey, small.reshape(-1, COARSE, half, COARSE, half, 3).mean(axis=(2, 4))

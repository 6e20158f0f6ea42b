"""Pictures at the border: checked on their way in; grids, strips and animations on their way out."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.common.ranges import SCREEN, Range

SMALLEST_SIDE = 32  # pixels; smaller images are enlarged (nearest) so that a person can see them
GAP = 2  # pixels between the images of a grid


def checked(
    images: Any, shape: Sequence[int], what: str = "images", values: Range = SCREEN
) -> Num[np.ndarray, "n h w c"]:
    """`images` as an array [n, *shape] of `values`: of their dtype, or, where that is an integer, floats in [-1, 1].

    Warns where they look like values of another range. Raises UserError where they are none of these.
    """
    try:
        images = np.asarray(images)
    except ValueError as error:  # of several sizes
        raise UserError(f"{what} are no array of numbers: {error}") from error
    if images.ndim != 4 or images.shape[1:] != tuple(shape):
        raise UserError(f"{what} are {list(images.shape)}; this model's are [n, {', '.join(map(str, shape))}]")
    if values.is_plain and images.dtype == np.uint8:
        return images
    numbers = np.issubdtype(images.dtype, np.floating if values.is_plain else np.number)
    low, high = (-1.0, 1.0) if values.is_plain else (values.low, values.high)
    beyond = 0.0005 * (high - low)
    if not numbers or (images.size and not (low - beyond <= images.min() and images.max() <= high + beyond)):
        raise UserError(f"{what} are {images.dtype}{_extent(images)}; give {values}")
    if images.size and (usual := _another_range(images, low, high)):
        warnings.warn(
            f"{what} are {images.dtype}{_extent(images)} and taken for values from {low:g} to {high:g}; if they are of "
            f"{usual}, scale them first" + (" (2 * images - 1)" if (low, high) == (-1, 1) else ""),
            stacklevel=3,
        )
    if values.is_plain or np.issubdtype(values.dtype, np.floating):
        return images.astype(np.float32)
    return np.rint(images.clip(low, high)).astype(values.dtype)


def _another_range(images: Num[np.ndarray, "n h w c"], low: float, high: float) -> str:
    """The usual range that images fit better than the one from low to high, in words; "" where there is none."""
    if (
        np.issubdtype(images.dtype, np.floating)
        and (low < -0.5 or high > 2)
        and images.min() >= 0
        and images.max() <= 1
    ):
        return "[0, 1]"
    if images.dtype == np.uint8 and high > 2 * 255:
        return "8 bits, 0 to 255"
    return ""


def _extent(images: np.ndarray) -> str:
    return (
        f" from {images.min():g} to {images.max():g}" if images.size and np.issubdtype(images.dtype, np.number) else ""
    )


def grid(images: UInt8[np.ndarray, "n h w c"], columns: int | None = None) -> UInt8[np.ndarray, "H W c2"]:
    """Images row by row on a dark ground, `columns` wide (default: as square as can be).

    Channels are shown as they can be: one as grey, two as the first alone, three and four as RGB(A), more as the
    first three.
    """
    images = _showable(images)
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), 24, np.uint8)
    if channels == 4:
        canvas[..., 3] = 255
    for index, image in enumerate(images):
        top = GAP + index // columns * (height + GAP)
        left = GAP + index % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = image
    return canvas


def coloured(images: UInt8[np.ndarray, "*n h w c"]) -> UInt8[np.ndarray, "*n h w 3"]:
    """Images of any number of channels as RGB, shown as in a grid; transparent ones on white."""
    channels = images.shape[-1]
    if channels == 4:
        opacity = images[..., 3:] / 255
        return np.rint(images[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return images[..., :3] if channels > 2 else np.repeat(images[..., :1], 3, axis=-1)


def _showable(images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h2 w2 c2"]:
    """Images with 1, 3 or 4 channels and sides of at least SMALLEST_SIDE pixels."""
    channels = images.shape[-1]
    if channels == 2:
        images = images[..., :1]
    elif channels > 4:
        images = images[..., :3]
    factor = math.ceil(SMALLEST_SIDE / min(images.shape[1:3]))
    return images.repeat(factor, axis=1).repeat(factor, axis=2) if factor > 1 else images


def save_png(path: Path, picture: UInt8[np.ndarray, "h w c"]) -> None:
    """Write one picture of 1, 3 or 4 channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _pillow(picture).save(path)


def save_gif(path: Path, frames: Sequence[UInt8[np.ndarray, "h w c"]], *, frame_ms: int = 80) -> None:
    """Write an animation that loops; the last frame stands for a second and a half."""
    first, *rest = [_pillow(frame) for frame in frames]
    durations = [frame_ms] * len(rest) + [1500]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def _pillow(picture: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)

"""Deterministic transforms of one image: grey, thumbnail, number of channels. Free of JAX for worker processes."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image

from jdiff.data.sources import Picture

CHANNEL_CHANGES = ((1, 3), (3, 1))  # (from, to): the conversions that to_channels knows


@dataclass(frozen=True)
class Thumbnail:
    """uint8 [h, w, c] -> uint8 [h, w, c]: each block of factor x factor pixels replaced by its mean, the input of
    super-resolution. Blocks over the border repeat the last pixels.
    """

    factor: int

    def __call__(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        height, width, channels = image.shape
        rows, columns = -(-height // self.factor), -(-width // self.factor)
        edges = ((0, rows * self.factor - height), (0, columns * self.factor - width), (0, 0))
        whole = np.pad(image, edges, mode="edge").reshape(rows, self.factor, columns, self.factor, channels)
        coarse = np.round(whole.mean(axis=(1, 3))).astype(np.uint8)
        return coarse.repeat(self.factor, axis=0).repeat(self.factor, axis=1)[:height, :width]

    def made(self, of: Picture) -> Picture:
        """Unchanged."""
        return of


@dataclass(frozen=True)
class Grey:
    """uint8 [h, w, c] -> uint8 [h, w, 1]: ITU-R 601 luma, the input of colourisation. Opacity is dropped."""

    def __call__(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 1"]:
        return image if image.shape[-1] == 1 else to_channels(image[..., :3], 1)

    def made(self, of: Picture) -> Picture:
        """One channel without opacity."""
        return replace(of, shape=(*of.shape[:2], 1), alpha=False)


def channels_after(channels: int, wanted: int) -> int:
    """The channels of `to_channels`."""
    return wanted if (channels, wanted) in CHANNEL_CHANGES else channels


def to_channels(image: Num[np.ndarray, "h w c"], channels: int) -> Num[np.ndarray, "h w c2"]:
    """Grey to RGB by repetition, RGB to grey (uint8 alone) by ITU-R 601 luma; other images unchanged."""
    change = (image.shape[-1], channels)
    if change == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if change == (3, 1):
        return np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return image

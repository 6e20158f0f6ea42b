"""Pictures made of pictures: other channels, coarser pixels, no colours. Free of JAX: worker processes run it."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image

from jdiff.data.sources import Picture

CHANNEL_CHANGES = ((1, 3), (3, 1))  # (channels that images have, channels wanted)


@dataclass(frozen=True)
class Thumbnail:
    """The image in pixels `factor` times as large, the mean of what they cover: what super-resolution starts from."""

    factor: int

    def __call__(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        height, width, channels = image.shape
        rows, columns = -(-height // self.factor), -(-width // self.factor)
        edges = ((0, rows * self.factor - height), (0, columns * self.factor - width), (0, 0))
        whole = np.pad(image, edges, mode="edge").reshape(rows, self.factor, columns, self.factor, channels)
        coarse = np.round(whole.mean(axis=(1, 3))).astype(np.uint8)
        return coarse.repeat(self.factor, axis=0).repeat(self.factor, axis=1)[:height, :width]

    def made(self, of: Picture) -> Picture:
        return of


@dataclass(frozen=True)
class Grey:
    """The image without its colours: what colourisation starts from."""

    def __call__(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 1"]:
        return image if image.shape[-1] == 1 else to_channels(image[..., :3], 1)

    def made(self, of: Picture) -> Picture:
        return replace(of, shape=(*of.shape[:2], 1), alpha=False)


def to_channels(image: Num[np.ndarray, "h w c"], channels: int) -> Num[np.ndarray, "h w c2"]:
    """Grey to colour and, of uint8, back (ITU-R 601 luma): see CHANNEL_CHANGES."""
    change = (image.shape[-1], channels)
    if change == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if change == (3, 1):
        return np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return image

"""Pictures of any size through a model of one: windows of them, and maps of the windows put together again."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Num
from PIL import Image

from jdiff.data.resize import Resize
from jdiff.spaces.tiles import ramp, starts


@dataclass(frozen=True)
class Windows:
    """The windows of a picture of `size` = (height, width): the whole, or overlapping tiles of at most `tile` in size.

    Each is brought to the model's sides by itself, so that all of the picture is seen; its aspect may change.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    @classmethod
    def whole(cls, size: tuple[int, int]) -> "Windows":
        """One window."""
        return cls(size, size, ((0, 0),))

    @classmethod
    def tiles(cls, size: tuple[int, int], tile: tuple[int, int], overlap: float) -> "Windows":
        """As few as overlap by at least this share of their sides."""
        height, width = min(size[0], tile[0]), min(size[1], tile[1])
        rows = starts(size[0], height, int(overlap * height))
        columns = starts(size[1], width, int(overlap * width))
        return cls(size, (height, width), tuple((row, column) for row in rows for column in columns))

    def of(self, picture: Num[np.ndarray, "h w c"], resize: Resize) -> list[Num[np.ndarray, "h2 w2 c"]]:
        """The windows of the picture, at the model's size."""
        height, width = self.tile
        parts = [picture[row : row + height, column : column + width] for row, column in self.corners]
        return [resize({"image": part})["image"] for part in parts]

    def together(self, maps: Sequence[Float[np.ndarray, "h2 w2 k"]]) -> Float[np.ndarray, "h w k"]:
        """Maps of the windows, in their order, as one of the picture; where they overlap, the one farther from its edge
        counts more.
        """
        height, width = self.tile
        if len(self.corners) == 1:
            return enlarged(maps[0], self.size)
        overlaps = [min(self.tile[axis], _least_overlap(self.corners, axis, self.tile[axis])) for axis in (0, 1)]
        weight = np.outer(*(ramp(side, overlap) for side, overlap in zip(self.tile, overlaps, strict=True)))[..., None]
        total = np.zeros((*self.size, maps[0].shape[-1]))
        weights = np.zeros((*self.size, 1))
        for (row, column), one in zip(self.corners, maps, strict=True):
            place = (slice(row, row + height), slice(column, column + width))
            total[place] += weight * enlarged(one, self.tile)
            weights[place] += weight
        return (total / weights).astype(np.float32)


def enlarged(values: Float[np.ndarray, "h w k"], size: tuple[int, int]) -> Float[np.ndarray, "h2 w2 k"]:
    """Maps at another size, by bilinear interpolation, antialiased where they shrink."""
    if values.shape[:2] == size:
        return values
    channels = [Image.fromarray(np.ascontiguousarray(values[..., k], np.float32)) for k in range(values.shape[-1])]
    to = (size[1], size[0])
    return np.stack([np.asarray(one.resize(to, Image.Resampling.BILINEAR)) for one in channels], axis=-1)


def _least_overlap(corners: Sequence[tuple[int, int]], axis: int, side: int) -> int:
    """By how much neighbouring windows overlap along an axis, at the least; 0 for one window."""
    places = sorted({corner[axis] for corner in corners})
    return min((side - (after - before) for before, after in pairwise(places)), default=0)

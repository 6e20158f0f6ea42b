"""Pixels: x is the picture itself."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float, Num, PyTree

from jdiff.common.ranges import SCREEN, Range


@dataclass(frozen=True)
class Pixels:
    """x = 2 (image - low) / (high - low) - 1: pictures of 8 bits, 16 bits and floats go the same way.

    shape: (h, w, c) of the pictures. values: their dtype, low and high.
    """

    shape: tuple[int, int, int]
    values: Range = SCREEN

    def encode(self, weights: PyTree, images: Num[Array, "b h w c"], key: Any) -> Float[Array, "b h w c"]:
        return self.values.to_model(images)

    def decode(self, weights: PyTree, x: Float[Array, "*b h w c"]) -> Num[Array, "*b h w c"]:
        return self.values.from_model(x)

    def mask(self, mask: Any) -> Any:
        return mask

"""The values of pictures and a model's: the one conversion between them. Free of JAX: data workers use it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Range:
    """Pictures of `dtype` ("uint8", "uint16", "float32") whose values low and high are a model's -1 and 1:

    to_model(v) = 2 (v - low) / (high - low) - 1, in [-1, 1],   from_model(x) = low + (x + 1) (high - low) / 2

    Values below low and above high are clipped, both ways: low and high are a window.
    Arrays are NumPy's or JAX's; x is float32. Floats where the dtype is an integer are a model's values already.
    """

    dtype: str = "uint8"
    low: float = 0.0
    high: float = 255.0

    def __str__(self) -> str:
        return "uint8, or floats in [-1, 1]" if self.is_plain else f"{self.dtype} from {self.low:g} to {self.high:g}"

    @cached_property
    def is_plain(self) -> bool:
        """Whether values are a screen's: uint8, black 0 and white 255."""
        return self == SCREEN

    def to_model(self, images: Any) -> Any:
        """Pictures as a model sees them."""
        if np.issubdtype(images.dtype, np.floating) and not np.issubdtype(self.dtype, np.floating):
            return images.astype(np.float32)
        x = (images.astype(np.float32) - np.float32(self.low)) / np.float32(self._half) - 1
        return x if self.is_plain else x.clip(np.float32(-1), np.float32(1))

    def from_model(self, x: Any) -> Any:
        """Pictures of the dtype, between low and high: the nearest values that there are."""
        values = np.float32(self.low) + (x + 1) * np.float32(self._half)
        if not np.issubdtype(self.dtype, np.floating):
            values = values.round()
        return values.clip(np.float32(self.low), np.float32(self.high)).astype(self.dtype)

    def on_screen(self, images: Any) -> Any:
        """Pictures as they are on a screen, uint8."""
        return images if self.is_plain else SCREEN.from_model(self.to_model(images))

    @property
    def has_levels(self) -> bool:
        """Whether values are whole numbers."""
        return not np.issubdtype(self.dtype, np.floating)

    @property
    def half_level(self) -> float:
        """Half the distance, in a model's values, of two neighbouring levels: 1/(levels - 1), of high - low + 1 levels;
        floats, which have none, are taken for a screen's 256.
        """
        return 1 / (self.high - self.low if self.has_levels else 255)

    @property
    def _half(self) -> float:
        return (self.high - self.low) / 2


SCREEN = Range()

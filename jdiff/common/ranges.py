"""What the values of pictures mean. Free of JAX: worker processes use it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Num


@dataclass(frozen=True)
class Range:
    """What pictures' values are: those of `dtype` ("uint8", "uint16", "float32"), low and high of which are -1 and 1 to
    a model.
    """

    dtype: str = "uint8"
    low: float = 0.0
    high: float = 255.0

    def __str__(self) -> str:
        return "uint8, or floats in [-1, 1]" if self.is_plain else f"{self.dtype} from {self.low:g} to {self.high:g}"

    @cached_property
    def is_plain(self) -> bool:
        """Whether they are uint8, black 0 and white 255, which pictures on the screen are too."""
        return self == Range()

    def to_model(self, images: Num[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return ((images.astype(np.float64) - middle) / half).astype(np.float32)

    def from_model(self, images: Float[np.ndarray, "..."]) -> Num[np.ndarray, "..."]:
        """The nearest values that there are, between low and high."""
        values = self.low + (np.clip(images.astype(np.float64), -1, 1) + 1) / 2 * (self.high - self.low)
        return (values if self.dtype == "float32" else np.round(values)).astype(self.dtype)

"""The shape of the image as a condition, where images are trained in several (data.buckets)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jdiff.common.errors import UserError
from jdiff.conditions import Condition, Values
from jdiff.data import buckets


@dataclass(frozen=True, kw_only=True)
class Aspect(Condition):
    """ln(height / width) of x0, float32 [n], embedded as a scalar is. It is never dropped, and no caller gives it: it
    follows from the images' shape.

    target: the picture that x0 is.
    """

    name = "aspect"
    argument = "aspect"
    words = "an aspect"
    target: str
    drop_rate: float = 0.0

    def of_record(self, record: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> np.ndarray:
        height, width = pictures[self.target].shape[:2]
        return np.array(buckets.aspect(height, width), np.float32)

    def of_caller(self, values: Any) -> np.ndarray:
        raise UserError("aspect follows from the images' shape: give shape=(height, width)")

    def of_shape(self, sides: tuple[int, int]) -> np.ndarray:
        return np.array([buckets.aspect(*sides)], np.float32)

    def example(self, rows: int, sides: tuple[int, int]) -> np.ndarray:
        return np.zeros(rows, np.float32)

    def encode(self, values: Values) -> Values:
        return values[:, None]

    def embedder(self, vector_features: int, dtype: Any) -> Any:
        from jdiff.networks.conditioning import ScalarEmbedding

        return ScalarEmbedding(vector_features, dtype=dtype)

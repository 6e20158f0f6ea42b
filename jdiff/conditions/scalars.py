"""Numbers as a condition."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jdiff.common.errors import UserError
from jdiff.conditions import Condition


@dataclass(frozen=True, kw_only=True)
class Scalars(Condition):
    """Fields of a record, such as an age: float32 [n, k], k = len(names)."""

    name = "scalars"
    argument = "scalars"
    words = "scalars"
    names: tuple[str, ...]
    drop_rate: float = 0.0

    def of_record(self, record: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.array([record[name] for name in self.names], np.float32)

    def of_caller(self, values: Any) -> np.ndarray:
        try:
            scalars = np.asarray(values, np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(f"scalars are no array of numbers: {error}") from error
        if scalars.ndim != 2 or scalars.shape[1] != len(self.names) or not np.isfinite(scalars).all():
            raise UserError(
                f"scalars are {list(scalars.shape)}; they must be finite, [n, {len(self.names)}]: "
                f"{', '.join(self.names)}"
            )
        return scalars

    def example(self, rows: int, sides: tuple[int, int]) -> np.ndarray:
        return np.zeros((rows, len(self.names)), np.float32)

    def embedder(self, vector_features: int, dtype: Any) -> Any:
        from jdiff.networks.conditioning import ScalarEmbedding

        return ScalarEmbedding(vector_features, dtype=dtype)

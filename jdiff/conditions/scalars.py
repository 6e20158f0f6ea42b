"""Numbers as a condition.

The network gets (v - mean) / std, by the training data's mean and standard deviation; records, callers and examples
hold the numbers as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jdiff.common.errors import UserError
from jdiff.conditions import Condition, Values
from jdiff.data import pipeline
from jdiff.data.sources import Source
from jdiff.data.sources.wrapped import scalar_values

MOST_READ = 50_000  # records, of a source that must read them to tell their numbers


@dataclass(frozen=True, kw_only=True)
class Scalars(Condition):
    """Fields of a record, such as an age: float32 [n, k], k = len(names).

    mean, std: of each; (): the network gets them as they are.
    """

    name = "scalars"
    argument = "scalars"
    words = "scalars"
    names: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
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

    def encode(self, values: Values) -> Values:
        if not self.mean:
            return values
        return (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def embedder(self, vector_features: int, dtype: Any) -> Any:
        from jdiff.networks.conditioning import ScalarEmbedding

        return ScalarEmbedding(vector_features, dtype=dtype)


def spread(source: Source, names: tuple[str, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) of each of these numbers; 1 in place of the deviation of a constant."""
    rows = pipeline.fixed_rows(source, MOST_READ)
    values = scalar_values(source, rows)[:, [source.scalar_names.index(name) for name in names]].astype(np.float64)
    mean, std = values.mean(axis=0), values.std(axis=0)
    constant = std <= np.finfo(np.float32).eps * np.abs(values).max(axis=0)
    return tuple(mean.tolist()), tuple(np.where(constant, 1.0, std).tolist())

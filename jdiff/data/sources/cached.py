"""Any source, its decoded records kept in memory as far as they fit."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jdiff.data.sources import Source
from jdiff.data.sources.wrapped import Wrapped

OVERHEAD = 512  # bytes that a record takes besides its arrays' values


class Cached(Wrapped):
    """`source`, whose records stay in memory once they have been read, until those kept take `most_bytes`; the others
    are read anew each time. What is kept is read-only.
    """

    def __init__(self, source: Source, most_bytes: float):
        super().__init__(source)
        self._kept: dict[int, dict[str, Any]] = {}
        self._left = most_bytes

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        kept = self._kept
        if missing := [i for i in indices if i not in kept]:
            read = dict(zip(missing, self._source.__getitems__(missing), strict=True))
            for i, record in read.items():
                self._keep(i, record)
            return [read[i] if i in read else kept[i] for i in indices]
        return [kept[i] for i in indices]

    def _keep(self, index: int, record: dict[str, Any]) -> None:
        size = OVERHEAD + sum(value.nbytes for value in record.values() if isinstance(value, np.ndarray))
        if size > self._left:
            return
        own = {name: _alone(value) for name, value in record.items()}
        if self._kept.setdefault(index, own) is own:  # two threads may read the same record
            self._left -= size


def _alone(value: Any) -> Any:
    """A read-only copy of an array, which may be part of a larger one that would stay in memory with it."""
    if not isinstance(value, np.ndarray):
        return value
    value = value.copy()
    value.setflags(write=False)
    return value

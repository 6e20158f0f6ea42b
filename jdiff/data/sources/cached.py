"""A cache of decoded records in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jdiff.data.sources import Source
from jdiff.data.sources.in_parts import record_bytes
from jdiff.data.sources.wrapped import Wrapped

OVERHEAD = 512  # bytes per record besides its arrays' data


class Cached(Wrapped):
    """`source` with its records kept in memory after their first reading, up to `most_bytes`; the rest are read anew
    each time. The kept arrays are read-only.
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
        size = OVERHEAD + record_bytes(record)
        if size > self._left:
            return
        own = {name: _alone(value) for name, value in record.items()}
        if self._kept.setdefault(index, own) is own:  # two threads may read the same record
            self._left -= size


def _alone(value: Any) -> Any:
    """A read-only copy of an array: a view would keep the whole of its base in memory."""
    if not isinstance(value, np.ndarray):
        return value
    value = value.copy()
    value.setflags(write=False)
    return value

"""Reading many records in parts of bounded size."""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, TypeVar

import numpy as np

from jdiff.data.sources import Source

MOST_BYTES = 16 << 20  # of pictures per part, unless a single record is larger

T = TypeVar("T", bound=dict[str, Any] | None)


def in_parts(
    source: Source, indices: Sequence[int], read: Callable[[Sequence[int]], Sequence[T]]
) -> Iterator[tuple[Sequence[int], Sequence[T]]]:
    """(part, read(part)) for consecutive parts of `indices`, each with about MOST_BYTES of decoded pictures: a batch of
    full-size photos may exceed memory. `read` gets one index at a time if sizes vary.
    """
    size = decoded_bytes(source)
    if size is not None:
        together = max(1, MOST_BYTES // max(1, size))
        for first in range(0, len(indices), together):
            part = indices[first : first + together]
            yield part, read(part)
        return
    rows: list[int] = []
    records: list[T] = []
    held = 0
    for index in indices:
        (record,) = read([index])
        rows.append(index)
        records.append(record)
        held += record_bytes(record)
        if held >= MOST_BYTES:
            yield rows, records
            rows, records, held = [], [], 0
    if rows:
        yield rows, records


def decoded_bytes(source: Source) -> int | None:
    """Bytes of a record's pictures; None if their sizes vary."""
    size = 0
    for picture in source.pictures.values():
        height, width, channels = picture.shape
        if height is None or width is None:
            return None
        size += prod((height, width, channels)) * np.dtype(picture.dtype).itemsize
    return size


def record_bytes(record: dict[str, Any] | None) -> int:
    """Bytes of a record's arrays; None has none."""
    return sum(value.nbytes for value in (record or {}).values() if isinstance(value, np.ndarray))

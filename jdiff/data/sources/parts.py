"""Reading many records without holding many large ones."""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, TypeVar

import numpy as np

from jdiff.data.sources import Source

MOST_BYTES = 16 << 20  # of pictures held at a time, if one does not take more itself

T = TypeVar("T", bound=dict[str, Any] | None)


def in_parts(
    source: Source, indices: Sequence[int], read: Callable[[Sequence[int]], Sequence[T]]
) -> Iterator[tuple[Sequence[int], Sequence[T]]]:
    """(some of `indices`, what `read` gives for them) of `source`, as many at a time as take MOST_BYTES: a batch of
    photos as cameras make them may take more memory than there is. Where sizes vary, they are read one by one.
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
        held += _bytes(record)
        if held >= MOST_BYTES:
            yield rows, records
            rows, records, held = [], [], 0
    if rows:
        yield rows, records


def decoded_bytes(source: Source) -> int | None:
    """What the pictures of a record take; None where their sizes vary."""
    size = 0
    for picture in source.pictures.values():
        height, width, channels = picture.shape
        if height is None or width is None:
            return None
        size += prod((height, width, channels)) * np.dtype(picture.dtype).itemsize
    return size


def _bytes(record: dict[str, Any] | None) -> int:
    return sum(value.nbytes for value in (record or {}).values() if isinstance(value, np.ndarray))

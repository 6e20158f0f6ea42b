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
) -> Iterator[tuple[list[int], list[T]]]:
    """(some of `indices`, what `read` gives for them) of `source`, as many at a time as take MOST_BYTES: a batch of
    photos as cameras make them may take more memory than there is. Where sizes vary, they are read one by one.
    """
    size = decoded_bytes(source)
    together = max(1, MOST_BYTES // max(1, size)) if size is not None else 1
    rows: list[int] = []
    records: list[T] = []
    held = 0
    for first in range(0, len(indices), together):
        part = indices[first : first + together]
        new = read(part)
        rows += part
        records += new
        held += sum(map(_bytes, new))
        if size is not None or held >= MOST_BYTES:
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

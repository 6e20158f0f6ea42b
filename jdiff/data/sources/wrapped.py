"""The base of sources that wrap another source."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jdiff.common.errors import UserError
from jdiff.data.sources import Picture, Shape, Source
from jdiff.data.sources.files import LeftOut
from jdiff.data.sources.in_parts import in_parts


@runtime_checkable
class TellsScalars(Protocol):
    """A source that tells the scalars of its records without reading these: float [len(rows), k], in the order of
    scalar_names.
    """

    def scalar_values(self, rows: np.ndarray) -> np.ndarray: ...


def scalar_values(source: Source, rows: np.ndarray) -> np.ndarray:
    """The scalars of these records: float [len(rows), k], in the order of source.scalar_names."""
    if isinstance(source, TellsScalars):
        return source.scalar_values(rows)
    parts = in_parts(source, rows.tolist(), source.__getitems__)
    return np.array([[record[name] for name in source.scalar_names] for _, part in parts for record in part])


@runtime_checkable
class TellsLabels(Protocol):
    """A source that tells the classes of its records without reading these: int32 [n], or [n, labels_per_image]."""

    def labels(self) -> np.ndarray: ...


@runtime_checkable
class TellsColumns(Protocol):
    """A source that tells a column of its metadata: [n] of text or numbers; None where it does not know that one."""

    def column(self, name: str) -> np.ndarray | None: ...


def labels(source: Source) -> np.ndarray:
    """The classes of all records, int32 [n] or [n, labels_per_image]; read through once where the source must."""
    if isinstance(source, TellsLabels):
        return source.labels()
    parts = in_parts(source, range(len(source)), source.__getitems__)
    return np.array([record["label"] for _, part in parts for record in part], np.int32)


def column(source: Source, name: str) -> np.ndarray | None:
    """A column of the metadata, or a scalar, of all records; None where that is not known without reading them."""
    if isinstance(source, TellsColumns) and (values := source.column(name)) is not None:
        return values
    if name in source.scalar_names and isinstance(source, TellsScalars):
        return source.scalar_values(np.arange(len(source)))[:, source.scalar_names.index(name)]
    return None


class Wrapped:
    """`source`, unchanged. Subclasses override `__getitems__`."""

    def __init__(self, source: Source):
        self._source = source

    @property
    def shape(self) -> Shape:
        return self._source.shape

    @property
    def pictures(self) -> dict[str, Picture]:
        return self._source.pictures

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._source.class_names

    @property
    def class_counts(self) -> tuple[int, ...]:
        return getattr(self._source, "class_counts", ())

    @property
    def labels_per_image(self) -> int:
        return self._source.labels_per_image

    @property
    def captions(self) -> tuple[str, ...]:
        return self._source.captions

    @property
    def scalar_names(self) -> tuple[str, ...]:
        return self._source.scalar_names

    @property
    def names(self) -> tuple[str, ...]:
        """The file of each record, where the source has files."""
        return getattr(self._source, "names", ())

    @property
    def members(self) -> dict[str, str]:
        """id -> group ("" without) of the files or rows of the records, where the source has such."""
        return getattr(self._source, "members", {})

    @property
    def left_out(self) -> LeftOut:
        """(file, why) of the files that the source leaves out."""
        return getattr(self._source, "left_out", ())

    @property
    def sizes(self) -> np.ndarray | None:
        """int32 [n, 2], the height and width of each image in its file, where the source knows them."""
        return getattr(self._source, "sizes", None)

    @property
    def notes(self) -> tuple[str, ...]:
        return self._source.notes

    def scalar_values(self, rows: np.ndarray) -> np.ndarray:
        return scalar_values(self._source, rows)

    def labels(self) -> np.ndarray:
        return labels(self._source)

    def column(self, name: str) -> np.ndarray | None:
        return column(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return self._source.__getitems__(indices)


class Noted(Wrapped):
    """`source`, which also tells what `other` has to say: its notes, and the files that it leaves out."""

    def __init__(self, source: Source, other: Source):
        super().__init__(source)
        self._other = other

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._source.notes, *self._other.notes)

    @property
    def members(self) -> dict[str, str]:
        """id -> group ("" without) of the files or rows of the records, where the source has such."""
        return getattr(self._source, "members", {})

    @property
    def left_out(self) -> LeftOut:
        return (*super().left_out, *getattr(self._other, "left_out", ()))


class Ranged(Wrapped):
    """`source` with other values that map to -1 and 1, of all pictures but masks. Values beyond them are clipped where
    pictures become a model's (see jdiff.common.ranges). Raises UserError unless low < high.
    """

    def __init__(self, source: Source, low: float | None, high: float | None):
        super().__init__(source)
        self._pictures = {name: _ranged(one, low, high) for name, one in source.pictures.items()}

    @property
    def pictures(self) -> dict[str, Picture]:
        return self._pictures


def _ranged(picture: Picture, low: float | None, high: float | None) -> Picture:
    if picture.kind == "mask":
        return picture
    low, high = picture.low if low is None else low, picture.high if high is None else high
    if not low < high:
        raise UserError(f"data.low={low:g} must be below data.high={high:g}")
    return replace(picture, low=low, high=high)

"""Sources: random access to the records of a data set, one kind per file."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from jdiff.common.errors import UserError
from jdiff.common.ranges import Range

Shape = tuple[int | None, int | None, int]

HIGHEST = {"uint8": 255.0, "uint16": 65535.0}  # dtype of integer pictures -> the value of white


@dataclass(frozen=True)
class Picture:
    """The description of a record's arrays [h, w, c] under one name.

    shape: (h, w, c); h and w are None if they vary. dtype: "uint8", "uint16" or "float32"; "float16" of
    an autoencoder's moments. kind: a "mask" holds class
    numbers, which are never interpolated. low, high: the values that map to -1 and 1. alpha: the last of four channels
    is opacity. values: those of a mask, rising.
    """

    shape: Shape
    dtype: str = "uint8"
    kind: Literal["image", "mask"] = "image"
    low: float = 0.0
    high: float = 255.0
    alpha: bool = False
    values: tuple[int, ...] = ()

    @cached_property
    def range(self) -> Range:
        """dtype, low and high."""
        return Range(self.dtype, self.low, self.high)

    @property
    def channels(self) -> int:
        """c of the shape."""
        return self.shape[-1]


class SplitMissingError(UserError):
    """The data have no images of the requested split. A missing "test" is no fault where evaluation is optional."""


@runtime_checkable
class Source(Protocol):
    """Random access to records: len(source), source[i], and source.__getitems__(indices), a list of records read
    together. A source is picklable: each worker process gets a copy.

    A record is a dict:

        "image"          array [h, w, c]
        other pictures   arrays [h, w, c] by their names, such as "mask"
        "label"          int, or int32 [labels_per_image] padded with -1, if there are classes
        "text"           str, if there are captions: one, or several, one a line
        scalars          float32 by their names

    and the source describes them:

        shape              (h, w, c) of "image"; h and w are None if they vary
        pictures           name -> Picture, for "image" and every other picture
        class_names        a name per class; () without classes
        labels_per_image   1, or the largest number of labels of a record
        captions           captions[i] is the text of record i; () without captions
        scalar_names       names of the scalars; () without scalars
        notes              lines for the user, such as the count of skipped files

    and where it knows without reading every record:

        class_counts       how many records each class has
    """

    @property
    def shape(self) -> Shape: ...
    @property
    def pictures(self) -> dict[str, Picture]: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def labels_per_image(self) -> int: ...
    @property
    def captions(self) -> tuple[str, ...]: ...
    @property
    def scalar_names(self) -> tuple[str, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]: ...


def counted(labels: Sequence[int] | np.ndarray, class_names: Sequence[str]) -> tuple[int, ...]:
    """How many of the labels each class has; () without classes."""
    return tuple(np.bincount(np.asarray(labels, np.int64), minlength=len(class_names)).tolist()) if class_names else ()

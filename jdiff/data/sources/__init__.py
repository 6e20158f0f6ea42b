"""Sources: random access to records, one kind a file.

A source is picklable (worker processes get a copy) and holds

    len(source), source[i]      record i: {"image": array [h, w, c]} and, where there are classes, "label": int;
                                where there are captions, "text": str; under every name of a scalar, a float32;
                                under every name of another picture, such as "mask", an array [h, w, c]
    source.__getitems__(many)   a list of records, read together
    source.shape                (h, w, c) of its images; None where they vary
    source.pictures             name -> Picture, of "image" and of every other picture of a record
    source.class_names          a name a class; () where there are none
    source.labels_per_image     1; more where records' labels are int32 arrays of so many, -1 for none
    source.captions             captions[i] is record i's text; () where there are none
    source.scalar_names         names of the records' scalars; () where there are none
    source.notes                lines worth telling the user, such as files that were skipped
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

from jdiff.common.errors import UserError
from jdiff.common.ranges import Range

Shape = tuple[int | None, int | None, int]

HIGHEST = {"uint8": 255.0, "uint16": 65535.0}  # of integer pictures' dtypes: the value that is white


@dataclass(frozen=True)
class Picture:
    """What the arrays [h, w, c] are that records hold under one name.

    shape: (h, w, c); h and w are None where they vary. dtype: "uint8", "uint16" or "float32". kind: a "mask" holds
    numbers of classes: it is resized to the nearest pixel, and its values are never mixed. low, high: the values that
    become -1 and 1. alpha: the last of four channels is opacity.
    """

    shape: Shape
    dtype: str = "uint8"
    kind: Literal["image", "mask"] = "image"
    low: float = 0.0
    high: float = 255.0
    alpha: bool = False

    @cached_property
    def range(self) -> Range:
        return Range(self.dtype, self.low, self.high)

    @property
    def channels(self) -> int:
        return self.shape[-1]


class SplitMissingError(UserError):
    """The data have no images of the split that was asked for, which need not be a fault: "test" may be missing."""


@runtime_checkable
class Source(Protocol):
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

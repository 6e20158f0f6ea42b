"""Sources: random access to records, one kind a file.

A source is picklable (worker processes get a copy) and holds

    len(source), source[i]      record i: {"image": uint8 [h, w, c]} and, where there are classes, "label": int;
                                where there are captions, "text": str; under every name of a scalar, a float32
    source.__getitems__(many)   a list of records, read together
    source.shape                (h, w, c) of its images; None where they vary
    source.class_names          a name a class; () where there are none
    source.labels_per_image     1; more where records' labels are arrays of so many, -1 for none
    source.captions             captions[i] is record i's text; () where there are none
    source.scalar_names         names of the records' scalars; () where there are none
    source.notes                lines worth telling the user, such as files that were skipped
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

Shape = tuple[int | None, int | None, int]


@runtime_checkable
class Source(Protocol):
    @property
    def shape(self) -> Shape: ...
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

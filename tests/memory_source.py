"""A source of records in memory, to plant faults in."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jdiff.data.sources import Picture, Shape


@dataclass(frozen=True)
class Records:
    """records[i] is record i; an exception in place of one is raised where it is read."""

    records: list[Any]
    pictures: dict[str, Picture] = field(default_factory=lambda: {"image": Picture((None, None, 3))})
    class_names: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    scalar_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    labels_per_image: int = 1
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def shape(self) -> Shape:
        return self.pictures["image"].shape

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        chosen = [self.records[index] for index in indices]
        for record in chosen:
            if isinstance(record, Exception):
                raise record
        return chosen

    def planted(self, **pictures_of: dict[int, Any]) -> "Records":
        """A copy with some records' fields replaced: planted(image={3: array})."""
        records = [record if isinstance(record, Exception) else copy.copy(record) for record in self.records]
        for name, values in pictures_of.items():
            for index, value in values.items():
                records[index][name] = value
        return replace(self, records=records)

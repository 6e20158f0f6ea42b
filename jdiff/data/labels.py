"""The classes of records, by name and by number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

OF_FOLDERS, NO_LABELS = "folders", "none"  # values of data.labels beside a column's name
HIDDEN = -1  # the label of an image whose class its makers keep to themselves


def most_labels(labels: Iterable[Sequence[str]]) -> int:
    """1, or the largest number of labels of an image (2 at least, where an image may have none)."""
    counts = {len(several) for several in labels}
    return 1 if counts <= {1} else max(2, *counts)


@dataclass(frozen=True)
class ClassLabels:
    """The class numbers of each record of a source, per_image at most; none without classes."""

    numbers: list[list[int]]
    per_image: int

    @classmethod
    def of(cls, labels: Iterable[Sequence[str]], names: Sequence[str], per_image: int) -> "ClassLabels":
        """Of the names of each record's classes; names: of all classes, in the order of their numbers."""
        number = {name: k for k, name in enumerate(names)}
        return cls([[number[name] for name in several] for several in labels], per_image)

    def __getitem__(self, index: int) -> Any:
        """The class number, or int32 [per_image] padded with -1."""
        several = self.numbers[index]
        return several[0] if self.per_image == 1 else np.array(self._padded(several), np.int32)

    def array(self) -> Int32[np.ndarray, "n"] | Int32[np.ndarray, "n per_image"]:  # noqa: F821
        """Those of all records, -1 for none."""
        rows = np.array([self._padded(several) for several in self.numbers], np.int32).reshape(-1, self.per_image)
        return rows[:, 0] if self.per_image == 1 else rows

    def counts(self, classes: int) -> tuple[int, ...]:
        """How many records each of so many classes has; () without classes."""
        if not classes:
            return ()
        every = [number for several in self.numbers for number in several]
        return tuple(np.bincount(np.array(every, np.int64), minlength=classes).tolist())

    def _padded(self, several: list[int]) -> list[int]:
        return several + [-1] * (self.per_image - len(several))

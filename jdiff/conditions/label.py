"""Classes as a condition."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jdiff.common.errors import UserError
from jdiff.common.names import nearest
from jdiff.conditions import Condition

AS_IN_DATA = "data"


@dataclass(frozen=True, kw_only=True)
class Label(Condition):
    """The class of an image, int32 [n], or several, [n, per_image] with -1 for none: a learned vector a class.

    A caller names classes by number or by name (a number that is the name of another class is refused), or says "data":
    as often as in the training data, whose images class_counts counts, () where that is not known.
    """

    name = "label"
    argument = "labels"
    words = "labels"
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...] = ()
    per_image: int = 1
    drop_rate: float = 0.0

    def of_record(self, record: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(record["label"], np.int32)

    def of_caller(self, values: Any, argument: str = "labels") -> np.ndarray:
        labels = values.tolist() if hasattr(values, "tolist") else values  # of NumPy or JAX
        if self.means_data(labels):
            return self._as_in_data(argument)
        if isinstance(labels, str) or not isinstance(labels, Iterable):
            raise UserError(f"{argument}={labels!r} must be a sequence of labels, as in labels=[3, 3, 5]")
        if self.per_image == 1:
            return np.array([self._number(label, argument) for label in labels], np.int32)
        rows = np.full((0, self.per_image), -1, np.int32)
        for label in labels:
            alone = isinstance(label, str) or not isinstance(label, Iterable)
            several = [self._number(each, argument) for each in ([label] if alone else label)]
            if len(several) > self.per_image:
                raise UserError(
                    f"{argument} holds {len(several)} labels for an image; this model knows up to {self.per_image}"
                )
            rows = np.concatenate([rows, [several + [-1] * (self.per_image - len(several))]]).astype(np.int32)
        return rows

    def means_data(self, labels: Any) -> bool:
        """Whether a caller's labels are "data"; a config holds ("data",)."""
        alone = isinstance(labels, (tuple, list)) and list(labels) == [AS_IN_DATA]
        return labels == AS_IN_DATA or (alone and AS_IN_DATA not in self.class_names)

    def _as_in_data(self, argument: str) -> np.ndarray:
        """The labels of the training images in an order of which every part is mixed as the whole is: that of the
        golden ratio's multiples, modulo 1.
        """
        if self.per_image > 1:
            raise UserError(f"{argument}='data' goes with one label an image, and these images have several")
        if not any(self.class_counts):
            raise UserError(
                f"{argument}='data': how many images each class has is not known of this run (it began with an earlier "
                "version, or its data do not say); give a sequence of labels, as in labels=[3, 3, 5]"
            )
        places = np.arange(sum(self.class_counts)) * ((5**0.5 - 1) / 2) % 1
        ranks = np.empty(len(places), np.int64)
        ranks[np.argsort(places)] = np.arange(len(places))
        return np.repeat(np.arange(len(self.class_counts), dtype=np.int32), self.class_counts)[ranks]

    def every_class(self) -> np.ndarray:
        """The classes in turn, without those that no training image has."""
        counts = self.class_counts or (1,) * len(self.class_names)
        numbers = np.array([number for number, count in enumerate(counts) if count], np.int32)
        if self.per_image == 1:
            return numbers
        return np.pad(numbers[:, None], ((0, 0), (0, self.per_image - 1)), constant_values=-1)

    def example(self, rows: int, sides: tuple[int, int]) -> np.ndarray:
        return np.zeros((rows, self.per_image) if self.per_image > 1 else rows, np.int32)

    def embedder(self, vector_features: int, dtype: Any) -> Any:
        from jdiff.networks.conditioning import LabelEmbedding

        return LabelEmbedding(len(self.class_names), vector_features)

    def _number(self, label: object, argument: str) -> int:
        classes = self.class_names
        if isinstance(label, str):
            if label not in classes:
                some = f"; there are {', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"
                raise UserError(f"{argument} holds {label!r}, no name of a class{nearest(label, classes) or some}")
            return classes.index(label)
        if not isinstance(label, (int, np.integer)) or isinstance(label, bool):
            raise UserError(
                f"{argument} must hold whole numbers or names of classes, as in labels=[3, 3, 5]; not {label!r}"
            )
        if str(label) in classes and classes.index(str(label)) != label:
            number = (
                f"class number {label} is {classes[label]!r}"
                if 0 <= label < len(classes)
                else "there is no such number"
            )
            raise UserError(
                f"{argument} holds {label}, and {number}, while the class named {str(label)!r} is number "
                f"{classes.index(str(label))}: give the name as text, as in labels=[{str(label)!r}]"
            )
        if label not in range(len(classes)):
            raise UserError(f"{argument} holds {label!r}; labels are 0..{len(classes) - 1}")
        return int(label)

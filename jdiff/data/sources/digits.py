"""scikit-learn's handwritten digits."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jdiff.data.sources import Picture, counted

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Digits:
    """The 1,797 handwritten digits of scikit-learn, 8x8 grey with 17 levels, without download: 1,500 for split "train",
    297 for "test", stratified by class.

    Records: "image" uint8 [8, 8, 1]; "label" 0 .. 9; "text", "a handwritten " and the class in words; "ink" float32,
    the mean brightness in [0, 1].
    """

    shape = (8, 8, 1)
    class_names = tuple("0123456789")
    scalar_names = ("ink",)
    labels_per_image = 1
    notes = ()

    def __init__(self, split: str):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        x, y = load_digits(return_X_y=True)
        x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=297, random_state=0, stratify=y)
        x, self._labels = {"train": (x_train, y_train), "test": (x_test, y_test)}[split]
        self._images = np.round(x.reshape(-1, 8, 8, 1) * 255 / 16).astype(np.uint8)
        self._ink = (self._images.mean((1, 2, 3)) / 255).astype(np.float32)
        self.captions = tuple(f"a handwritten {WORDS[label]}" for label in self._labels)

    @property
    def class_counts(self) -> tuple[int, ...]:
        return counted(self._labels, self.class_names)

    @property
    def pictures(self) -> dict[str, Picture]:
        return {"image": Picture(self.shape)}

    def labels(self) -> np.ndarray:
        """int32 [n]."""
        return self._labels.astype(np.int32)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self._images[index],
            "label": int(self._labels[index]),
            "text": self.captions[index],
            "ink": self._ink[index],
        }

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]

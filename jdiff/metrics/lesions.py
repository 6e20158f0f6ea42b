"""Detection of lesions: whether each is found, whatever its size."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import label

from jdiff.metrics.masks import Masks, checked_pair

NEIGHBOURS = np.ones((3, 3))  # eight: pixels that touch by a corner are one lesion


@dataclass(frozen=True)
class Lesions:
    """Numbers of each image and class: true lesions found, true lesions missed, predicted ones where there is none."""

    true_positives: Int[np.ndarray, "n k"]
    false_negatives: Int[np.ndarray, "n k"]
    false_positives: Int[np.ndarray, "n k"]

    @property
    def sensitivity(self) -> Float[np.ndarray, "n k"]:
        """TP / (TP + FN); nan where there is no true lesion."""
        lesions = self.true_positives + self.false_negatives
        return np.divide(self.true_positives, lesions, out=np.full(lesions.shape, np.nan), where=lesions > 0)

    @property
    def f1(self) -> Float[np.ndarray, "n k"]:
        """2 TP / (2 TP + FN + FP); 1 where there is neither a true nor a predicted lesion."""
        found = 2 * self.true_positives
        whole = found + self.false_negatives + self.false_positives
        return np.divide(found, whole, out=np.ones(whole.shape), where=whole > 0)

    def merge(self, other: "Lesions") -> "Lesions":
        """These images and then the other ones."""
        return Lesions(*(np.concatenate(pair) for pair in zip(self._counts(), other._counts(), strict=True)))

    def pooled(self) -> "Lesions":
        """The lesions of all images as those of one: [1, k]."""
        return Lesions(*(x.sum(axis=0, keepdims=True) for x in self._counts()))

    def _counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.true_positives, self.false_negatives, self.false_positives


def lesions(predicted: Masks, truth: Masks, classes: int = 2) -> Lesions:
    """Detection by connected components (8 neighbours) of masks [n, h, w], counts [n, k], k = classes - 1.

    A true component is found where at least one predicted pixel of its class lies in it; a predicted component is false
    where no pixel of it lies in a true one. One prediction over two lesions finds both. Errors as `overlap`.
    """
    x, y = checked_pair(predicted, truth, classes)
    counts = [[_detected(p == c, t == c) for c in range(1, classes)] for p, t in zip(x, y, strict=True)]
    return Lesions(*np.moveaxis(np.array(counts), -1, 0))


def _detected(predicted: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    (proposed, proposals), (real, lesions) = label(predicted, NEIGHBOURS), label(truth, NEIGHBOURS)
    both = predicted & truth
    found = len(np.unique(real[both]))
    return found, lesions - found, proposals - len(np.unique(proposed[both]))

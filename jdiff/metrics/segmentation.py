"""Overlap of masks with the true ones: Dice = 2 |P & T| / (|P| + |T|) and IoU = |P & T| / |P | T|.

Of each image and class, or pooled: numbers of pixels are summed over all images before the division, so that large
objects count more. The two differ by several points on the same masks; a result says which it is. A class that is in
neither mask scores 1, one that is in only one of them 0, without smoothing. Masks as in masks.py, k = classes - 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jdiff.metrics.masks import Masks, Probabilities, checked_pair, checked_probabilities, checked_shape, same_shape

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Overlap:
    """Numbers of pixels of each image and class: in both masks, in the predicted one, in the true one."""

    both: Int[np.ndarray, "n k"]
    predicted: Int[np.ndarray, "n k"]
    truth: Int[np.ndarray, "n k"]

    @property
    def dice(self) -> Float[np.ndarray, "n k"]:
        """2 |P & T| / (|P| + |T|)."""
        return _share(2 * self.both, self.predicted + self.truth)

    @property
    def iou(self) -> Float[np.ndarray, "n k"]:
        """|P & T| / |P | T|."""
        return _share(self.both, self.predicted + self.truth - self.both)

    def merge(self, other: "Overlap") -> "Overlap":
        """These images and then the other ones, whose sizes may be others."""
        pairs = (self.both, other.both), (self.predicted, other.predicted), (self.truth, other.truth)
        return Overlap(*(np.concatenate(pair) for pair in pairs))

    def pooled(self) -> "Overlap":
        """All pixels as those of one image: [1, k]."""
        return Overlap(*(x.sum(axis=0, keepdims=True) for x in (self.both, self.predicted, self.truth)))


def overlap(predicted: Masks, truth: Masks, classes: int = 2) -> Overlap:
    """The counts behind Dice and IoU, [n, h, w] -> [n, k].

    Raises UserError for other shapes, values that are not whole numbers and values that are no class.
    """
    x, y = checked_pair(predicted, truth, classes)
    counts = np.array([[m.sum(axis=(1, 2)) for m in ((x == c) & (y == c), x == c, y == c)] for c in range(1, classes)])
    return Overlap(*counts.transpose(1, 2, 0))


def dice(predicted: Masks, truth: Masks, classes: int = 2) -> Float[np.ndarray, "n k"]:
    """Dice of each image and class, [n, h, w] -> [n, k]; neither: 1, one alone: 0. Errors as `overlap`.

    >>> dice(np.array([[[1, 1, 0]]]), np.array([[[1, 0, 0]]])).round(3).tolist()  # one image of three pixels
    [[0.667]]
    """
    return overlap(predicted, truth, classes).dice


def iou(predicted: Masks, truth: Masks, classes: int = 2) -> Float[np.ndarray, "n k"]:
    """IoU of each image and class, [n, h, w] -> [n, k]; neither: 1, one alone: 0. Errors as `overlap`.

    >>> iou(np.array([[[1, 1, 0]], [[0, 0, 0]]]), np.array([[[1, 0, 0]], [[0, 0, 0]]])).tolist()
    [[0.5], [1.0]]
    """
    return overlap(predicted, truth, classes).iou


def pooled_dice(predicted: Masks, truth: Masks, classes: int = 2) -> Float[np.ndarray, " k"]:
    """Dice over all pixels of all images, which is no mean over images: [n, h, w] -> [k]. Errors as `overlap`."""
    return overlap(predicted, truth, classes).pooled().dice[0]


def pooled_iou(predicted: Masks, truth: Masks, classes: int = 2) -> Float[np.ndarray, " k"]:
    """IoU over all pixels of all images, which is no mean over images: [n, h, w] -> [k]. Errors as `overlap`."""
    return overlap(predicted, truth, classes).pooled().iou[0]


def soft_dice(predicted: Probabilities, truth: Probabilities) -> Float[np.ndarray, " n"]:
    """2 sum p t / (sum p + sum t) of a class's probabilities p and its mask or share of raters t, both [n, h, w].

    Without squares, so a mean of 0.5 against itself is not 1 (Milletari et al., arXiv 1606.04797, square both terms
    below). Both without mass: 1. Raises UserError for other shapes, values outside [0, 1] and NaN.
    """
    p, t = _pair(predicted, truth)
    axes = (1, 2)
    return _share(2 * (p * t).sum(axes, np.float64), p.sum(axes, np.float64) + t.sum(axes, np.float64))


def thresholded_dice(predicted: Probabilities, truth: Probabilities) -> Float[np.ndarray, " n"]:
    """The mean of Dice(p > s, t > s) over s = 0.1, 0.3, 0.5, 0.7, 0.9, for probabilities or masks [n, h, w], by image.

    As MedSegDiff's scripts/segmentation_env.py computes it for published numbers (arXiv 2211.00611): each prediction is
    first divided by its maximum, which makes a mask of however faint an answer. Its smoothing by 1e-4 is left out:
    both empty: 1, one alone: 0. Errors as `soft_dice`.
    """
    p, t = _pair(predicted, truth)
    largest = p.max(axis=(1, 2), keepdims=True)
    p = p / np.where(largest > 0, largest, 1)
    return np.mean([dice(p > s, t > s)[:, 0] for s in THRESHOLDS], axis=0)


def _pair(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, t = checked_probabilities(predicted, "predicted"), checked_probabilities(truth, "true")
    checked_shape(p, "predicted probabilities")
    same_shape(p, t)
    return p, t


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; 1 where there is nothing."""
    return np.divide(part, whole, out=np.ones(whole.shape), where=whole > 0)

"""Whether probabilities come true, and whether an uncertainty finds the mistakes."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata

from jdiff.common.errors import UserError
from jdiff.metrics.masks import Probabilities, checked_probabilities, checked_whole, same_shape


class Reliability(NamedTuple):
    """A reliability diagram's points: a bin's mean confidence, its accuracy (nan where it is empty), its pixels."""

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    pixels: Int[np.ndarray, " bins"]


@dataclass(frozen=True)
class Calibration:
    """Sums over the pixels of each bin [i / bins, (i + 1) / bins), the last one with 1; merge() adds other images'."""

    pixels: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    events: Float[np.ndarray, " bins"]

    @property
    def error(self) -> float:
        """ECE = sum_b n_b / n |accuracy_b - confidence_b| (Guo et al., arXiv 1706.04599)."""
        return float(np.abs(self.events - self.confidence).sum() / self.pixels.sum())

    @property
    def curve(self) -> Reliability:
        """The points of the reliability diagram."""
        pixels = np.where(self.pixels > 0, self.pixels, np.nan)
        return Reliability(self.confidence / pixels, self.events / pixels, self.pixels)

    def merge(self, other: "Calibration") -> "Calibration":
        """The sums over both sets of pixels. Raises ValueError for another number of bins."""
        if len(self.pixels) != len(other.pixels):
            raise ValueError(f"{len(self.pixels)} and {len(other.pixels)} bins cannot be merged")
        return Calibration(self.pixels + other.pixels, self.confidence + other.confidence, self.events + other.events)


def calibration(probabilities: Probabilities, events: Probabilities, bins: int = 15) -> Calibration:
    """The sums of pixels of any shape, for each image or batch.

    For two classes: the foreground's probability, and the true mask or the share of raters who drew the pixel. For
    several: the largest probability, and whether its class is right. Background pixels count, so the ECE of small
    objects is small. Raises UserError for different shapes, values outside [0, 1] and NaN.
    """
    if bins < 1:
        raise ValueError(f"bins={bins}: at least 1")
    p, happened = checked_probabilities(probabilities, "predicted"), checked_probabilities(events, "true")
    same_shape(p, happened)
    flat = p.ravel().astype(np.float64)
    bin_of = np.searchsorted(np.arange(1, bins) / bins, flat, side="right")

    def total(weights: np.ndarray | None) -> np.ndarray:
        return np.bincount(bin_of, weights, bins)

    return Calibration(total(None), total(flat), total(happened.ravel()))


def calibration_error(probabilities: Probabilities, events: Probabilities, bins: int = 15) -> float:
    """The expected calibration error of all pixels; arguments and errors as `calibration`."""
    return calibration(probabilities, events, bins).error


def auc(scores: Shaped[np.ndarray, "..."], events: Shaped[np.ndarray, "..."]) -> float:
    """The chance that a pixel with the event scores above one without, ties half: the area under the ROC curve.

    For variances of pixels and whether the pixel is wrong. By Mann and Whitney's U: the sum of ranks of the n_1 events
    less n_1 (n_1 + 1) / 2, over n_0 n_1. nan where there are no events or nothing else. Raises UserError for different
    shapes, scores that are not finite and events that are not 0 or 1.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    x, happened = np.asarray(scores, np.float64), checked_whole(events, "events")
    if x.shape != happened.shape:
        raise UserError(f"scores and events have different shapes, {list(x.shape)} and {list(happened.shape)}")
    if not np.isfinite(x).all():
        raise UserError(f"{int((~np.isfinite(x)).sum())} of {x.size} scores are NaN or infinite")
    if not np.isin(happened, (0, 1)).all():
        raise UserError("events are 0 or 1, or booleans: whether a pixel is wrong")
    happened = happened.astype(bool)
    with_it, without = int(happened.sum()), int((~happened).sum())
    if not with_it or not without:
        return float("nan")
    ranks = rankdata(x.ravel())[happened.ravel()].sum()
    return float((ranks - with_it * (with_it + 1) / 2) / (with_it * without))

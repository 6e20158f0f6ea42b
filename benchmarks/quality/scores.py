"""How good what a side has drawn is, from its files alone.

Scores, by image so that their means have intervals: accuracy, the share that an independent judge reads as the class
asked for; precision and recall (k = 5; Kynkaanniemi et al., arXiv 1904.06991) of a classifier's features; and two
Frechet distances to the held-out images, of the classifier's features (FD-classifier) and, of digits, of pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

import jdiff
from benchmarks import digits
from benchmarks.quality import ours
from benchmarks.quality.work import CLASSES, IMAGES, Images, Labels, Side, Work, asked, samples_file
from jdiff.metrics import moments, neighbours
from jdiff.metrics.frechet import frechet_of_moments
from jdiff.metrics.moments import Moments
from jdiff.metrics.resampling import Interval, bootstrap_difference

K = 5
RESAMPLES = 200  # of distances, which take longer than means
CLASSIFIER = {"digits": {}, "fashion_mnist": {"train.steps": 1000, "network.channel_mults": (1, 2, 2)}}

Features = Float[np.ndarray, "n d"]


@dataclass(frozen=True)
class Judge:
    """features: images -> [n, d]. reads: images -> classes [n]. held_out: features of the held-out images."""

    features: Callable[[Images], Features]
    reads: Callable[[Images], Labels]
    held_out: Features


def judge(work: Work, folder: Path) -> Judge:
    """A network of configs/digits_classifier.py, trained once on the training images, gives the features and, but for
    digits, which have their SVM, reads the classes.
    """
    network = _classifier(work, folder)

    def features(images: Images) -> Features:
        return network(images)[1]

    def reads(images: Images) -> Labels:
        if work.name == "digits":
            return digits.reader().predict(digits.pixels(images))
        return network(images)[0].argmax(axis=1)

    return Judge(features, reads, features(work.held_out[0]))


def _classifier(work: Work, folder: Path) -> Callable[[Images], tuple[np.ndarray, Features]]:
    """images -> (logits [n, CLASSES], features [n, d])."""
    data = {name: value for name, value in work.settings.items() if name.startswith("data.")}
    settings = {**data, "data.name": work.config.data.name, "data.flip": work.flip, **CLASSIFIER[work.name]}
    if not (folder / "done").exists():
        ours.run("digits_classifier", settings, folder)
        (folder / "done").touch()
    model: Any = jdiff.load(folder)
    classify = jax.jit(model.task.classify)

    def network(images: Images) -> tuple[np.ndarray, Features]:
        parts = [classify(model.weights, images[i : i + IMAGES]) for i in range(0, len(images), IMAGES)]
        logits, features = (np.concatenate([np.asarray(part[k]) for part in parts]) for k in range(2))
        return logits, features

    return network


class Score(NamedTuple):
    """A metric of one side: rows [n, seeds, ...] and the statistic of them."""

    rows: np.ndarray
    statistic: Callable[[np.ndarray], float]
    resamples: int

    def by_seed(self) -> np.ndarray:
        return np.array([self.statistic(self.rows[:, [seed]]) for seed in range(self.rows.shape[1])])


def scores(work: Work, judge: Judge, drawn: list[Images]) -> dict[str, Score]:
    """The scores of images drawn by the same sampler of a side trained from several seeds."""
    features = [judge.features(images) for images in drawn]
    reference = judge.held_out[: max(IMAGES, K + 1)]
    read = [judge.reads(images) == asked() for images in drawn]
    found = {
        "accuracy": _mean(np.stack(read, axis=1)),
        "FD-classifier": _distance(np.stack(features, axis=1), moments.of(judge.held_out)),
        "precision": _mean(np.stack([_inside(rows, reference) for rows in features], axis=1)),
        "recall": _mean(np.stack([_inside(reference, rows) for rows in features], axis=1)),
    }
    if work.name == "digits":
        flat = np.stack([digits.pixels(images) for images in drawn], axis=1)
        found["pixel distance"] = _distance(flat, moments.of(digits.real_digits()[2]))
    return found


def _inside(queries: Features, reference: Features) -> Any:
    """Whether each row lies within the distance of some row of `reference` to its own K-th nearest."""
    radii = neighbours.kth_distances(reference, K) ** 2
    closed = neighbours.squared_distances(queries, reference) <= radii * (1 + 1e-6)
    return np.any(closed, axis=1)


def _mean(rows: np.ndarray) -> Score:
    return Score(rows.astype(np.float64), lambda x: float(x.mean()), 1000)


def _distance(rows: np.ndarray, reference: Moments) -> Score:
    """The mean over seeds of the Frechet distance."""

    def statistic(x: np.ndarray) -> float:
        of_seeds = [frechet_of_moments(moments.of(x[:, seed]), reference).distance for seed in range(x.shape[1])]
        return float(np.mean(of_seeds))

    return Score(rows, statistic, RESAMPLES)


def difference(a: Score, b: Score) -> Interval:
    """a - b with its 95 % interval over images (of the same classes in the same order), the trainings being given."""
    return bootstrap_difference(a.rows, b.rows, a.statistic, resamples=a.resamples)


@cache
def read_samples(path: Path) -> Images:
    with np.load(path) as file:
        return file["images"]


def chosen(work: Work, side: Side, judge: Judge, folders: list[Path], nfe: int) -> str:
    """The sampler with the lowest FD-classifier, mean over seeds."""
    reference = moments.of(judge.held_out)

    def far(sampler: str) -> float:
        features = [judge.features(read_samples(samples_file(folder, sampler, nfe))) for folder in folders]
        return float(np.mean([frechet_of_moments(moments.of(x), reference).distance for x in features]))

    return min(work.samplers_of(side, nfe), key=far)


def real(work: Work) -> Images:
    """Training images of the classes asked for, which show what scores can be had."""
    images, labels = work.train
    rows = [np.flatnonzero(labels == label)[: IMAGES // CLASSES] for label in range(CLASSES)]
    return images[np.stack(rows, axis=1).reshape(-1)]

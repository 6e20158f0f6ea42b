"""How good drawn digits are: the main job's measures, on 8x8 digits as [N, 64] pixels in [-1, 1]."""

from functools import cache

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from jdiff.metrics.frechet import frechet_distance


@cache
def real_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(1,500 training digits, their labels, 297 held-out digits)."""
    x, y = load_digits(return_X_y=True)
    train, test, y_train, _ = train_test_split(x / 8 - 1, y, test_size=297, random_state=0, stratify=y)
    return train, y_train, test


@cache
def reader() -> SVC:
    """Reads 99 % of held-out real digits right."""
    train, y_train, _ = real_digits()
    return SVC(gamma=0.016, C=10).fit(train, y_train)


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 8, 8, 1] -> [N, 64] in [-1, 1]."""
    return images.reshape(len(images), -1) / 127.5 - 1


def read_right(images: np.ndarray, labels: np.ndarray) -> float:
    """The share of drawn digits that the SVM reads as the class they were asked for."""
    return float(np.mean(reader().predict(images) == labels))


def distance(images: np.ndarray) -> float:
    """The Frechet distance of pixels to the held-out digits."""
    return frechet_distance(images, real_digits()[2])


def copies(images: np.ndarray) -> float:
    """The share of drawn digits nearer to a training digit than 95 % of held-out ones are."""
    return near(images, real_digits()[0])


def near(images: np.ndarray, real: np.ndarray) -> float:
    """The share of drawn digits nearer to one of `real` than 95 % of held-out digits are to a training digit."""
    train, _, test = real_digits()
    limit = np.percentile(pairwise_distances(test, train).min(1), 5)
    return float(np.mean(pairwise_distances(images, real).min(1) < limit))

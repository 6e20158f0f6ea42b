"""Pairs of masks on which metrics of masks are compared: random ones, and each degenerate case."""

import numpy as np

SIDE = 24


def blank() -> np.ndarray:
    return np.zeros((SIDE, SIDE), bool)


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = blank()
    mask[top:bottom, left:right] = True
    return mask


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true masks [n, h, w] with: all and nothing, a pixel, borders, corners, a hole, and noise."""
    pixel, corner, full = box(7, 9, 8, 10), box(0, 0, 1, 1), ~blank()
    ring = box(4, 4, 15, 15) & ~box(7, 7, 12, 12)
    edge = box(0, 0, 1, SIDE)
    both = [
        (blank(), blank()),
        (blank(), full),
        (full, blank()),
        (full, full),
        (pixel, pixel),
        (pixel, blank()),
        (blank(), pixel),
        (corner, box(SIDE - 1, SIDE - 1, SIDE, SIDE)),
        (edge, box(0, 0, SIDE, 1)),
        (full, edge),
        (ring, box(4, 4, 15, 15)),
        (pixel, full),
    ]
    rng = np.random.default_rng(0)
    both += [
        (rng.random((SIDE, SIDE)) < p, rng.random((SIDE, SIDE)) < q) for p, q in [(0.02, 0.02), (0.1, 0.5), (0.5, 0.9)]
    ]
    for _ in range(6):
        sides = rng.integers(0, SIDE // 2, (2, 2))
        both.append(tuple(box(t, left, t + rng.integers(1, 12), left + rng.integers(1, 12)) for t, left in sides))
    predicted, truth = zip(*both, strict=True)
    return np.array(predicted), np.array(truth)


def labels(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true masks of several classes; the last class is missing from some."""
    rng = np.random.default_rng(1)
    predicted, truth = rng.integers(0, classes, (2, 5, SIDE, SIDE))
    predicted[1][predicted[1] == classes - 1] = 0
    predicted[2][predicted[2] == classes - 1] = 0
    truth[2][truth[2] == classes - 1] = 1
    return predicted, truth

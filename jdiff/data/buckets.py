"""Aspect buckets: a few shapes of about as many pixels, to the nearest of which each image is brought.

Cropped to a shape of H x W, an image of h x w keeps the share exp(-|ln(h/w) - ln(H/W)|) of its pixels.
"""

import math
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int

Shape = tuple[int, int]  # (height, width)
Shapes = tuple[Shape, ...]

WIDEST = 4  # ratio of sides
UNEQUAL = 0.25  # how far a shape's pixels may be from side * side
NEGLIGIBLE = 0.002  # share of the pixels: more shapes that keep no more than this are not worth a program each


def aspect(height: int, width: int) -> float:
    """ln(height / width)."""
    return math.log(height / width)


def nearest(sizes: Int[np.ndarray, "n 2"], shapes: Shapes) -> Int[np.ndarray, " n"]:
    """The number of the shape that each size (height, width) goes to: the nearest in ln(h/w)."""
    rising = np.argsort(np.array([aspect(*shape) for shape in shapes]), kind="stable")
    known = np.array([aspect(*shapes[i]) for i in rising])
    return rising[np.searchsorted((known[1:] + known[:-1]) / 2, _aspects(sizes))]


def kept(sizes: Int[np.ndarray, "n 2"], shapes: Shapes) -> float:
    """The share of pixels that crops to the nearest of these shapes keep, the mean over images."""
    known = np.array([aspect(*shape) for shape in shapes])
    return float(np.exp(-np.abs(_aspects(sizes) - known[nearest(sizes, shapes)])).mean())


def choose(sizes: Int[np.ndarray, "n 2"], *, side: int, most: int, multiple: int) -> Shapes:
    """The shapes, `most` at most, that keep the largest share of the pixels of images of these sizes; fewer where more
    keep hardly more. Each has about side * side pixels and sides that are multiples of `multiple`. The most frequent
    one is the first.
    """
    shapes = _candidates(side, multiple)
    aspects, counts = np.unique(np.round(_aspects(sizes), 4), return_counts=True)
    chosen = tuple(shapes[i] for i in _best(aspects, counts, np.array([aspect(*shape) for shape in shapes]), most))
    used = np.bincount(nearest(sizes, chosen), minlength=len(chosen))
    order = sorted(range(len(chosen)), key=lambda i: (-used[i], chosen[i]))
    return tuple(chosen[i] for i in order if used[i])


def _aspects(sizes: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    return np.log(sizes[:, 0].astype(np.float64) / sizes[:, 1])


def _candidates(side: int, multiple: int) -> list[Shape]:
    """All shapes, by rising aspect; of those of one aspect the one nearest to side * side pixels."""

    def rounded(length: float) -> int:
        return max(1, round(length / multiple)) * multiple

    square, pixels = rounded(side), side * side
    found = {(square, square)}
    for one in range(multiple, 2 * side + multiple, multiple):
        other = rounded(pixels / one)
        if max(one, other) <= WIDEST * min(one, other) and abs(one * other / pixels - 1) <= UNEQUAL:
            found |= {(one, other), (other, one)}
    by_aspect: dict[Fraction, Shape] = {}
    for shape in sorted(found, key=lambda shape: (abs(shape[0] * shape[1] - pixels), shape)):
        by_aspect.setdefault(Fraction(*shape), shape)
    return [by_aspect[ratio] for ratio in sorted(by_aspect)]


def _best(
    aspects: Float[np.ndarray, " r"], counts: Int[np.ndarray, " r"], known: Float[np.ndarray, " m"], most: int
) -> list[int]:
    """Which of the rising aspects `known` keep the most of images of `aspects`: exactly, by dynamic programming over
    (how many are chosen, the last of them), as an image goes to one of its two neighbours.
    """
    down, up = (np.append(0.0, np.cumsum(counts * np.exp(sign * aspects))) for sign in (-1, 1))

    def below(ends: Float[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        return np.searchsorted(aspects, ends, side="right")

    here, middle = below(known), below((known[:, None] + known) / 2)
    between = np.exp(known)[:, None] * (down[middle] - down[here][:, None])
    between += np.exp(-known) * (up[here] - up[middle])
    between[np.tril_indices(len(known))] = -np.inf
    after = np.exp(known) * (down[-1] - down[here])

    so_far = np.exp(-known) * up[here]  # of the images below the last one chosen
    ends, before = [so_far], []
    for _ in range(1, min(most, len(known))):
        reached = so_far[:, None] + between
        before.append(reached.argmax(axis=0))
        so_far = reached.max(axis=0)
        ends.append(so_far)
    totals = np.array([(one + after).max() for one in ends])
    number = int(np.argmax(totals >= totals.max() - NEGLIGIBLE * counts.sum()))
    chosen = [int((ends[number] + after).argmax())]
    for step in reversed(before[:number]):
        chosen.append(int(step[chosen[-1]]))
    return chosen[::-1]

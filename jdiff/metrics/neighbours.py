"""Distances to nearest neighbours, and the scores of fidelity and diversity that they give.

r_k(x) is the distance of x to its k-th nearest other point of its own set. All distances are Euclidean, in float64, by
blocks, so that memory does not grow with n m. Distances within rounding of 0 are 0, so that copies are at 0.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jdiff.metrics.checks import checked, checked_reference, same_dimensions

ROWS = 2048  # a block of distances has at most so many rows and columns: 32 MiB
TIE = 1e-9  # squared distances that differ by less, relatively, are equal


class Prdc(NamedTuple):
    """Precision and recall in [0, 1], density >= 0 (1: as dense as the reference), coverage in [0, 1]."""

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


def prdc(generated: Float[np.ndarray, "n _d"], reference: Float[np.ndarray, "m _d"], k: int) -> Prdc:
    """Improved precision and recall, and density and coverage, of generated rows g against reference rows r:

        precision = mean_g [some r: |g - r| <= r_k(r)]     recall   = mean_r [some g: |g - r| <= r_k(g)]
        density   = mean_g #{r: |g - r| < r_k(r)} / k      coverage = mean_r [min_g |g - r| < r_k(r)]

    Kynkaanniemi et al., arXiv 1904.06991, eq. 2 and 3 (k = 3), and Naeem et al., arXiv 2002.09797, eq. 3 and 4
    (k = 5); <= and < as in their codes, which differ only where distances are equal. Protocols differ in k and counts,
    and each score depends on both. Raises UserError unless both sets have more than k rows.
    """
    if k < 1:
        raise ValueError(f"k={k}: the nearest neighbour is k=1")
    g, r = checked(generated, "generated", k + 1), checked_reference(reference, at_least=k + 1)
    same_dimensions(generated=g, reference=r)
    radii_g, radii_r = kth_distances(g, k) ** 2, kth_distances(r, k) ** 2
    inside = np.zeros(len(g), np.int64)  # balls of the reference that hold g
    precise = np.zeros(len(g), bool)
    recalled = np.zeros(len(r), bool)
    covered = np.zeros(len(r), bool)
    for rows, columns, squared in _blocks(g, r):
        closed = squared <= radii_r[columns] * (1 + TIE)
        within = squared < radii_r[columns] * (1 - TIE)
        precise[rows] |= closed.any(axis=1)
        inside[rows] += within.sum(axis=1)
        covered[columns] |= within.any(axis=0)
        recalled[columns] |= (squared <= radii_g[rows, None] * (1 + TIE)).any(axis=0)
    return Prdc(
        precision=float(precise.mean()),
        recall=float(recalled.mean()),
        density=float(inside.mean() / k),
        coverage=float(covered.mean()),
        k=k,
    )


def kth_distances(features: Float[np.ndarray, "n _d"], k: int) -> Float[np.ndarray, " n"]:
    """r_k: the distance of each row to its k-th nearest other row. Raises UserError unless n > k."""
    x = checked(features, "given", k + 1)
    nearest = np.full((len(x), k), np.inf)
    for rows, columns, squared in _blocks(x, x):
        if rows == columns:
            np.fill_diagonal(squared, np.inf)  # a point is no neighbour of its own
        nearest[rows] = np.partition(np.concatenate([nearest[rows], squared], axis=1), k - 1, axis=1)[:, :k]
    return np.sqrt(nearest.max(axis=1))


class Nearest(NamedTuple):
    """Distance to, and row number of, the nearest row of another set."""

    distances: Float[np.ndarray, " n"]
    indices: Int[np.ndarray, " n"]


def nearest(queries: Float[np.ndarray, "n _d"], among: Float[np.ndarray, "m _d"]) -> Nearest:
    """The nearest row of `among`, such as training images, for each query; the first one of several."""
    q, x = checked(queries, "query"), checked(among, "training")
    same_dimensions(query=q, training=x)
    best, indices = np.full(len(q), np.inf), np.zeros(len(q), np.int64)
    for rows, columns, squared in _blocks(q, x):
        where = squared.argmin(axis=1)
        found = squared[np.arange(len(where)), where]
        better = found < best[rows]
        best[rows] = np.where(better, found, best[rows])
        indices[rows] = np.where(better, where + columns.start, indices[rows])
    return Nearest(np.sqrt(best), indices)


def squared_distances(x: Float[np.ndarray, "n _d"], y: Float[np.ndarray, "m _d"]) -> Float[np.ndarray, "n m"]:
    """All squared distances between rows of x and y, at once in memory, rounded to float32."""
    squared = np.empty((len(x), len(y)), np.float32)
    for rows, columns, block in _blocks(x, y):
        squared[rows, columns] = block
    return squared


def _blocks(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """(rows of x, rows of y, squared distances between them), block by block."""
    # |x|^2 + |y|^2 - 2 x.y loses digits where norms are large against distances, so about a point in their midst.
    centre = y.mean(axis=0, dtype=np.float64)
    for i in range(0, len(x), ROWS):
        a = x[i : i + ROWS] - centre
        norms_a = np.einsum("nd,nd->n", a, a)
        for j in range(0, len(y), ROWS):
            b = y[j : j + ROWS] - centre
            norms = norms_a[:, None] + np.einsum("nd,nd->n", b, b)
            squared = norms - 2 * (a @ b.T)
            squared[squared < 64 * np.finfo(np.float64).eps * norms] = 0
            yield slice(i, i + len(a)), slice(j, j + len(b)), squared

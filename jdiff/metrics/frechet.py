"""The Frechet distance between Gaussians fitted to features; FID if these are Inception's.

    d^2 = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

(Heusel et al., arXiv 1706.08500, eq. 6). With factors S = L L^T, the eigenvalues of (S_a S_b)^(1/2) are the singular
values of L_a^T L_b, so the trace is real and needs no root of a matrix that is not symmetric. L has as many columns as
S has rank: eigenvalues within rounding of 0 are left out, where a general matrix root takes the roots of their rounding
errors, 1e-8 of the largest root each.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jdiff.common.errors import UserError
from jdiff.metrics import moments
from jdiff.metrics.checks import checked, checked_reference, same_dimensions
from jdiff.metrics.moments import Moments


class Frechet(NamedTuple):
    """A squared distance in squared units of the features, its two parts, and the covariances' ranks."""

    distance: float
    of_means: float  # |mu_a - mu_b|^2
    of_covariances: float  # tr(S_a + S_b - 2 (S_a S_b)^(1/2))
    ranks: tuple[int, int]
    dimensions: int

    @property
    def rank_deficient(self) -> bool:
        """Whether a covariance is singular, as with fewer images than dimensions: exact for these two Gaussians, but
        an estimate with a large bias of the distance between the distributions they were drawn from."""
        return min(self.ranks) < self.dimensions


def frechet_distance(a: Float[np.ndarray, "n _d"], b: Float[np.ndarray, "m _d"]) -> float:
    """The squared Frechet distance of features a (generated) to b (reference), with unbiased covariances in float64.

    Raises UserError unless both have at least two rows, finite values and equal d, and b's rows differ.

    >>> b = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    >>> round(frechet_distance(b + [3.0, 0.0], b), 6)  # of equal spread, three apart
    9.0
    """
    a, b = checked(a, "generated", 2), checked_reference(b)
    same_dimensions(generated=a, reference=b)
    return frechet_of_moments(moments.of(a), moments.of(b)).distance


def frechet_of_moments(a: Moments, b: Moments) -> Frechet:
    """The squared Frechet distance of two sets by their moments. Raises UserError for a count below 2."""
    return frechet_of_gaussians(a.mean, a.covariance, b.mean, b.covariance)


def frechet_of_gaussians(
    mean_a: Float[np.ndarray, " _d"],
    covariance_a: Float[np.ndarray, "_d _d"],
    mean_b: Float[np.ndarray, " _d"],
    covariance_b: Float[np.ndarray, "_d _d"],
) -> Frechet:
    """The squared Frechet distance of two Gaussians, as of files with mu and sigma.

    Raises UserError for different dimensions, for values that are not finite and for a matrix that is no covariance.
    """
    if mean_a.shape != mean_b.shape:
        raise UserError(f"statistics of {len(mean_a)} and {len(mean_b)} dimensions are of different features")
    factor_a, factor_b = factor(mean_a, covariance_a), factor(mean_b, covariance_b)
    shift = np.float64(mean_a) - mean_b
    # 0 where a covariance is 0: numpy has no singular values of an empty matrix.
    ranks = factor_a.shape[1], factor_b.shape[1]
    cross = np.linalg.norm(factor_a.T @ factor_b, ord="nuc") if min(ranks) else 0.0
    # tr(L L^T), so that a set has distance 0 to itself whatever was left out of the factors.
    trace = np.sum(factor_a**2) + np.sum(factor_b**2)
    of_means, of_covariances = float(shift @ shift), float(trace - 2 * cross)
    return Frechet(of_means + of_covariances, of_means, of_covariances, ranks, len(shift))


def standard_error(rows: Float[np.ndarray, "n _d"], a: Moments, b: Moments) -> float:
    """The standard error of the squared distance of a to b by the sampling of a's images, of which `rows` are some.

    To first order in the errors of a's mean and covariance the distance is a mean over images x of

        psi(x) = 2 (mu_a - mu_b).(x - mu_a) + (x - mu_a)^T (I - T) (x - mu_a),   T = S_b^(1/2) R^(-1/2) S_b^(1/2)

    with R = S_b^(1/2) S_a S_b^(1/2) (the derivative of tr (S_a S_b)^(1/2) by S_a is T / 2), so that the error is
    std(psi) / sqrt(n_a). It holds no bias, which is of order 1/n: see `frechet_infinity`. Raises UserError for n < 2.
    """
    x = checked(rows, "generated", 2).astype(np.float64) - a.mean
    root = factor(b.mean, b.covariance)
    values, vectors = np.linalg.eigh(root.T @ a.covariance @ root)
    kept = values > len(values) * np.finfo(float).eps * max(float(values[-1]) if len(values) else 0.0, 0.0)
    half = root @ (vectors[:, kept] * values[kept] ** -0.25)  # T = half half^T
    psi = 2 * x @ (a.mean - b.mean) + np.einsum("nd,nd->n", x, x) - np.einsum("nr,nr->n", x @ half, x @ half)
    return float(np.std(psi, ddof=1) / np.sqrt(a.count))


class Infinity(NamedTuple):
    """The line distance(n) = limit + slope / n, and the points it was fitted to."""

    limit: float
    slope: float
    standard_error: float  # of the limit, by the residuals; the points share images, so it is too small
    counts: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_infinity(
    generated: Float[np.ndarray, "n _d"],
    reference: Moments,
    points: int = 15,
    smallest: int | None = None,
    seed: int = 0,
) -> Infinity:
    """The Frechet distance extrapolated to infinitely many generated images.

    A least-squares line in 1/n through the distances of random subsets of `points` sizes, evenly spaced from
    `smallest` to n: Chong and Forsyth, arXiv 1911.07023, where it is FID-infinity and `smallest` is 5,000. Below 15,000
    images it is a third of n here, but at least 4 d: nearer to d the bias is not linear in 1/n, and the limit comes out
    too low. The bias of order 1/n goes; that of the reference's own count stays. Near 0 the limit may lie slightly
    below. Raises UserError for fewer than 6 d images.
    """
    x = checked(generated, "generated", 2)
    if points < 3:
        raise ValueError(f"points={points}: a line with its error needs at least 3")
    dimensions = x.shape[1]
    least = max(6 * dimensions, 2 * points)
    if len(x) < least:
        raise UserError(
            f"the limit in 1/n needs many more images than the features' {dimensions} dimensions; there are {len(x)} "
            f"generated images: give at least {least}, or fewer dimensions"
        )
    if smallest is None:
        smallest = 5000 if len(x) >= 15_000 else max(len(x) // 3, 4 * dimensions)
    counts = np.unique(np.linspace(min(smallest, len(x)), len(x), points).astype(int))
    if smallest <= dimensions or len(counts) < 3:
        raise ValueError(f"smallest={smallest}: a line needs three sizes between {dimensions} and {len(x)}")
    rng = np.random.default_rng(seed)
    subsets = (x[rng.choice(len(x), count, replace=False)] for count in counts)
    distances = np.array([frechet_of_moments(moments.of(subset), reference).distance for subset in subsets])
    design = np.stack([np.ones(len(counts)), 1 / counts], axis=1)
    (limit, slope), residual = np.linalg.lstsq(design, distances)[:2]
    variance = (float(residual[0]) if residual.size else 0.0) / (len(counts) - 2)
    error = float(np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0]))
    return Infinity(float(limit), float(slope), error, tuple(map(int, counts)), tuple(map(float, distances)))


def factor(mean: np.ndarray, covariance: np.ndarray) -> Float[np.ndarray, "d rank"]:
    """L with L L^T = covariance, without the eigenvalues that are 0 within rounding.

    Raises UserError for what is no covariance: not [d, d], not finite, not symmetric, or with an eigenvalue below 0.
    """
    d = len(mean)
    if covariance.shape != (d, d) or not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(
            f"statistics must be finite, a mean [d] and a covariance [d, d]; they are {list(mean.shape)} and "
            f"{list(covariance.shape)}{'' if covariance.shape != (d, d) else ' with values that are not finite'}"
        )
    # A file's sigma may be of float32 sums, whose rounding makes eigenvalues of -1e-7 of the largest.
    if np.abs(covariance - covariance.T).max(initial=0.0) > 1e-4 * np.abs(covariance).max(initial=0.0):
        raise UserError("sigma is no covariance: it is not symmetric")
    values, vectors = np.linalg.eigh(np.float64(covariance))
    largest = float(max(values[-1], 0))
    if values[0] < -1e-4 * max(largest, np.finfo(float).tiny):
        raise UserError(f"sigma is no covariance: it has the eigenvalue {values[0]:.3g}, and no variance is negative")
    kept = values > d * np.finfo(float).eps * largest
    return vectors[:, kept] * np.sqrt(values[kept])

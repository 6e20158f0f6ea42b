"""Maximum mean discrepancies: MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) (Gretton et al., JMLR 13, 2012).

KID takes k(x, y) = (x.y / d + 1)^3 on Inception's features and the unbiased estimate, without i = j (Binkowski et al.,
arXiv 1801.01401). CMMD takes k(x, y) = exp(-|x - y|^2 / (2 sigma^2)) on CLIP's normalised features and the biased
estimate, with the diagonal (Jayasumana et al., arXiv 2401.09603). In float64, by blocks of rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jdiff.common.errors import UserError
from jdiff.metrics.checks import checked, checked_reference, same_dimensions

ROWS = 2048  # a block of the kernel matrix has at most so many rows and columns: 32 MiB

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]  # [p, d], [q, d] -> [p, q]


class Kid(NamedTuple):
    """Mean and standard deviation (/ subsets) of MMD^2 over subsets."""

    mean: float
    std: float
    subsets: int
    size: int


def kid(
    generated: Float[np.ndarray, "n _d"],
    reference: Float[np.ndarray, "m _d"],
    subsets: int = 100,
    size: int = 1000,
    seed: int = 2020,
) -> Kid:
    """The kernel distance over random subsets of `size` rows of each set; it may be slightly negative.

    Subsets are drawn as torch-fidelity draws them, generated before reference, from RandomState(seed), whose stream
    NumPy keeps for ever: so its number comes out. Raises UserError for sets smaller than `size`.
    """
    x, y = _pair(generated, reference, 2)
    if size < 2 or subsets < 1:
        raise ValueError(f"size={size} and subsets={subsets}: at least 2 rows and 1 subset are needed")
    if size > min(len(x), len(y)):
        raise UserError(
            f"subsets of {size} cannot be drawn from {len(x)} generated and {len(y)} reference images; make more or "
            f"take size={min(len(x), len(y))}, which is another protocol"
        )
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        rows_x = rng.choice(len(x), size, replace=False)
        rows_y = rng.choice(len(y), size, replace=False)
        values.append(_mmd(_cubic, x[rows_x].astype(np.float64), y[rows_y].astype(np.float64), unbiased=True))
    return Kid(float(np.mean(values)), float(np.std(values)), subsets, size)


def kernel_distance(generated: Float[np.ndarray, "n _d"], reference: Float[np.ndarray, "m _d"]) -> float:
    """KID's unbiased MMD^2 of all rows, without subsets.

    >>> kernel_distance(np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]]))  # k = (x y + 1)^3: 1 + 64 - 2 * 93
    -121.0
    """
    x, y = _pair(generated, reference, 2)
    return _mmd(_cubic, x.astype(np.float64), y.astype(np.float64), unbiased=True)


def cmmd(
    generated: Float[np.ndarray, "n _d"],
    reference: Float[np.ndarray, "m _d"],
    sigma: float = 10.0,
    scale: float = 1000.0,
) -> float:
    """`scale` MMD^2 with a Gaussian kernel of bandwidth `sigma` on features divided by their norms, biased.

    Raises UserError for a row of zeros, which has no direction.
    """
    x, y = _pair(generated, reference, 1)
    if sigma <= 0:
        raise ValueError(f"sigma={sigma}: a bandwidth is positive")

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # k - 1: the three means are each near 1 and their difference is wanted. |x| = |y| = 1.
        return np.expm1(-np.maximum(2 - 2 * (x @ y.T), 0) / (2 * sigma**2))

    return scale * _mmd(kernel, normalised(x, "generated"), normalised(y, "reference"), unbiased=False)


def normalised(x: np.ndarray, name: str) -> Float[np.ndarray, "n d"]:
    """Rows divided by their Euclidean norms, in float64; raises UserError for a row of zeros."""
    norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    if not norms.all():
        raise UserError(f"features of {name} image {int(np.argmin(norms))} are all 0 and cannot be normalised")
    return x / norms


def _pair(generated: np.ndarray, reference: np.ndarray, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = checked(generated, "generated", at_least), checked_reference(reference)
    same_dimensions(generated=x, reference=y)
    return x, y


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mmd(kernel: Kernel, x: np.ndarray, y: np.ndarray, unbiased: bool) -> float:
    n, m = len(x), len(y)
    within_x, within_y = _total(kernel, x, x), _total(kernel, y, y)
    if unbiased:
        within_x = (within_x - _diagonal(kernel, x)) / (n * (n - 1))
        within_y = (within_y - _diagonal(kernel, y)) / (m * (m - 1))
    else:
        within_x, within_y = within_x / n**2, within_y / m**2
    return float(within_x + within_y - 2 * _total(kernel, x, y) / (n * m))


def _total(kernel: Kernel, x: np.ndarray, y: np.ndarray) -> float:
    """Sum of the kernel matrix."""
    blocks = ((x[i : i + ROWS], y[j : j + ROWS]) for i in range(0, len(x), ROWS) for j in range(0, len(y), ROWS))
    return sum(float(kernel(*block).sum()) for block in blocks)


def _diagonal(kernel: Kernel, x: np.ndarray) -> float:
    """Sum of the kernel matrix's diagonal."""
    return sum(float(np.trace(kernel(x[i : i + 64], x[i : i + 64]))) for i in range(0, len(x), 64))

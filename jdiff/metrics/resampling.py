"""How sure a number is: percentile bootstrap intervals (Efron 1979).

Rows are drawn with replacement as often as there are rows, the statistic is computed of each draw, and the interval
runs from the (1 - level) / 2 to the (1 + level) / 2 quantile of these.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jdiff.common.errors import UserError

Statistic = Callable[[np.ndarray], float]


class Interval(NamedTuple):
    """The statistic of all rows, and its interval."""

    estimate: float
    low: float
    high: float


def mean(values: np.ndarray) -> float:
    """The mean of all values."""
    return float(np.mean(values))


def bootstrap_interval(
    values: Float[np.ndarray, "n ..."],
    statistic: Statistic = mean,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The interval of `statistic(values)`, where values has one row an image (or a seed): scores [n], features [n, d].

    Right for smooth statistics such as means. A distance with bias of order 1/n (FID) has more of it in a draw, whose
    rows repeat: take several seeds there. Raises UserError for fewer than 2 rows or values that are not finite.
    """
    x = _checked(values, level, resamples)
    rng = np.random.default_rng(seed)
    draws = [statistic(x[rng.integers(len(x), size=len(x))]) for _ in range(resamples)]
    return _interval(statistic(x), draws, level)


def bootstrap_difference(
    a: Float[np.ndarray, "n ..."],
    b: Float[np.ndarray, "m ..."],
    statistic: Statistic = mean,
    paired: bool = True,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The interval of `statistic(a) - statistic(b)`; one that holds 0 shows no difference.

    Paired, row i of both is of the same seed, class or image and is drawn for both together, which makes the interval
    as narrow as the pairs are alike. Raises UserError for paired scores of different counts, and as above.
    """
    x, y = _checked(a, level, resamples), _checked(b, level, resamples)
    if paired and len(x) != len(y):
        raise UserError(f"paired scores come in equal numbers, not {len(x)} and {len(y)}; or set paired=False")
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        rows_x = rng.integers(len(x), size=len(x))
        rows_y = rows_x if paired else rng.integers(len(y), size=len(y))
        draws.append(statistic(x[rows_x]) - statistic(y[rows_y]))
    return _interval(statistic(x) - statistic(y), draws, level)


def _checked(values: np.ndarray, level: float, resamples: int) -> np.ndarray:
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level={level} is in (0, 1) and resamples={resamples} at least 1")
    x = np.asarray(values, np.float64)
    if x.ndim == 0 or len(x) < 2:
        raise UserError(f"an interval needs at least 2 scores; these are {list(x.shape)}")
    if not np.isfinite(x).all():
        raise UserError(f"{int((~np.isfinite(x)).sum())} of {x.size} scores are NaN or infinite")
    return x


def _interval(estimate: float, draws: list[float], level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high))

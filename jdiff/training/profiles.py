"""Power-function profiles of weight averages, and one profile as a sum of others (Karras et al., arXiv 2312.02696).

At time t_s the average of the weights theta(t) under the profile of exponent gamma is

    theta_gamma(t_s) = integral over [0, t_s] of p(t) theta(t) dt,    p(t) = (gamma + 1) t^gamma / t_s^(gamma + 1)

Its relative width is the profile's standard deviation over t_s. Time is counted in images. As averages are linear in
their profiles, one that was never kept is the sum of kept ones by whose profiles its own is best made.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

ROUNDING = 1e-10  # relative to the diagonal of the inner products; keeps nearly equal profiles from cancelling


class Profile(NamedTuple):
    """p(t) = (gamma + 1) t^gamma / end^(gamma + 1) on [0, end], where end > 0; 0 elsewhere."""

    gamma: float
    end: float


def gamma_of(width: float) -> float:
    """The exponent gamma >= 0 of a relative width in (0, sqrt(1/12)]: the largest root of the cubic (appendix C)

    (gamma + 2)^2 (gamma + 3) = (gamma + 1) / width^2
    """
    square = width**-2
    return float(np.roots([1.0, 7.0, 16.0 - square, 12.0 - square]).real.max())


def width_of(gamma: float) -> float:
    """sigma_rel = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))), of gamma > -1."""
    return float(np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))))


def inner_products(first: Sequence[Profile], second: Sequence[Profile]) -> Float[np.ndarray, "n m"]:
    """The integral of p_a(t) p_b(t) dt for each pair: with a the one that ends first,

    (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) (end_a / end_b)^gamma_b / end_b
    """
    gamma_a, end_a = np.array(first, np.float64).T[..., None]
    gamma_b, end_b = np.array(second, np.float64).T[:, None]
    earlier, later = np.minimum(end_a, end_b), np.maximum(end_a, end_b)
    of_later = np.where(end_a <= end_b, gamma_b, gamma_a)
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * (earlier / later) ** of_later / later


def combination(kept: Sequence[Profile], wanted: Profile) -> tuple[Float[np.ndarray, " n"], float]:
    """(c, residual) of the sum of c_i p_i over the kept profiles that is nearest to the wanted one in least squares;
    residual: the root of the mean square of what is left over that of the wanted profile.

    The c_i sum to 1, as each profile does, so that weights that do not change come out as they are; the paper's
    solution leaves the sum free. In float64 by Lagrange's multiplier, in units in which each profile has norm 1.
    """
    kept = [Profile(gamma, end / wanted.end) for gamma, end in kept]  # the solution knows no unit of time
    wanted = Profile(wanted.gamma, 1.0)
    products, towards = inner_products(kept, kept), inner_products(kept, [wanted])[:, 0]
    norm, own = np.sqrt(np.diag(products)), inner_products([wanted], [wanted])[0, 0]
    count = len(kept)
    system = np.zeros((count + 1, count + 1))
    system[:count, :count] = products / np.outer(norm, norm) + ROUNDING * np.eye(count)
    system[count, :count] = system[:count, count] = 1 / norm
    c = np.linalg.solve(system, np.append(towards / norm, 1.0))[:count] / norm
    left = own - 2 * c @ towards + c @ products @ c
    return c, float(np.sqrt(max(left, 0.0) / own))

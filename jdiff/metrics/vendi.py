"""The Vendi score: the effective number of different images (Friedman and Dieng, arXiv 2210.02410; orders q by Pasarkar
and Dieng, arXiv 2310.12952).

K = X X^T for features X of unit norm; the eigenvalues p of K / n are non-negative and sum to 1; the score is the
exponential of their Renyi entropy of order q:

    q = 1: exp(-sum p log p)     q = inf: 1 / max p     otherwise (sum p^q)^(1 / (1 - q))
"""

import numpy as np
from jaxtyping import Float

from jdiff.metrics.checks import checked
from jdiff.metrics.kernel import normalised


def vendi_score(features: Float[np.ndarray, "n _d"], q: float = 1.0) -> float:
    """The score of order q of one set, from 1 (all alike) to min(n, d). Smaller q weighs rare kinds more.

    Normalises the rows; the eigenvalues are those of the smaller of X X^T and X^T X, in float64. Raises UserError for
    a row of zeros.

    >>> kinds = np.eye(3)  # three kinds, nothing in common
    >>> round(vendi_score(kinds), 6), round(vendi_score(np.repeat(kinds[:1], 5, axis=0)), 6)
    (3.0, 1.0)
    """
    if not q >= 0:
        raise ValueError(f"q={q}: an order is in [0, inf]")
    x = normalised(checked(features, "generated"), "generated")
    product = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    p = np.linalg.eigvalsh(product / len(x))
    # Rounding errors of zeros would count as rare kinds, each as one for q = 0.
    p = p[p > len(p) * np.finfo(np.float64).eps * p[-1]]
    p = p / p.sum()
    if q == 1:
        return float(np.exp(-np.sum(p * np.log(p))))
    if np.isinf(q):
        return float(1 / p.max())
    return float(np.sum(p**q) ** (1 / (1 - q)))

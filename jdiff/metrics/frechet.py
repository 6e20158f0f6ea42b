"""The Frechet distance between feature distributions."""

import numpy as np
from jaxtyping import Float


def frechet_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), the squared 2-Wasserstein distance of Gaussians fitted to a
    and b; FID if these are Inception features (Heusel et al., arXiv 1706.08500, eq. 6).

    In float64 with unbiased covariances. tr (S_a S_b)^(1/2) is the nuclear norm of S_a^(1/2) S_b^(1/2), so it stays
    real for singular covariances. Raises ValueError unless both arrays have at least two rows, and equal d.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"feature arrays must be [n >= 2, d] with one d; they are {a.shape} and {b.shape}")
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    cov_a, cov_b = np.atleast_2d(cov_a), np.atleast_2d(cov_b)
    cross = np.linalg.norm(_root(cov_a) @ _root(cov_b), ord="nuc")
    shift = a.mean(axis=0) - b.mean(axis=0)
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def _root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """The symmetric square root. Negative eigenvalues are rounding errors."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T

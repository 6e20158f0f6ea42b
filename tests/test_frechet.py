"""The Frechet distance against the closed form for Gaussians with commuting covariances, and scipy's root."""

import numpy as np
import pytest
from scipy import linalg

from jdiff.metrics.frechet import frechet_distance


def test_against_the_matrix_root():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 8)) @ rng.normal(size=(8, 8)) + 1
    b = rng.normal(size=(400, 8)) @ rng.normal(size=(8, 8))
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(cov_a @ cov_b).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_a_shift_and_a_scale():
    x = np.random.default_rng(0).normal(size=(1000, 4))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2) == pytest.approx(16)
    scaled = np.trace(np.cov(x.T)) * (3 - 1) ** 2 + np.sum((2 * x.mean(0)) ** 2)
    assert frechet_distance(x, 3 * x) == pytest.approx(scaled)


def test_a_covariance_that_is_singular():
    """Digits have pixels that are always black, and there may be fewer images than pixels."""
    x = np.zeros((10, 64))
    x[:, :3] = np.random.default_rng(0).normal(size=(10, 3))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_arrays_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(5, 4\)"):
        frechet_distance(np.zeros((5, 3)), np.zeros((5, 4)))

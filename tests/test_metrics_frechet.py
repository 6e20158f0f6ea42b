"""The Frechet distance against the closed form for Gaussians with commuting covariances, and scipy's root."""

import numpy as np
import pytest
from scipy import linalg

from jdiff.common.errors import UserError
from jdiff.metrics import moments
from jdiff.metrics.frechet import frechet_distance, frechet_infinity, frechet_of_gaussians, frechet_of_moments


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


def test_gaussians_with_the_same_axes():
    """|mu_a - mu_b|^2 + |s_a - s_b|^2 for deviations s along common axes."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    s_a, s_b, shift = rng.random((3, 20)) + 0.1
    found = frechet_of_gaussians(shift, (axes * s_a**2) @ axes.T, 0 * shift, (axes * s_b**2) @ axes.T)
    assert found.of_means == pytest.approx(shift @ shift, rel=1e-12)
    assert found.of_covariances == pytest.approx(np.sum((s_a - s_b) ** 2), rel=1e-10)
    assert found.distance == found.of_means + found.of_covariances
    assert (found.ranks, found.dimensions, found.rank_deficient) == ((20, 20), 20, False)


def test_fewer_samples_than_dimensions():
    """The distance is exact and its ranks say what it is of; a general matrix root strays."""
    rng = np.random.default_rng(0)
    spread = np.geomspace(1, 100, 200)
    a, b = rng.normal(size=(50, 200)) * spread, rng.normal(size=(80, 200)) * spread
    found = frechet_of_moments(moments.of(a), moments.of(b))
    assert found.ranks == (49, 79)
    assert found.rank_deficient
    # The singular values of the product of the centred rows themselves, 50 x 80.
    centred_a, centred_b = (a - a.mean(0)) / 49**0.5, (b - b.mean(0)) / 79**0.5
    cross = np.linalg.svd(centred_a @ centred_b.T, compute_uv=False).sum()
    exact = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.sum(centred_a**2) + np.sum(centred_b**2) - 2 * cross
    assert found.distance == pytest.approx(exact, rel=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12 * np.sum(centred_a**2))
    assert not frechet_of_moments(*[moments.of(rng.normal(size=(201, 200))) for _ in range(2)]).rank_deficient


def test_order_of_rows_and_direction_do_not_matter():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(300, 6)), rng.normal(size=(200, 6)) * 2
    expected = frechet_distance(a, b)
    assert frechet_distance(rng.permutation(a), rng.permutation(b)) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-12)


def test_halves_merged_give_the_distance_of_the_whole():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(301, 6)).astype(np.float32), rng.normal(size=(200, 6))
    whole = frechet_of_moments(moments.of(a), moments.of(b)).distance
    halves = frechet_of_moments(moments.merge(moments.of(a[:7]), moments.of(a[7:])), moments.of(b)).distance
    assert halves == pytest.approx(whole, rel=1e-12)
    assert frechet_distance(a, b) == whole


def test_the_limit_of_many_samples_has_less_bias():
    """Samples of the very distribution of the reference's exact moments: the distance's limit is 0."""
    d, n = 16, 4000
    exact = moments.Moments(count=10**9, mean=np.zeros(d), m2=np.eye(d) * (10**9 - 1))
    limits, plain = [], []
    for seed in range(8):
        x = np.random.default_rng(seed).normal(size=(n, d))
        found = frechet_infinity(x, exact, seed=seed)
        limits.append(found.limit)
        plain.append(found.distances[-1])
        assert found.slope > 0
        assert found.counts[0] == n // 3
        assert found.counts[-1] == n
        assert len(found.counts) == 15
    # E |mean|^2 = d / n, and the covariance's part is about d^2 / (4 n).
    assert np.mean(plain) == pytest.approx((d + d**2 / 4) / n, rel=0.15)
    assert abs(np.mean(limits)) < np.mean(plain) / 5
    again = frechet_infinity(x, exact, seed=7)
    assert again == found


def test_the_limit_needs_more_samples_than_dimensions():
    x = np.random.default_rng(0).normal(size=(100, 60))
    reference = moments.of(x)
    with pytest.raises(UserError, match="give at least 360, or fewer dimensions") as error:
        frechet_infinity(x, reference)
    assert "60 dimensions; there are 100 generated images" in str(error.value)
    assert len(frechet_infinity(np.random.default_rng(0).normal(size=(360, 60)), reference).counts) == 15
    with pytest.raises(ValueError, match="points=2"):
        frechet_infinity(x, reference, points=2)


def test_statistics_that_are_none():
    eye = np.eye(3)
    with pytest.raises(UserError, match="3 and 4 dimensions"):
        frechet_of_gaussians(np.zeros(3), eye, np.zeros(4), np.eye(4))
    with pytest.raises(UserError, match=r"\[3\] and \[3, 3\] with values that are not finite"):
        frechet_of_gaussians(np.zeros(3), eye * np.nan, np.zeros(3), eye)
    with pytest.raises(UserError, match="has the eigenvalue -1"):
        frechet_of_gaussians(np.zeros(3), eye, np.zeros(3), np.diag([2.0, 1.0, -1.0]))


def test_features_that_do_not_fit():
    x = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(UserError, match="generated 3, reference 4"):
        frechet_distance(x, np.random.default_rng(0).normal(size=(5, 4)))
    with pytest.raises(UserError, match="1 generated images are too few: this metric needs at least 2"):
        frechet_distance(x[:1], x)
    with pytest.raises(UserError, match="all 5 reference images have the same features"):
        frechet_distance(x, np.ones((5, 3)))


def test_a_collapsed_generator_has_a_distance():
    """Equal generated images are a bad model, not a mistake: |mu_a - mu_b|^2 + tr S_b."""
    x = np.random.default_rng(0).normal(size=(500, 3))
    found = frechet_of_moments(moments.of(np.ones((100, 3))), moments.of(x))
    assert found.distance == pytest.approx(np.sum((1 - x.mean(0)) ** 2) + np.trace(np.cov(x.T)), rel=1e-12)
    assert found.ranks == (0, 3)
    assert found.rank_deficient

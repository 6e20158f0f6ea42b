"""Precision, recall, density, coverage and nearest neighbours against small sets worked out by hand."""

import tracemalloc

import numpy as np
import pytest

from jdiff.common.errors import UserError
from jdiff.metrics import neighbours
from jdiff.metrics.neighbours import kth_distances, nearest, prdc


def test_a_set_against_itself():
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    for k in (1, 3, 5):
        found = prdc(x, np.random.default_rng(1).permutation(x), k)
        assert found == (1, 1, 1, 1, k)


def test_sets_far_apart():
    x = np.random.default_rng(0).normal(size=(50, 6))
    assert prdc(x, x + 100, 3) == (0, 0, 0, 0, 3)


def test_five_points_on_a_line():
    """Reference 0, 1, 3 with k = 1: radii 1, 1, 2. Generated 0.5, 1.8, 9 with k = 1: radii 1.3, 1.3, 7.2."""
    reference, generated = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [1.8], [9.0]])
    found = prdc(generated, reference, k=1)
    assert found.precision == pytest.approx(2 / 3)  # 9 is 6 from 3
    assert found.recall == pytest.approx(1)  # 0.5 reaches 0 and 1, 1.8 reaches 3
    # 0.5 lies in the balls of 0 and 1; 1.8 in those of 1 and 3; 9 in none.
    assert found.density == pytest.approx(4 / 3)
    assert found.coverage == pytest.approx(1)
    assert prdc(generated[1:], reference, k=1).coverage == pytest.approx(2 / 3)


def test_precision_falls_with_bad_images_and_recall_with_lost_modes():
    rng = np.random.default_rng(0)
    modes = rng.normal(size=(10, 8)) * 6
    real, fresh = (modes[rng.integers(10, size=500)] + rng.normal(size=(500, 8)) for _ in range(2))
    good = prdc(fresh, real, 5)
    noisy = prdc(fresh + 5 * rng.normal(size=fresh.shape), real, 5)
    few = prdc(modes[rng.integers(3, size=500)] + rng.normal(size=(500, 8)), real, 5)
    assert noisy.precision < 0.2 < 0.8 < good.precision
    assert few.recall < 0.5 < 0.8 < good.recall
    assert few.precision > 0.8
    assert few.coverage < 0.5 < 0.9 < good.coverage
    assert noisy.density < 0.2
    assert good.density == pytest.approx(1, abs=0.1)


def test_kth_distances_leave_the_point_itself_out():
    x = np.array([[0.0], [1.0], [3.0], [3.0]])
    np.testing.assert_allclose(kth_distances(x, 1), [1, 1, 0, 0])
    np.testing.assert_allclose(kth_distances(x, 2), [3, 2, 2, 2])


def test_nearest_against_all_distances(monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", 13)
    rng = np.random.default_rng(0)
    queries, among = rng.normal(size=(40, 5)), rng.normal(size=(60, 5))
    queries[3] = among[50]
    every = np.linalg.norm(queries[:, None] - among, axis=2)
    found = nearest(queries, among)
    np.testing.assert_array_equal(found.indices, every.argmin(1))
    np.testing.assert_allclose(found.distances, every.min(1), rtol=1e-9)
    assert found.distances[3] == 0


def test_copies_far_from_the_origin_are_at_distance_0():
    """Where |x|^2 + |y|^2 - 2 x.y in float32 leaves 0.3, and in float64 1e-5."""
    x = (np.random.default_rng(0).normal(size=(50, 512)) + 300).astype(np.float32)
    assert not nearest(x, x).distances.any()
    np.testing.assert_array_equal(nearest(x, x[::-1]).indices, np.arange(50)[::-1])
    np.testing.assert_allclose(nearest(x + np.float32(0.25), x).distances, 0.25 * 512**0.5, rtol=1e-4)


def test_blocks_give_the_same_scores(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 4)), rng.normal(size=(110, 4)) * 1.2
    whole, radii = prdc(x, y, 5), kth_distances(y, 7)
    monkeypatch.setattr(neighbours, "ROWS", 16)
    assert prdc(x, y, 5) == whole
    np.testing.assert_allclose(kth_distances(y, 7), radii, rtol=1e-12)
    assert prdc(rng.permutation(x), rng.permutation(y), 5) == pytest.approx(whole)


def test_memory_does_not_grow_with_the_square(monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", 256)
    x = np.random.default_rng(0).normal(size=(4000, 2))
    tracemalloc.start()
    nearest(x, x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # 4,000^2 float64 values are 128 MB


def test_bad_input():
    x = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(UserError, match="5 reference images are too few: this metric needs at least 6"):
        prdc(np.zeros((6, 3)), x, k=5)
    with pytest.raises(UserError, match="5 generated images are too few: this metric needs at least 6"):
        prdc(x, np.zeros((6, 3)), k=5)
    with pytest.raises(UserError, match="all 6 reference images have the same features"):
        prdc(x, np.zeros((6, 3)), k=3)
    with pytest.raises(UserError, match="query 2, training 3"):
        nearest(x[:, :2], x)
    with pytest.raises(UserError, match="are NaN or infinite"):
        prdc(x, np.where(x > 0, np.inf, x), k=2)
    with pytest.raises(ValueError, match="k=0"):
        prdc(x, x, k=0)

"""KID and CMMD against closed forms."""

import tracemalloc

import numpy as np
import pytest

from jdiff.common.errors import UserError
from jdiff.metrics import kernel
from jdiff.metrics.kernel import cmmd, kernel_distance, kid


def test_kid_has_no_bias():
    """Of two samples of one distribution the mean over samples is 0, with values on both sides."""
    values = [kernel_distance(*np.random.default_rng(seed).normal(size=(2, 50, 8))) for seed in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 200**0.5
    assert min(values) < 0 < max(values)


def test_kid_of_shifted_gaussians():
    """E k for x ~ N(0, 1), y ~ N(s, 1) in one dimension: with t = x y, E (t + 1)^3 = E t^3 + 3 E t^2 + 3 E t + 1."""
    s = 0.7
    first, second, third = s, 1 + s**2, s**3 + 3 * s  # moments of N(s, 1)
    of_y = third**2 + 3 * second**2 + 3 * first**2 + 1
    of_x, of_xy = 3 + 1, 3 * second + 1
    rng = np.random.default_rng(0)
    values = [kernel_distance(rng.normal(size=(1000, 1)), rng.normal(size=(800, 1)) + s) for _ in range(30)]
    expected = of_x + of_y - 2 * of_xy
    assert np.mean(values) == pytest.approx(expected, abs=3 * np.std(values) / 30**0.5)


def test_kid_of_the_whole_is_one_subset_of_the_whole():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(60, 5)) * 1.3
    whole = kid(x, y, subsets=3, size=60)
    assert whole.mean == pytest.approx(kernel_distance(x, y), rel=1e-10)
    assert whole.std == pytest.approx(0, abs=1e-12)
    assert (whole.subsets, whole.size) == (3, 60)
    assert kernel_distance(rng.permutation(x), y) == pytest.approx(whole.mean, rel=1e-10)
    assert kid(x, y, size=30) == kid(x, y, size=30)
    assert kid(x, y, size=30) != kid(x, y, size=30, seed=1)


def test_cmmd_of_two_points():
    """1,000 (2 - 2 exp(-|x - y|^2 / 200)) for two directions, whatever the lengths."""
    x, y = np.tile([2.0, 0.0], (5, 1)), np.array([[0.0, 3.0], [0.0, 4.0]])
    y_and_opposite = np.array([[0.0, 3.0], [0.0, -1.0]])
    near, far = np.exp(-2 / 200), np.exp(-4 / 200)
    assert cmmd(x, y_and_opposite) == pytest.approx(1000 * (1 + (1 + far) / 2 - 2 * near), rel=1e-12)
    with pytest.raises(UserError, match="all 2 reference images have the same features"):
        cmmd(x, np.tile(y[:1], (2, 1)))
    assert cmmd(y_and_opposite, y_and_opposite) == 0
    assert cmmd(x, y_and_opposite, sigma=1.0, scale=1.0) == pytest.approx(
        1 + (1 + np.exp(-2)) / 2 - 2 * np.exp(-1), rel=1e-12
    )


def test_cmmd_has_the_digits_that_float32_loses():
    """The published code takes the difference of three means near 1 in float32."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 200, 64)) + 1
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))

    def published(x: np.ndarray, y: np.ndarray) -> np.floating:
        def mean(x, y):
            squared = -2 * x @ y.T + np.diag(x @ x.T)[:, None] + np.diag(y @ y.T)
            return np.mean(np.exp(np.asarray(-1 / 200, x.dtype) * squared))

        return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))

    assert cmmd(x, y) == pytest.approx(published(x, y), rel=1e-9)
    assert cmmd(x, y) == pytest.approx(published(np.float32(x), np.float32(y)), abs=1e-3)


def test_blocks_give_the_same_sums(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(101, 5)), rng.normal(size=(83, 5)) + 0.2
    whole = kernel_distance(x, y), cmmd(x, y)
    monkeypatch.setattr(kernel, "ROWS", 17)
    assert (kernel_distance(x, y), cmmd(x, y)) == pytest.approx(whole, rel=1e-10)


def test_memory_does_not_grow_with_the_square(monkeypatch):
    monkeypatch.setattr(kernel, "ROWS", 256)
    x = np.random.default_rng(0).normal(size=(4000, 2))
    tracemalloc.start()
    cmmd(x, x[:2000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # 4,000^2 float64 values are 128 MB


def test_bad_input():
    x = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(UserError, match="subsets of 1000 cannot be drawn from 20 generated and 15 reference") as error:
        kid(x, x[:15])
    assert "take size=15" in str(error.value)
    assert kid(x, x[:15], size=15).size == 15
    with pytest.raises(UserError, match="generated 3, reference 4"):
        kid(x[:, :3], x, size=5)
    with pytest.raises(UserError, match="features of reference image 0 are all 0"):
        cmmd(x, np.eye(4) * [[0], [1], [1], [1]])
    with pytest.raises(ValueError, match="size=1"):
        kid(x, x, size=1)
    with pytest.raises(ValueError, match="sigma=0"):
        cmmd(x, x, sigma=0)

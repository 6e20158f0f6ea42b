"""Moments in float64 and on a device, against NumPy's, however the rows are cut."""

import itertools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jdiff.common.errors import UserError
from jdiff.metrics import moments
from jdiff.metrics.moments import Moments, empty, merge, merge_running, on_host, running, update


def inception_like(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Correlated non-negative features in float32 whose means are larger than their deviations."""
    rng = np.random.default_rng(seed)
    hidden = np.abs(rng.standard_normal((n, 16), np.float32))
    mixing = rng.random((16, d), np.float32) * (rng.random((16, d)) < 0.3)
    noise = rng.standard_normal((n, d), np.float32)
    return np.maximum(hidden @ mixing + 0.2 * noise + 0.5, 0) * np.geomspace(0.01, 10, d, dtype=np.float32)


def apart(a: Moments, b: Moments) -> float:
    """The largest difference: of means in deviations, of covariances as of correlations."""
    deviation = np.sqrt(np.diag(b.covariance))
    of_mean = np.abs(a.mean - b.mean) / deviation
    of_covariance = np.abs(a.covariance - b.covariance) / np.outer(deviation, deviation)
    return max(of_mean.max(), of_covariance.max())


@pytest.mark.parametrize("batch", [1, 7, 64, 999, 1000, 5000])
def test_any_batching_gives_numpys_moments(batch):
    x = inception_like(1000, 12)
    merged = empty(12)
    for i in range(0, len(x), batch):
        merged = merge(merged, moments.of(x[i : i + batch]))
    assert merged.count == 1000
    np.testing.assert_allclose(merged.mean, x.mean(0, np.float64), rtol=1e-13)
    np.testing.assert_allclose(merged.covariance, np.cov(x.T, dtype=np.float64), rtol=1e-10, atol=1e-15)


def test_more_rows_than_a_block():
    x = inception_like(moments.ROWS * 2 + 5, 3)
    np.testing.assert_allclose(moments.of(x).covariance, np.cov(x.T, dtype=np.float64), rtol=1e-11)


def test_merging_is_associative_and_commutative():
    parts = [moments.of(inception_like(n, 6, seed)) for seed, n in enumerate((1, 5, 200, 1000))]
    first = merge(merge(merge(*parts[:2]), parts[2]), parts[3])
    for a, b, c, d in itertools.permutations(parts):
        assert apart(merge(merge(a, b), merge(c, d)), first) < 1e-13
        assert apart(merge(a, merge(b, merge(c, d))), first) < 1e-13


def test_no_rows_change_nothing_to_the_bit():
    x = moments.of(inception_like(20, 4))
    for merged in (merge(x, empty(4)), merge(empty(4), x), merge(x, moments.of(np.zeros((0, 4))))):
        assert merged.count == 20
        assert merged.m2.tobytes() == x.m2.tobytes()
        assert merged.mean.tobytes() == x.mean.tobytes()


def test_a_large_mean_costs_no_digits():
    x = np.random.default_rng(0).normal(size=(400, 3))
    far = [moments.of(part) for part in np.split(x + 1e6, 4)]
    covariance = merge(merge(far[0], far[1]), merge(far[2], far[3])).covariance
    np.testing.assert_allclose(covariance, np.cov(x.T), rtol=1e-8, atol=1e-9)


def test_moments_are_a_tree_of_arrays():
    x = moments.of(inception_like(20, 4))
    leaves, tree = jax.tree.flatten(x)
    assert apart(jax.tree.unflatten(tree, leaves), x) == 0


def padded_run(x: np.ndarray, batch: int) -> Moments:
    """Moments on the device by batches of one shape, the last one padded with NaN."""
    state, step = running(x.shape[1]), jax.jit(update)
    for i in range(0, len(x), batch):
        part = np.full((batch, x.shape[1]), np.nan, np.float32)
        rows = x[i : i + batch]
        part[: len(rows)] = rows
        state = step(state, part, np.arange(batch) < len(rows))
    return on_host(state)


@pytest.mark.parametrize("batch", [1, 100, 384])
def test_running_moments_with_a_partial_last_batch(batch):
    x = inception_like(1000, 10)
    assert apart(padded_run(x, batch), moments.of(x)) < 1e-6
    assert padded_run(x, batch).count == 1000


def test_float32_sums_of_many_batches_keep_their_digits():
    """50,000 rows; plain float32 sums of x and x x^T, computed beside, lose what the two floats keep."""
    x = inception_like(50_000, 48)
    exact = moments.of(x)
    assert apart(padded_run(x, 250), exact) < 2e-7
    total, products = np.zeros(48, np.float32), np.zeros((48, 48), np.float32)
    for part in np.split(x, 200):
        total += part.sum(0)
        products += part.T @ part
    mean = total / len(x)
    plain = Moments(count=len(x), mean=mean, m2=products - len(x) * np.outer(mean, mean))
    assert apart(plain, exact) > 1e-6


@pytest.mark.slow
def test_float32_error_of_50000_inception_features():
    x = inception_like(50_000, 2048)
    error = apart(padded_run(x, 500), moments.of(x))
    print(f"n = 50,000, d = 2,048, batches of 500: {error:.2g} relative")
    assert error < 1e-6


def test_running_halves_merge():
    x = inception_like(1000, 8)
    step = jax.jit(update)
    halves = [step(running(8), x[:300]), step(step(running(8), x[300:400]), x[400:])]
    merged = on_host(jax.jit(merge_running)(*halves))
    assert merged.count == 1000
    assert apart(merged, moments.of(x)) < 1e-6
    same = on_host(merge_running(halves[0], running(8)))
    assert apart(same, on_host(halves[0])) < 1e-12


SHARDED = """
import sys
import jax, numpy as np
from jdiff.metrics.moments import on_host, running, update

x = np.load(sys.argv[1])
mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,))
rows = jax.NamedSharding(mesh, jax.P("data"))
state = jax.jit(update)(running(8), jax.device_put(x, rows), jax.device_put(np.arange(len(x)) < 500, rows))
state = on_host(state)
np.savez(sys.argv[2], count=state.count, mean=state.mean, m2=state.m2)
"""


def test_rows_sharded_over_devices(tmp_path):
    x = inception_like(512, 8)
    np.save(tmp_path / "x.npy", x)
    two = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", SHARDED, tmp_path / "x.npy", tmp_path / "m.npz"], env=two, check=True)
    found = np.load(tmp_path / "m.npz")
    assert found["count"] == 500
    assert apart(Moments(500, found["mean"], found["m2"]), moments.of(x[:500])) < 1e-6


def test_a_batch_of_padding_alone_changes_nothing():
    x = inception_like(100, 5)
    step = jax.jit(update)
    state = step(running(5), x)
    after = step(state, np.full((100, 5), np.nan, np.float32), np.zeros(100, bool))
    assert apart(on_host(after), on_host(state)) < 1e-12


def test_bad_features():
    x = inception_like(10, 4)
    x[3, 2] = np.nan
    with pytest.raises(UserError, match="1 of 10 given images are NaN or infinite, the first of image 3"):
        moments.of(x)
    with pytest.raises(UserError, match=r"\[n, d\]; those of the given images are \[10\]"):
        moments.of(x[:, 0])
    with pytest.raises(UserError, match="at least 2 images; these statistics are of 1"):
        _ = moments.of(x[:1]).covariance
    with pytest.raises(UserError, match="moments of 4 and 3 dimensions"):
        merge(empty(4), empty(3))

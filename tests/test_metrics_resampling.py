"""Bootstrap intervals hold what they should, and distances by class."""

import numpy as np
import pytest

from jdiff.common.errors import UserError
from jdiff.metrics.frechet import frechet_distance
from jdiff.metrics.per_class import per_class
from jdiff.metrics.resampling import bootstrap_difference, bootstrap_interval


def test_intervals_hold_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        found = bootstrap_interval(rng.exponential(size=100), level=0.9, resamples=200)
        held += found.low <= 1 <= found.high
    assert 0.82 < held / 200 < 0.95


def test_an_interval_of_a_mean():
    x = np.random.default_rng(0).normal(size=400)
    found = bootstrap_interval(x, resamples=4000)
    assert found.estimate == x.mean()
    assert found.high - found.low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.06)
    assert found == bootstrap_interval(x, resamples=4000)
    assert found != bootstrap_interval(x, resamples=4000, seed=1)
    assert bootstrap_interval(x, lambda values: float(np.median(values))).estimate == np.median(x)


def test_pairs_see_a_difference_that_is_smaller_than_the_spread():
    rng = np.random.default_rng(0)
    common = rng.normal(size=50) * 10
    a, b = common + rng.normal(size=50) * 0.1 + 0.2, common + rng.normal(size=50) * 0.1
    paired = bootstrap_difference(a, b)
    assert paired.estimate == pytest.approx((a - b).mean())
    assert 0 < paired.low < 0.2 < paired.high + 0.05
    apart = bootstrap_difference(a, b[:40], paired=False)
    assert apart.low < 0 < apart.high
    backwards = bootstrap_difference(b, a)
    assert (backwards.low, backwards.high) == pytest.approx((-paired.high, -paired.low))


def test_bad_scores():
    x = np.arange(5.0)
    with pytest.raises(UserError, match=r"at least 2 scores; these are \[1\]"):
        bootstrap_interval(x[:1])
    with pytest.raises(UserError, match="1 of 5 scores are NaN or infinite"):
        bootstrap_interval(np.where(x == 2, np.nan, x))
    with pytest.raises(UserError, match="not 5 and 4; or set paired=False"):
        bootstrap_difference(x, x[:4])
    assert bootstrap_difference(x, x[:4], paired=False).estimate == 0.5
    with pytest.raises(ValueError, match="level=1"):
        bootstrap_interval(x, level=1.0)


def test_distances_by_class():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    x, y = rng.normal(size=(2, 300, 4))
    y[labels == 1] += 2
    found = per_class(frechet_distance, x, labels, y, labels)
    assert list(found) == [0, 1, 2]
    for label, distance in found.items():
        assert distance == frechet_distance(x[labels == label], y[labels == label])
    assert found[1] > 10 > found[0]


def test_classes_that_do_not_fit():
    x, labels = np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) // 3
    with pytest.raises(UserError, match="no images of class 2, which was generated"):
        per_class(frechet_distance, x, labels, x[:6], labels[:6])
    with pytest.raises(UserError, match="class 1: 1 generated images are too few"):
        per_class(frechet_distance, x[:4], labels[:4], x, labels)
    with pytest.raises(UserError, match="9 rows of features have 8 labels"):
        per_class(frechet_distance, x, labels[:8], x, labels)

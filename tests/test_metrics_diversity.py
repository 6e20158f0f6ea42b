"""The Inception Score and the Vendi score against closed forms."""

import numpy as np
import pytest

from jdiff.common.errors import UserError
from jdiff.metrics.inception_score import inception_score
from jdiff.metrics.vendi import vendi_score


def test_inception_score_of_certain_classes():
    """The number of classes if each image is certain and the classes are in equal parts; 1 if all are alike."""
    logits = 1e4 * np.eye(8)[np.arange(800) % 8]
    for splits in (1, 10):
        found = inception_score(logits, splits=splits, shuffle_seed=None)
        assert found == (pytest.approx(8, rel=1e-12), pytest.approx(0, abs=1e-12), splits)
    alike = inception_score(np.tile([1.0, 2.0, 3.0], (100, 1)))
    assert alike.mean == pytest.approx(1, rel=1e-12)
    assert alike.std == pytest.approx(0, abs=1e-12)


def test_inception_score_of_uncertain_classes():
    """exp of (log 2 + (1 - a) log(1 - a) + a log a) for two classes, right with 1 - a."""
    a = 0.2
    logits = np.log([[1 - a, a], [a, 1 - a]])[np.arange(400) % 2]
    entropy = -a * np.log(a) - (1 - a) * np.log(1 - a)
    assert inception_score(logits, splits=1).mean == pytest.approx(np.exp(np.log(2) - entropy), rel=1e-12)


def test_images_in_order_of_their_classes_need_the_shuffle():
    ordered = 1e4 * np.eye(10)[np.repeat(np.arange(10), 100)]
    assert inception_score(ordered, shuffle_seed=None).mean == pytest.approx(1)
    assert inception_score(ordered).mean > 9
    assert inception_score(ordered) == inception_score(ordered)


def test_bad_logits():
    with pytest.raises(UserError, match="19 generated images are too few: this metric needs at least 20"):
        inception_score(np.zeros((19, 4)))
    with pytest.raises(UserError, match="single class"):
        inception_score(np.zeros((20, 1)))
    with pytest.raises(UserError, match="1 of 30 generated images are NaN or infinite, the first of image 7"):
        inception_score(np.where(np.arange(30)[:, None] == 7, np.nan, np.zeros((30, 4))))
    with pytest.raises(ValueError, match="splits=0"):
        inception_score(np.zeros((20, 4)), splits=0)


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 2.0, np.inf])
def test_vendi_of_kinds_in_equal_parts(q):
    """Its number of directions, whatever the order, for more and for fewer images than dimensions."""
    kinds = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0][:6]
    lengths = np.random.default_rng(0).random((60, 1)) + 0.1
    assert vendi_score(kinds.repeat(10, axis=0) * lengths, q) == pytest.approx(6, rel=1e-9)
    assert vendi_score(kinds.repeat(2, axis=0), q) == pytest.approx(6, rel=1e-9)
    assert vendi_score(np.ones((9, 4)), q) == pytest.approx(1, rel=1e-9)


def test_vendi_of_unequal_parts():
    """Parts 3/4 and 1/4: q = 1 gives the exponential of the entropy, q = 2 the inverse of the sum of squares."""
    x = np.eye(5)[[0, 0, 0, 1] * 3]
    p = np.array([0.75, 0.25])
    assert vendi_score(x, 0.0) == pytest.approx(2)
    assert vendi_score(x) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-12)
    assert vendi_score(x, 2.0) == pytest.approx(1 / np.sum(p**2), rel=1e-12)
    assert vendi_score(x, np.inf) == pytest.approx(4 / 3, rel=1e-12)
    assert vendi_score(x, 1 + 1e-7) == pytest.approx(vendi_score(x), rel=1e-6)


def test_bad_vendi():
    with pytest.raises(UserError, match="features of generated image 1 are all 0"):
        vendi_score(np.array([[1.0, 2.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="q=-1"):
        vendi_score(np.ones((3, 2)), q=-1.0)

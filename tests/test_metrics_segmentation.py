"""Metrics of masks against closed forms, brute force, scikit-learn, and the literature's scripts rebuilt in NumPy."""

import itertools

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score

from jdiff.common.errors import UserError
from jdiff.metrics.calibration import auc, calibration, calibration_error
from jdiff.metrics.lesions import lesions
from jdiff.metrics.masks import binarised
from jdiff.metrics.raters import generalized_energy_distance, hungarian_matched_iou
from jdiff.metrics.segmentation import dice, iou, overlap, pooled_dice, pooled_iou, soft_dice, thresholded_dice
from jdiff.metrics.surfaces import average_surface_distance, hausdorff95
from tests.masks import SIDE, blank, box, labels, pairs


def test_overlap_of_each_image_is_scikit_learns():
    x, y = pairs()
    expected = [
        [score(t.ravel(), p.ravel(), zero_division=1) for score in (f1_score, jaccard_score)]
        for p, t in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(np.hstack([dice(x, y), iou(x, y)]), expected, rtol=1e-12)


@pytest.mark.parametrize("classes", [3, 5])
def test_overlap_of_several_classes_is_scikit_learns(classes):
    x, y = labels(classes)
    foreground = list(range(1, classes))

    def scores(score, predicted, truth):
        return score(truth.ravel(), predicted.ravel(), labels=foreground, average=None, zero_division=1)

    for ours, pooled, theirs in ((dice, pooled_dice, f1_score), (iou, pooled_iou, jaccard_score)):
        found = ours(x, y, classes)
        np.testing.assert_allclose(found, [scores(theirs, *pair) for pair in zip(x, y, strict=True)], rtol=1e-12)
        assert found[2, -1] == 1  # in neither mask
        assert found[1, -1] == 0  # in the true one alone
        np.testing.assert_allclose(pooled(x, y, classes), scores(theirs, x, y), rtol=1e-12)


def test_the_empty_mask():
    """Neither: 1, one alone: 0, whatever its size, and without a smoothing that would give something between."""
    x, y = np.array([blank(), blank(), box(0, 0, 1, 1)]), np.array([blank(), box(3, 3, 4, 4), blank()])
    for metric in (dice, iou):
        assert metric(x, y).tolist() == [[1], [0], [0]]
    for metric in (soft_dice, thresholded_dice):
        assert metric(x.astype(float), y.astype(float)).tolist() == [1, 0, 0]
    assert pooled_dice(x[:1], y[:1]) == pooled_iou(x[:1], y[:1]) == 1


def test_a_mean_over_images_is_not_the_number_over_all_pixels():
    """A large object found and a small one missed: half of the images, nearly all pixels."""
    x, y = np.array([box(0, 0, 20, 20), blank()]), np.array([box(0, 0, 20, 20), box(5, 5, 7, 7)])
    assert dice(x, y).mean() == iou(x, y).mean() == 0.5
    np.testing.assert_allclose(pooled_dice(x, y), 2 * 400 / (400 + 404))
    np.testing.assert_allclose(pooled_iou(x, y), 400 / 404)


def test_a_cast_that_keeps_only_exact_ones_cannot_happen():
    """Probabilities of 0.9 as whole numbers are an empty mask: they are refused, or thresholded at 0.5."""
    y = box(3, 3, 9, 9)[None]
    probabilities = np.where(y, 0.9, 0.2)
    assert dice(probabilities.astype(int), y) == 0  # the bug
    assert dice(binarised(probabilities), y) == 1
    assert thresholded_dice(np.where(y, 0.9, 0.0), y) == 1
    with pytest.raises(UserError, match=r"predicted masks hold 0\.2, which is no whole number: .* binarised\(\)"):
        dice(probabilities, y)
    assert binarised(np.array([0.4999, 0.5, 0.5001])).tolist() == [False, False, True]


def test_masks_of_any_dtype_are_the_same_masks():
    x, y = pairs()
    for dtype in (np.uint8, np.int64, np.float32):
        np.testing.assert_array_equal(dice(x.astype(dtype), y), dice(x, y))
        np.testing.assert_array_equal(hausdorff95(x, y.astype(dtype)), hausdorff95(x, y))


def test_overlap_streams_over_images_of_any_size():
    x, y = pairs()
    small = overlap(x[:3, :5, :7], y[:3, :5, :7])
    merged = small.merge(overlap(x[3:], y[3:]))
    np.testing.assert_array_equal(merged.dice, np.concatenate([dice(x[:3, :5, :7], y[:3, :5, :7]), dice(x[3:], y[3:])]))
    flat = [np.concatenate([m[:3, :5, :7].ravel(), m[3:].ravel()]) for m in (x, y)]
    np.testing.assert_allclose(merged.pooled().iou, jaccard_score(*flat), rtol=1e-12)


def test_soft_dice():
    rng = np.random.default_rng(0)
    p, t = rng.random((4, SIDE, SIDE)), rng.random((4, SIDE, SIDE)) < 0.3
    expected = [2 * (a * b).sum() / (a.sum() + b.sum()) for a, b in zip(p, t, strict=True)]
    np.testing.assert_allclose(soft_dice(p, t), expected, rtol=1e-12)
    x, y = pairs()
    np.testing.assert_allclose(soft_dice(x, y), dice(x, y)[:, 0], rtol=1e-12)


def medsegdiff(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Of one image, as scripts/segmentation_env.py goes about it."""
    predicted = predicted / predicted.max() if predicted.max() else predicted
    total = 0.0
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        a, b = (predicted > threshold).astype(float), (truth > threshold).astype(float)
        total += (2 * np.dot(a.ravel(), b.ravel()) + 1e-4) / (a.sum() + b.sum() + 1e-4)
    return total / 5


def test_thresholded_dice_is_medsegdiffs():
    rng = np.random.default_rng(0)
    x, y = pairs()
    probabilities = np.concatenate([x * rng.random(x.shape), x * rng.random(x.shape) * 0.05, x])
    soft = np.concatenate([y, y * rng.random(y.shape), y])
    expected = [medsegdiff(p, t) for p, t in zip(probabilities, soft, strict=True)]
    np.testing.assert_allclose(thresholded_dice(probabilities, soft), expected, atol=1e-4)
    half = box(0, 0, 4, 4)[None]  # 0.5 of the maximum passes 0.1 and 0.3 alone
    np.testing.assert_allclose(thresholded_dice(np.where(half, 0.2, box(0, 0, 8, 8) * 0.1), half), (2 * 0.4 + 3) / 5)


def test_distances_by_brute_force():
    """Every border pixel of one against every one of the other; a border pixel has a side outside."""

    def border(mask: np.ndarray) -> np.ndarray:
        wide = np.pad(mask, 1)
        inside = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
        return np.argwhere(mask & ~inside)

    x, y = pairs()
    for spacing in ((1.0, 1.0), (0.5, 3.0)):
        hd, asd = hausdorff95(x, y, spacing=spacing)[:, 0], average_surface_distance(x, y, spacing=spacing)[:, 0]
        for i, (p, t) in enumerate(zip(x, y, strict=True)):
            if not p.any() or not t.any():
                expected = np.nan if not p.any() and not t.any() else np.inf
                np.testing.assert_equal([hd[i], asd[i]], [expected, expected])
                continue
            steps = (border(p)[:, None] - border(t)[None]) * spacing
            distances = np.sqrt((steps**2).sum(-1))
            there, back = distances.min(1), distances.min(0)
            assert hd[i] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-12)
            assert asd[i] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-12)


def test_distances_of_a_shift_and_of_several_classes():
    x = box(5, 5, 6, 6) + 2 * box(15, 15, 16, 16)
    y = box(8, 9, 9, 10) + 2 * box(15, 15, 16, 16)
    assert hausdorff95(x[None], y[None], 4)[0].tolist()[:2] == [5, 0]
    assert average_surface_distance(x[None], y[None], 3, spacing=(2.0, 2.0)).tolist() == [[10, 0]]
    assert np.isnan(hausdorff95(x[None], y[None], 4)[0, 2])


def iou_of_the_literature(a: np.ndarray, b: np.ndarray) -> float:
    return 1.0 if not (a | b).any() else (a & b).sum() / (a | b).sum()


def ged_of_the_literature(samples: np.ndarray, raters: np.ndarray) -> float:
    """Three double loops with a mask's distance to itself, divided by n m, n n and m m."""
    d = [
        sum(1 - iou_of_the_literature(a, b) for a in first for b in second) / (len(first) * len(second))
        for first, second in ((samples, raters), (samples, samples), (raters, raters))
    ]
    return 2 * d[0] - d[1] - d[2]


def test_ged_is_the_literatures():
    x, y = pairs()
    for samples, raters in ((x, y[:4]), (x[:1], y[:4]), (x[:1], y[:1]), (x[4:12], y[10:14]), (x[1:2], y[3:4])):
        found = generalized_energy_distance(samples, raters)
        np.testing.assert_allclose(found, ged_of_the_literature(samples, raters), atol=1e-12)
        assert found > -1e-12


def test_ged_of_known_sets():
    """Raters who draw it or leave it out: samples of both 0, of one 1/2, of another object 3/2."""
    drawn, left_out, elsewhere = box(2, 2, 9, 9), blank(), box(15, 15, 20, 20)
    raters = np.array([drawn, left_out, drawn, left_out])
    modes = {8: [drawn, left_out] * 4, 4: [drawn] * 4, 2: [left_out] * 2, 1: [elsewhere]}
    found = [generalized_energy_distance(np.array(samples), raters) for samples in modes.values()]
    np.testing.assert_allclose(found, [0, 0.5, 0.5, 1.5], atol=1e-12)
    matched = [hungarian_matched_iou(np.array(samples), raters) for samples in modes.values()]
    np.testing.assert_allclose(matched, [1, 0.5, 0.5, 0], atol=1e-12)
    nothing = np.zeros((3, SIDE, SIDE), int)
    assert generalized_energy_distance(nothing, nothing) == 0
    assert hungarian_matched_iou(nothing, nothing) == 1


def test_raters_of_several_classes():
    """IoU is the mean over the classes but the background."""
    x, y = labels(4)
    iou_of = np.array([[np.mean([iou_of_the_literature(a == c, b == c) for c in (1, 2, 3)]) for b in y] for a in x])
    expected = max(np.mean([iou_of[i, j] for i, j in enumerate(order)]) for order in itertools.permutations(range(5)))
    assert hungarian_matched_iou(x, y, 4) == pytest.approx(expected, rel=1e-12)
    single = generalized_energy_distance(x[:1], y[:1], 4)
    assert single == pytest.approx(2 * (1 - iou_of[0, 0]), rel=1e-12)


@pytest.mark.parametrize(("m", "r"), [(1, 4), (2, 3), (4, 2), (3, 3)])
def test_hungarian_matching_by_all_permutations(m, r):
    """Of both sets repeated to their least common multiple."""
    x, y = pairs()
    samples, raters = x[8 : 8 + m], y[9 : 9 + r]
    common = np.lcm(m, r)
    a, b = [*samples] * (common // m), [*raters] * (common // r)
    orders = itertools.permutations(range(common))
    expected = max(np.mean([iou_of_the_literature(a[i], b[j]) for i, j in enumerate(order)]) for order in orders)
    assert hungarian_matched_iou(samples, raters) == pytest.approx(expected, rel=1e-12)


def test_calibration_is_scikit_learns():
    rng = np.random.default_rng(0)
    p = rng.random((3, SIDE, SIDE)) ** 2
    t = rng.random(p.shape) < p**1.5
    sums = calibration(p, t)
    curve = sums.curve
    accuracy, confidence = calibration_curve(t.ravel(), p.ravel(), n_bins=15, strategy="uniform")
    np.testing.assert_allclose(curve.accuracy, accuracy, rtol=1e-9)
    np.testing.assert_allclose(curve.confidence, confidence, rtol=1e-9)
    assert curve.pixels.sum() == p.size
    expected = np.average(np.abs(accuracy - confidence), weights=np.histogram(p, 15, (0, 1))[0])
    assert sums.error == calibration_error(p, t) == pytest.approx(expected, rel=1e-9)
    assert calibration(p, p).error == pytest.approx(0)  # shares of raters


def test_calibration_streams_over_images_of_any_size():
    rng = np.random.default_rng(0)
    p = rng.random((2, SIDE, SIDE)).astype(np.float32)
    t = np.array([np.ones_like(p[0]), np.zeros_like(p[1])])
    merged = calibration(p[0], t[0]).merge(calibration(p[1, :5], t[1, :5])).merge(calibration(p[1, 5:], t[1, 5:]))
    assert merged.error == pytest.approx(calibration_error(p, t), rel=1e-6)
    np.testing.assert_array_equal(merged.pixels, calibration(p, t).pixels)
    assert merged.error == pytest.approx(0.25, abs=0.05)  # and no mean over images, each of which has 0.5
    with pytest.raises(ValueError, match="15 and 10 bins"):
        merged.merge(calibration(p, t, bins=10))


def test_calibration_of_known_answers():
    """A certain mistake is an error of 1, the right share none, and an empty bin has no accuracy."""
    assert calibration_error(np.ones(4), np.zeros(4)) == 1
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0
    assert calibration_error(np.full(4, 0.25), np.array([1, 0, 0, 0])) == 0
    curve = calibration(np.array([0.0, 1.0]), np.array([False, True]), bins=3).curve
    np.testing.assert_equal(curve.accuracy, [0, np.nan, 1])
    assert curve.pixels.tolist() == [1, 0, 1]
    edges = calibration(np.array([1 / 3, 2 / 3]), np.zeros(2), bins=3)
    assert edges.pixels.tolist() == [0, 1, 1]


def test_auc_is_scikit_learns():
    rng = np.random.default_rng(0)
    wrong = rng.random((3, SIDE, SIDE)) < 0.1
    for scores in (rng.random(wrong.shape) + wrong, rng.integers(0, 3, wrong.shape) + wrong, np.zeros(wrong.shape)):
        assert auc(scores, wrong) == pytest.approx(roc_auc_score(wrong.ravel(), scores.ravel()), rel=1e-12)
    assert np.isnan(auc(rng.random(5), np.zeros(5, bool)))
    assert np.isnan(auc(rng.random(5), np.ones(5, int)))


def components(mask: np.ndarray) -> list[set]:
    """Pixels that touch, by a corner too, found by walking."""
    left, found = {tuple(place) for place in np.argwhere(mask)}, []
    while left:
        walk, seen = [left.pop()], set()
        while walk:
            i, j = walk.pop()
            seen.add((i, j))
            near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            walk += near
        found.append(seen)
    return found


def test_lesions_by_walking():
    x, y = pairs()
    found = lesions(x, y)
    for i, (p, t) in enumerate(zip(x, y, strict=True)):
        proposed, real = components(p), components(t)
        hits = sum(any(a & b for a in proposed) for b in real)
        false = sum(not any(a & b for b in real) for a in proposed)
        counts = [c[i, 0] for c in (found.true_positives, found.false_negatives, found.false_positives)]
        assert counts == [hits, len(real) - hits, false]


def test_lesions_found_missed_and_invented():
    truth = box(1, 1, 3, 3) | box(10, 10, 12, 12) | box(20, 1, 21, 2)
    predicted = box(2, 2, 4, 4) | box(10, 1, 11, 2) | box(22, 22, 24, 24)
    one = lesions(predicted[None], truth[None])
    assert [one.true_positives, one.false_negatives, one.false_positives] == [1, 2, 2]
    assert one.sensitivity == pytest.approx(1 / 3)
    assert one.f1 == pytest.approx(2 / 6)
    none = lesions(blank()[None], blank()[None])
    assert np.isnan(none.sensitivity)
    assert none.f1 == 1
    both = one.merge(none).merge(lesions(truth[None], truth[None]))
    assert both.f1[:, 0].tolist() == pytest.approx([1 / 3, 1, 1])
    assert both.pooled().sensitivity == pytest.approx(4 / 6)
    two = lesions(2 * predicted[None], 2 * truth[None], 3)
    assert two.true_positives.tolist() == [[0, 1]]


OF_PAIRS = (dice, iou, pooled_dice, pooled_iou, hausdorff95, average_surface_distance, lesions)
OF_RATERS = (generalized_energy_distance, hungarian_matched_iou)
OF_PROBABILITIES = (soft_dice, thresholded_dice, calibration_error)


@pytest.mark.parametrize("metric", OF_PAIRS + OF_RATERS)
def test_bad_masks(metric):
    x, y = (m.astype(int) for m in pairs())
    with pytest.raises(UserError, match=r"masks are \[n, h, w\] with at least one pixel; these are \[24, 24\]"):
        metric(x, y[0])
    with pytest.raises(UserError, match=r"these are \[21, 24, 24, 1\]"):
        metric(x[..., None], y)
    with pytest.raises(UserError, match=r"these are \[0, 24, 24\]"):
        metric(x[:0], y[:0])
    with pytest.raises(UserError, match="to the size of the"):
        metric(x[:, 1:], y)
    with pytest.raises(UserError, match=r"hold the value 255, and the 2 classes are 0 to 1: .*mask > 127"):
        metric(x, y * 255)
    metric(x, y * 255 > 127)
    with pytest.raises(UserError, match=r"hold the value 2, and the 2 classes are 0 to 1: say how many classes"):
        metric(x, y * 2)
    metric(x, y * 2, 3)
    with pytest.raises(UserError, match="hold the value -1"):
        metric(-x, y)
    for value in (0.5, np.nan, np.inf):
        with pytest.raises(UserError, match=f"hold {value}, which is no whole number"):
            metric(np.where(x, value, 0), y)
    with pytest.raises(ValueError, match="classes=1"):
        metric(x, y, 1)


@pytest.mark.parametrize("metric", OF_PROBABILITIES)
def test_bad_probabilities(metric):
    x, y = (m.astype(float) for m in pairs())
    with pytest.raises(UserError, match=r"predicted probabilities lie in \[0, 1\]; .* such as -1: .*\(x \+ 1\) / 2"):
        metric(2 * x - 1, y)
    assert np.array_equal(metric(((2 * x - 1) + 1) / 2, y), metric(x, y))
    with pytest.raises(UserError, match=r"true probabilities .* such as 255"):
        metric(x, y * 255)
    with pytest.raises(UserError, match="such as nan"):
        metric(np.where(x, np.nan, 0), y)
    with pytest.raises(
        UserError, match=r"\[21, 23, 24\] and the truth \[21, 24, 24\]: bring the predictions to the size"
    ):
        metric(x[:, 1:], y)
    with pytest.raises(UserError, match="there are no predicted probabilities"):
        metric(x[:0], y[:0])


def test_other_bad_input():
    x, y = pairs()
    for spacing in ((0.0, 1.0), (1.0, np.nan), (-1.0, 1.0)):
        with pytest.raises(UserError, match="two positive lengths"):
            hausdorff95(x, y, spacing=spacing)
    scores = np.arange(4.0)
    with pytest.raises(UserError, match="1 of 4 scores are NaN"):
        auc(np.array([0, 1, np.nan, 2]), np.ones(4))
    with pytest.raises(UserError, match="events are 0 or 1"):
        auc(scores, np.arange(4))
    with pytest.raises(UserError, match=r"events hold 0\.5"):
        auc(scores, np.full(4, 0.5))
    with pytest.raises(UserError, match=r"different shapes, \[4\] and \[3\]"):
        auc(scores, np.ones(3))
    with pytest.raises(ValueError, match="bins=0"):
        calibration(x.astype(float), y, bins=0)
    with pytest.raises(UserError, match=r"these are \[24, 24\]"):
        soft_dice(x[0].astype(float), y[0])

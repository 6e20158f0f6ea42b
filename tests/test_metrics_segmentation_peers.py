"""Metrics of masks against MONAI and torchmetrics on the same masks; where they differ, what each of them does."""

import numpy as np
import pytest

from jdiff.metrics.calibration import calibration_error
from jdiff.metrics.segmentation import dice, iou, pooled_dice, pooled_iou
from jdiff.metrics.surfaces import average_surface_distance, hausdorff95
from tests.masks import labels, pairs

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI warns of each empty mask


def one_hot(masks: np.ndarray, classes: int):
    """[n, h, w] -> [n, classes, h, w]."""
    torch = pytest.importorskip("torch")
    return torch.tensor((masks[:, None] == np.arange(classes)[:, None, None]).astype(np.float32))


SETS = {2: pairs, 4: lambda: labels(4)}


@pytest.mark.parametrize("classes", SETS)
def test_overlap_of_monai(classes):
    monai = pytest.importorskip("monai.metrics")
    x, y = SETS[classes]()
    for ours, theirs in ((dice, monai.compute_dice), (iou, monai.compute_iou)):
        found = theirs(one_hot(x, classes), one_hot(y, classes), include_background=False, ignore_empty=False)
        np.testing.assert_allclose(ours(x, y, classes), found, rtol=1e-6)


@pytest.mark.parametrize("classes", SETS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0)])
def test_distances_of_monai(classes, spacing):
    """Of infinite distances MONAI's quantile makes nan, since it interpolates between them; ours are inf."""
    monai = pytest.importorskip("monai.metrics")
    x, y = SETS[classes]()
    masks = one_hot(x, classes), one_hot(y, classes)
    found = monai.compute_hausdorff_distance(*masks, percentile=95, spacing=spacing).numpy()
    ours = hausdorff95(x, y, classes, spacing)
    np.testing.assert_allclose(
        np.where(np.isinf(ours), np.nan, ours), np.where(np.isinf(found), np.nan, found), rtol=1e-5
    )
    found = monai.compute_average_surface_distance(*masks, symmetric=True, spacing=spacing)
    np.testing.assert_allclose(average_surface_distance(x, y, classes, spacing), found, rtol=1e-5)


def test_overlap_of_torchmetrics():
    """Over all pixels, and of each image where the class is in either mask: it says nan or 0 where it is in neither."""
    torch = pytest.importorskip("torch")
    segmentation = pytest.importorskip("torchmetrics.functional.segmentation")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    x, y = (torch.tensor(m.astype(np.int64)) for m in labels(4))
    a, b = labels(4)
    present = np.stack([((a == c) | (b == c)).any((1, 2)) for c in (1, 2, 3)], axis=1)
    options = {"num_classes": 4, "include_background": False, "input_format": "index"}
    found = segmentation.mean_iou(x, y, per_class=True, **options).numpy()
    np.testing.assert_allclose(iou(a, b, 4)[present], found[present], rtol=1e-5)
    found = segmentation.dice_score(x, y, average=None, aggregation_level="samplewise", **options).numpy()
    np.testing.assert_allclose(dice(a, b, 4)[present], found[present], rtol=1e-5)
    found = classification.multiclass_f1_score(x, y, num_classes=4, average=None)
    np.testing.assert_allclose(pooled_dice(a, b, 4), found[1:], rtol=1e-5)
    found = classification.multiclass_jaccard_index(x, y, num_classes=4, average=None)
    np.testing.assert_allclose(pooled_iou(a, b, 4), found[1:], rtol=1e-5)


def test_calibration_error_of_torchmetrics():
    """It gives a probability of exactly 1 a bin of its own, so none is in here."""
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    p = rng.random((3, 40, 40)).astype(np.float32) ** 3
    t = rng.random(p.shape) < np.sqrt(p)
    found = classification.binary_calibration_error(torch.tensor(p), torch.tensor(t.astype(np.int64)), n_bins=15)
    assert calibration_error(p, t) == pytest.approx(float(found), rel=1e-5)
    assert found > 0.1

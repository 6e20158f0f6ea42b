"""Copies of training images are caught, fresh images are not."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from jdiff.common.errors import UserError
from jdiff.data.sources.tfds import Tfds
from jdiff.metrics.fld import generalisation_gap
from jdiff.metrics.memorisation import memorisation
from jdiff.metrics.neighbours import nearest


def three(seed: int = 0, n: int = 400, d: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, held-out and fresh images' features, all alike."""
    rng = np.random.default_rng(seed)
    training, held_out, fresh = (rng.normal(size=(n, d)).astype(np.float32) for _ in range(3))
    return training, held_out, fresh


def test_z_is_normal_for_fresh_images_and_negative_for_copies():
    z = []
    for seed in range(60):
        training, held_out, fresh = three(seed, 100, 4)
        z.append(memorisation(fresh, training, held_out).z)
    assert np.mean(z) == pytest.approx(0, abs=0.4)
    assert np.std(z) == pytest.approx(1, abs=0.25)
    training, held_out, fresh = three()
    assert memorisation(training[:200] + 0.1, training, held_out).z < -10
    assert memorisation(fresh * 2, training, held_out).z > 10  # too far: bad images, not copies


def test_z_is_that_of_scipy():
    training, held_out, fresh = (np.round(x) for x in three(0, 150, 3))  # with many ties
    distances = nearest(fresh, training).distances, nearest(held_out, training).distances
    p = mannwhitneyu(*distances, alternative="less", use_continuity=False, method="asymptotic").pvalue
    assert memorisation(fresh, training, held_out).z == pytest.approx(norm.ppf(p), rel=1e-6)


def test_share_of_images_nearer_than_the_quantile_of_held_out_ones():
    training, held_out, fresh = three(0, 2000, 8)
    found = memorisation(fresh, training, held_out, quantile=0.1)
    assert found.share == pytest.approx(0.1, abs=0.03)
    assert found.threshold == np.quantile(nearest(held_out, training).distances, 0.1)
    mixed = np.concatenate([training[:500], fresh[:500]])
    caught = memorisation(mixed, training, held_out)
    assert caught.share == pytest.approx(0.5 + 0.5 * 0.05, abs=0.02)
    np.testing.assert_array_equal(caught.indices[:500], np.arange(500))
    assert not caught.nearest[:500].any()


def test_the_gap_is_that_of_the_published_code():
    """Its figures for these arrays in float64, by its mixture-of-Gaussians file run with torch."""
    rng = np.random.default_rng(0)
    training, held_out, fresh = (rng.normal(size=(400, 16)).astype("f4") for _ in range(3))
    copies = (training[:200] + 0.01 * rng.normal(size=(200, 16))).astype("f4")
    found = generalisation_gap(fresh[:200], training, held_out)
    assert found.gap == pytest.approx(-1.7063791, abs=1e-3)
    assert found.training_nll == pytest.approx(1.5240349, rel=1e-5)
    assert found.held_out_nll == pytest.approx(1.5410987, rel=1e-5)
    mixed = generalisation_gap(np.concatenate([copies[:40], fresh[:160]]), training, held_out)
    assert mixed.gap == pytest.approx(-45.635809, rel=1e-4)
    assert generalisation_gap(copies, training, held_out).gap < -1000


def test_the_gap_leaves_out_dimensions_that_never_vary():
    training, held_out, fresh = three(1, 100, 4)
    constant = [np.concatenate([x, np.ones((100, 2), np.float32)], axis=1) for x in (fresh, training, held_out)]
    assert generalisation_gap(*constant) == generalisation_gap(fresh, training, held_out)


@pytest.fixture(scope="module")
def draws(test_data):
    """20 draws of Fashion-MNIST's first 20 principal components: training, held-out and fresh images, and copies of
    training images but for noise of a tenth of the nearest distance."""
    source = Tfds("fashion_mnist", "test", str(test_data / "tfds"))
    rng = np.random.default_rng(0)
    pixels = np.stack([source[int(i)]["image"].reshape(-1) for i in rng.choice(len(source), 1400, replace=False)])
    centred = pixels / 255 - pixels.mean(0) / 255
    features = centred @ np.linalg.svd(centred, full_matrices=False)[2][:20].T
    found = []
    for _ in range(20):
        training, held_out, fresh = np.split(rng.permutation(features), [800, 1100])
        noise = rng.normal(size=(300, 20)) * 0.1 * np.median(nearest(fresh, training).distances) / 20**0.5
        found.append((training, held_out, fresh, training[rng.choice(800, 300, replace=False)] + noise))
    return found


@pytest.mark.parametrize(("measure", "copies"), [("share", 30), ("gap", 30), ("z", 75)])
def test_a_memorised_set_is_told_from_a_fresh_one(draws, measure, copies):
    """The area under the ROC over 20 draws of 300 images, of which a tenth are copied, a quarter for z."""

    def score(generated, training, held_out):
        if measure == "gap":
            return -generalisation_gap(generated, training, held_out).gap
        found = memorisation(generated, training, held_out)
        return found.share if measure == "share" else -found.z

    fresh = [score(fresh, training, held_out) for training, held_out, fresh, _ in draws]
    mixed = ((np.concatenate([copied[:copies], fresh[copies:]]), *seen) for *seen, fresh, copied in draws)
    copied = [score(*sets) for sets in mixed]
    area = roc_auc_score([0] * 20 + [1] * 20, fresh + copied)
    print(f"{measure}: ROC {area:.3f}; fresh {np.mean(fresh):.3g}, copied {np.mean(copied):.3g}")
    assert area > 0.95


def test_bad_input():
    training, held_out, fresh = three(0, 10, 4)
    for measure in (memorisation, generalisation_gap):
        with pytest.raises(UserError, match="1 held-out images are too few: this metric needs at least 2"):
            measure(fresh, training, held_out[:1])
        with pytest.raises(UserError, match="generated 3, training 4, held-out 4"):
            measure(fresh[:, :3], training, held_out)
        with pytest.raises(UserError, match="all 10 training images have the same features"):
            measure(fresh, np.ones_like(training), held_out)
    with pytest.raises(ValueError, match="quantile=1"):
        memorisation(fresh, training, held_out, quantile=1.0)


def test_held_out_images_that_are_trained_on_too_do_not_hide_copies():
    """Duplicates in the data: the nearest 5 % of held-out images lie at distance 0, as all copies do."""
    rng = np.random.default_rng(0)
    training, held_out = rng.normal(size=(500, 8)), rng.normal(size=(200, 8))
    held_out[:15] = training[:15]
    found = memorisation(training, training, held_out)
    assert (found.share, found.by_chance, found.threshold) == (1.0, 15 / 200, 0.0)
    assert memorisation(rng.normal(size=(500, 8)), training, held_out).share == 0

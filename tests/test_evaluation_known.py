"""Numbers whose answers are known, on the paths that --mode=evaluate takes: Fashion-MNIST made worse on purpose, and
Gaussians.
"""

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

import jdiff.config
from jdiff import scoring
from jdiff.common.shards import Shards
from jdiff.data.sources.tfds import Tfds
from jdiff.evaluation import classifier, statistics
from jdiff.evaluation.copying import Memorised
from jdiff.evaluation.distances import FrechetDistance, FrechetInfinity, KernelDistance
from jdiff.evaluation.gather import BATCH, gather, reader
from jdiff.evaluation.numbers import Sets, all_of
from jdiff.evaluation.quality import Neighbours, Vendi
from jdiff.evaluation.statistics import Statistics
from jdiff.metrics import moments
from jdiff.networks.classifier import Classifier
from jdiff.networks.features.space import Plain
from jdiff.scoring import report
from jdiff.training import sharding
from tests.conftest import FAST_COMPILE

TRAIN, HELD_OUT, FRESH = 1000, 300, 1500
SET = 400  # images of a set that is scored


@dataclass(frozen=True, eq=False)
class InMemory:
    """Images to be scored that are here already."""

    images: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def of(self, numbers):
        return self.images[numbers], None if self.labels is None else self.labels[numbers]

    def batches(self, first=0, size=BATCH):
        for at in range(first, len(self), size):
            yield self.of(np.arange(at, min(at + size, len(self))))


def of_fashion(test_data, split, count):
    source = Tfds("fashion_mnist", split, str(test_data / "tfds"))
    records = source.__getitems__(np.random.default_rng(0).permutation(len(source))[:count].tolist())
    return np.stack([record["image"] for record in records]), np.array([record["label"] for record in records])


@pytest.fixture(scope="module")
def fashion(test_data, tmp_path_factory):
    """(a judge by the classifier's features, of some of Fashion-MNIST; images and labels that it has never seen)."""
    folder = tmp_path_factory.mktemp("fashion")
    images, labels = of_fashion(test_data, "train", TRAIN)
    np.savez(folder / "train.npz", images=images, labels=labels)
    images, labels = of_fashion(test_data, "test", HELD_OUT + FRESH)
    np.savez(folder / "test.npz", images=images[:HELD_OUT], labels=labels[:HELD_OUT])
    config = jdiff.config.load("fashion_mnist")
    config.data.name, config.data.dir = "arrays", str(folder)
    with mock.patch.object(classifier, "STEPS", 150):
        judge = scoring.judge(config, sharding.make_mesh(), progress=False)
    return judge, images[HELD_OUT:], labels[HELD_OUT:]


def of_set(judge, images, labels=None):
    """The judge's sets of some images, and their numbers by the metrics that know quality from variety."""
    sets = judge.sets(judge.gather(InMemory(images, labels)))
    numbers, left_out = all_of(QUICK, sets, strict=True)
    assert not left_out
    return {one.name: one.value for one in numbers}


QUICK = (
    FrechetDistance(name="fd", title="FD"),
    FrechetInfinity(name="fd_infinity", title="FD, n to infinity"),
    KernelDistance(name="kd", title="KD", subsets=10, size=SET // 2),
    Neighbours(k=5),
    Vendi(),
)


def noisy(images, strength):
    noise = np.random.default_rng(0).normal(size=images.shape)
    return np.clip(np.round(images + strength * noise), 0, 255).astype(np.uint8)


def blurred(images, strength):
    return np.round(gaussian_filter(images.astype(np.float64), (0, strength, strength, 0))).astype(np.uint8)


WORSE = ("fd", "fd_infinity", "kd")  # the higher


@pytest.mark.parametrize(
    ("worse", "strengths", "fall"),
    [
        (noisy, (0, 64, 128), ("precision", "coverage", "density")),
        (blurred, (0, 1, 2), ("precision", "recall", "coverage", "density", "vendi")),
    ],
)
def test_numbers_worsen_as_images_do(fashion, worse, strengths, fall):
    judge, images, _ = fashion
    found = [of_set(judge, worse(images[:SET], strength)) for strength in strengths]
    for name in WORSE:
        values = [numbers[name] for numbers in found]
        assert np.all(np.diff(values) > 0), (name, values)
    for name in fall:
        values = [numbers[name] for numbers in found]
        assert np.all(np.diff(values) < 0), (name, values)


def without(labels, lost):
    return np.flatnonzero(labels >= lost)[:SET]


def uneven(labels, share):
    """A set of which such a share are of the first two classes."""
    first, others = np.flatnonzero(labels < 2), np.flatnonzero(labels >= 2)
    return np.concatenate([first[: int(SET * share)], others[: SET - int(SET * share)]])


@pytest.mark.parametrize(("chosen", "degrees"), [(without, (0, 3, 6)), (uneven, (0.2, 0.4, 0.6))])
def test_numbers_worsen_as_classes_are_lost(fashion, chosen, degrees):
    """Variety falls, and each image is as good as before."""
    judge, images, labels = fashion
    found = [of_set(judge, images[chosen(labels, degree)]) for degree in degrees]
    for name in (*WORSE, "coverage", "vendi"):
        values = np.diff([numbers[name] for numbers in found])
        assert np.all(values > 0 if name in WORSE else values < 0), (name, found)
    if chosen is without:  # all classes are still there otherwise
        assert found[-1]["recall"] < found[0]["recall"]
    assert min(numbers["precision"] for numbers in found) > found[0]["precision"] - 0.03


def test_a_set_against_itself(fashion):
    """0, or the best value, for every number; and every image is a copy."""
    judge, _, _ = fashion
    images, labels = judge.data.train.of(np.arange(TRAIN))
    result = scoring.score_files(judge, InMemory(images, labels), {"images": ""})
    assert result is not None
    assert not result.left_out
    numbers = {one.name: one for one in result.numbers}
    for name in ("fd_classifier", "fd_classifier_worst_class"):
        assert numbers[name].value == pytest.approx(0, abs=1e-6)
    assert max(map(abs, result.by_class.values())) < 1e-6
    for name in ("fd_classifier_infinity", "kd_classifier"):  # estimates without bias: 0 within their error
        assert abs(numbers[name].value) < 4 * numbers[name].error, numbers[name]
    for name in ("precision", "recall", "coverage", "memorised"):
        assert numbers[name].value == 1
    assert numbers["density"].value == pytest.approx(1, abs=0.02)
    assert numbers["data_copying_z"].value < -20
    assert numbers["vendi"].note.endswith(f"{numbers['vendi'].value:.2f}")  # the data's own
    assert 0.5 < judge.accuracy < 1
    assert result.facts["protocol"]["classifier_accuracy"] == judge.accuracy
    assert f"reads {judge.accuracy:.1%} of the held-out images right" in report.table(result)


def test_the_spread_of_a_small_set_is_one(fashion):
    """Not that of subsets which are all the same."""
    judge, images, _ = fashion
    (one,) = KernelDistance(name="kd", title="KD", adapt=True)(judge.sets(judge.gather(InMemory(images[:60]))))
    assert one.error > 1e-4
    assert "subsets of 30" in one.spread


@pytest.mark.parametrize("noise", [0, 4])
def test_a_memorised_set_is_told_from_a_fresh_one(fashion, noise):
    """The area under the ROC over 20 draws of 300 images, of which 30 % are training images with slight noise."""
    judge, images, _ = fashion
    training, _ = judge.data.train.of(np.arange(TRAIN))
    copies, fresh = judge.read(noisy(training, noise))["features"], judge.read(images)["features"]
    rng = np.random.default_rng(0)
    found = {"memorised": ([], []), "data_copying_z": ([], [])}
    for _ in range(20):
        drawn = fresh[rng.choice(FRESH, 300, replace=False)]
        mixed = np.concatenate([copies[rng.choice(TRAIN, 90, replace=False)], drawn[:210]])
        for place, rows in enumerate((drawn, mixed)):
            for one in Memorised()(judge.sets(of_features(rows))):
                found[one.name][place].append(one.value)
    for name, (honest, copied) in found.items():
        sign = 1 if name == "memorised" else -1
        area = roc_auc_score([0] * 20 + [1] * 20, sign * np.array(honest + copied))
        print(f"{name}, noise {noise}: ROC {area:.3f}; fresh {np.mean(honest):.3g}, copied {np.mean(copied):.3g}")
        assert area > 0.95
    assert np.mean(found["memorised"][0]) == pytest.approx(0.05, abs=0.06)
    assert np.mean(found["memorised"][1]) > 0.2
    assert max(map(abs, found["data_copying_z"][0])) < 4
    assert max(found["data_copying_z"][1]) < -3


def of_features(rows, size=BATCH):
    """Gathered features that are given, by a network that looks images up: image i is i in base 256."""

    def read(images):
        digits = images.reshape(len(images), -1).astype(np.int64)
        return {"features": rows[digits[:, 0] * 256 + digits[:, 1]]}

    numbers = np.arange(len(rows))
    images = np.stack([numbers // 256, numbers % 256], axis=1).astype(np.uint8).reshape(-1, 1, 2, 1)
    return gather(lambda first: InMemory(images).batches(first, size), read, rows.shape[1], keep=10_000)


def gaussian(rng, count, mean, covariance):
    """Rows whose own mean and covariance are these, to the last digits: distances of moments are then analytic."""
    x = rng.normal(size=(count, len(mean)))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def third_moments(mean, covariance):
    """E x_i x_j x_k of a Gaussian (Isserlis)."""
    mixed = np.einsum("i,jk->ijk", mean, covariance)
    return np.einsum("i,j,k->ijk", mean, mean, mean) + mixed + mixed.transpose(1, 0, 2) + mixed.transpose(1, 2, 0)


def cubic_mmd(a, b):
    """KID's squared distance of two Gaussians: of E (x.y / d + 1)^3, a polynomial in their moments."""
    d = len(a[0])

    def kernel(p, q):
        (m, s), (n, t) = p, q
        second = np.sum((s + np.outer(m, m)) * (t + np.outer(n, n)))
        third = np.sum(third_moments(m, s) * third_moments(n, t))
        return third / d**3 + 3 * second / d**2 + 3 * (m @ n) / d + 1

    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


def test_gaussians_have_their_analytic_distances(tmp_path):
    """Through gathering and a file of statistics."""
    rng, d = np.random.default_rng(0), 6
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    spread_a, spread_b = rng.random((2, d)) + 0.5
    a = (rng.normal(size=d), (axes * spread_a**2) @ axes.T)
    b = (rng.normal(size=d), (axes * spread_b**2) @ axes.T)
    x, y = of_features(gaussian(rng, 2500, *a)), of_features(gaussian(rng, 2500, *b))
    reference = Statistics(mean=y.moments.mean, covariance=y.moments.covariance, count=y.count, features=y.features)
    statistics.write(tmp_path / "b.npz", reference)
    sets = Sets(generated=x, reference=statistics.read(tmp_path / "b.npz"))
    frechet = np.sum((a[0] - b[0]) ** 2) + np.sum((spread_a - spread_b) ** 2)
    (distance,) = FrechetDistance(name="fd", title="FD")(sets)
    assert distance.value == pytest.approx(frechet, rel=1e-9)
    (limit,) = FrechetInfinity(name="fd_infinity", title="FD, n to infinity")(sets)
    assert limit.value == pytest.approx(frechet, rel=0.02)
    (kernel,) = KernelDistance(name="kd", title="KD", size=500, subsets=25)(sets)
    assert kernel.value == pytest.approx(cubic_mmd(a, b), abs=4 * kernel.error / 5**0.5)  # there are 5 x 500


def test_too_few_images_for_their_dimensions_are_told():
    rng = np.random.default_rng(0)
    few, many = (of_features(rng.normal(size=(n, 16))) for n in (10, 1000))
    for x, y, told in ((few, many, "10 generated images"), (many, few, "10 reference images"), (many, many, "")):
        reference = Statistics(mean=y.moments.mean, covariance=y.moments.covariance, count=y.count)
        (one,) = FrechetDistance(name="fd", title="FD")(Sets(generated=x, reference=reference))
        assert one.note.startswith(told)
        assert ("too few for features of 16 dimensions (covariance of rank 9)" in one.note) == bool(told)
        assert one.value > 5 if told else one.value < 1


def test_the_standard_error_is_the_deviation_over_draws():
    """Of the Frechet distance, over 100 draws; the deviation is itself sure to 7 %."""
    rng, d, n = np.random.default_rng(0), 8, 500
    mix, shift = rng.normal(size=(2, d, d)), 0.3
    population = Statistics(mean=np.zeros(d), covariance=mix[1] @ mix[1].T, count=10**9)
    found = []
    for _ in range(100):
        rows = rng.normal(size=(n, d)) @ mix[0].T + shift
        found += FrechetDistance(name="fd", title="FD")(Sets(generated=of_features(rows), reference=population))
    said = np.mean([one.error for one in found])
    assert said == pytest.approx(np.std([one.value for one in found], ddof=1), rel=3 * 0.071)


@pytest.mark.slow
def test_the_errors_of_numbers_are_their_deviations_over_draws(fashion):
    """On the classifier's features, drawn anew from a fixed set of images."""
    judge, images, _ = fashion
    features, rng = judge.read(images)["features"], np.random.default_rng(0)
    found = {}
    for _ in range(100):
        sets = judge.sets(of_features(features[rng.integers(FRESH, size=300)]))
        for one in (*FrechetDistance(name="fd", title="FD")(sets), *Memorised()(sets)):
            found.setdefault(one.name, []).append(one)
    for name in ("fd", "memorised"):
        said = np.mean([one.error for one in found[name]])
        real = np.std([one.value for one in found[name]], ddof=1)
        print(f"{name}: said {said:.3g}, over draws {real:.3g}")
        assert said == pytest.approx(real, rel=3 * 0.071)


@functools.cache
def tiny_reader():
    network, seen = Classifier(3, 4, (1, 2)), Plain(sides=(8, 8), channels=1)
    params = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    return reader(classifier._extractor(network, seen, params), "features", "logits", sharding.make_mesh())


def some_images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), np.uint8)


def gathered(images, size=BATCH, **more):
    return gather(lambda first: InMemory(images).batches(first, size), tiny_reader(), 8, keep=len(images), **more)


def test_gathering_is_exact_under_batches_and_halves_and_an_end(tmp_path):
    images = some_images(300)
    whole = gathered(images)
    rows = whole.features.astype(np.float64)
    np.testing.assert_allclose(whole.moments.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.moments.covariance, np.cov(rows.T), rtol=1e-9, atol=1e-18)
    for size in (37, 300):  # partial last batches, and batches that fill the reader's in part or several times
        other = gathered(images, size)
        np.testing.assert_array_equal(other.features, whole.features)
        assert apart(other.moments, whole.moments) < 1e-12
    halves = [gathered(part) for part in (images[:140], images[140:])]
    assert apart(moments.merge(halves[0].moments, halves[1].moments), whole.moments) < 1e-12
    shards = Shards(tmp_path, "features")
    shards.begin({})
    ended = gathered(images, shards=shards, stop=lambda done: done >= 128)
    assert ended.count == 128
    again = gathered(images, shards=shards)
    np.testing.assert_array_equal(again.moments.m2, whole.moments.m2)
    np.testing.assert_array_equal(again.rows("logits"), whole.rows("logits"))


def apart(a, b):
    assert a.count == b.count
    return max(np.abs(a.mean - b.mean).max(), np.abs(a.covariance - b.covariance).max() / np.abs(b.covariance).max())


TWO = """
import sys
import jax, numpy as np
from tests.test_evaluation_known import gathered, some_images

found = gathered(some_images(int(sys.argv[1])))
np.savez(sys.argv[2], devices=jax.device_count(), features=found.features, mean=found.moments.mean, m2=found.moments.m2)
"""


@pytest.mark.slow
def test_two_devices_gather_what_one_does(tmp_path):
    images = some_images(201)  # odd: the devices' shares of the last batch differ
    one = gathered(images)
    environment = {**os.environ, "XLA_FLAGS": f"{FAST_COMPILE} --xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", TWO, "201", tmp_path / "two.npz"], env=environment, check=True)
    two = np.load(tmp_path / "two.npz")
    assert two["devices"] == 2
    np.testing.assert_allclose(two["features"], one.features, rtol=1e-5, atol=1e-6)
    assert apart(moments.Moments(len(images), two["mean"], two["m2"]), one.moments) < 1e-5
    np.testing.assert_allclose(two["mean"], two["features"].mean(0, dtype=np.float64), rtol=1e-12)


PEAK = """
import resource, subprocess, sys

done = subprocess.run([sys.executable, "-m", "jdiff.main", *sys.argv[1:]], capture_output=True, text=True)
print(done.stderr, file=sys.stderr)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow  # minutes
@pytest.mark.parametrize("features", ["pixels", "classifier"])
def test_memory_does_not_grow_with_images(tmp_path, features):
    """100,000 images take at most 5 % more than 10,000; the first run trains the classifier and is not counted."""
    peaks = {}
    for count in (1000, 10_000, 100_000):
        images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), np.uint8)
        np.savez(tmp_path / f"{count}.npz", images=images)
        arguments = (
            "--mode=evaluate",
            "--config=digits",
            f"--config.eval.features={features}",
            f"--config.eval.images={tmp_path / f'{count}.npz'}",
            f"--workdir={tmp_path / 'none'}",
            f"--out={tmp_path / str(count)}",
        )
        command = [sys.executable, "-c", PEAK, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        status, peak = map(int, done.stdout.split())
        assert status == 0, done.stderr
        assert json.loads((tmp_path / str(count) / "evaluation.json").read_text())["count"] == count
        peaks[count] = peak / 1024
    print(f"peak memory in MiB: {peaks}")
    assert peaks[100_000] < 1.05 * peaks[10_000]


def test_copies_are_told_among_the_training_images_whatever_the_reference_is_of():
    """The reference may be of another lab's images, and their number says nothing of these."""
    rows = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    reference = Statistics(mean=np.zeros(4), covariance=np.eye(4), count=50_000)
    generated = of_features(rows[:30])
    for trained_on, told in ((30, ""), (100, "; among 30 of 100 training images")):
        sets = Sets(
            generated=generated,
            reference=reference,
            training=rows[30:60],
            held_out=rows[60:],
            trained_on=trained_on,
        )
        share, _ = Memorised()(sets)
        assert share.note == f"chance gives 6.7%{told}"

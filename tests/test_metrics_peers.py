"""Each metric against other public implementations of it, on the same features; where they differ, who is right.

torch-fidelity, pytorch-fid and clean-fid stand in no extra: they need torchvision, whose wheel fails to load beside a
torch for CPUs, and transformers and diffusers fail with it where it is installed. Their metrics do without:
pip install --no-deps torch-fidelity==0.4.0 pytorch-fid clean-fid
"""

import sys
from unittest import mock

import numpy as np
import pytest

from jdiff.metrics import moments
from jdiff.metrics.frechet import frechet_distance, frechet_of_gaussians, frechet_of_moments
from jdiff.metrics.image import WINDOW, ms_ssim, psnr, ssim
from jdiff.metrics.inception_score import inception_score
from jdiff.metrics.kernel import kernel_distance, kid
from jdiff.metrics.neighbours import prdc
from jdiff.metrics.vendi import vendi_score

N, M, D = 400, 500, 32


def features() -> tuple[np.ndarray, np.ndarray]:
    """Non-negative generated and reference features in float64."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(D, D)) / D**0.5
    generated = np.maximum(rng.normal(size=(N, D)) @ mixing + 0.6, 0)
    return generated, np.maximum(rng.normal(size=(M, D)) @ mixing * 1.1 + 0.5, 0)


@pytest.fixture(scope="module", autouse=True)
def _without_torchvision():
    """A stand-in for torchvision where it does not load; peers that imported it are forgotten afterwards."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in ("", ".datasets", ".transforms", ".transforms.functional"):
            sys.modules[f"torchvision{name}"] = mock.MagicMock()
        yield
        peers = "torchvision", "torch_fidelity", "cleanfid", "pytorch_fid"
        for name in [name for name in sys.modules if name.split(".")[0] in peers]:
            del sys.modules[name]
    else:
        yield


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0), np.cov(x, rowvar=False)


def fidelity(module: str, function: str):
    torch = pytest.importorskip("torch")
    peer = getattr(pytest.importorskip(f"torch_fidelity.{module}"), function)
    return lambda *arrays, **options: peer(*map(torch.tensor, arrays), **options)


def test_frechet_of_torch_fidelity():
    metric = pytest.importorskip("torch_fidelity.metric_fid").fid_statistics_to_metric
    a, b = features()
    named = [dict(zip(("mu", "sigma"), statistics(x), strict=True)) for x in (a, b)]
    expected = metric(*named, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    # Of float32 features torch-fidelity takes the mean in float32.
    low = fidelity("metric_fid", "fid_features_to_statistics")
    a, b = np.float32(a), np.float32(b)
    expected = metric(low(a), low(b), verbose=False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("module", "function"),
    [("pytorch_fid.fid_score", "calculate_frechet_distance"), ("cleanfid.fid", "frechet_distance")],
)
def test_frechet_of_pytorch_fid_and_clean_fid(module, function):
    peer = getattr(pytest.importorskip(module), function)
    a, b = map(statistics, features())
    assert frechet_of_gaussians(*a, *b).distance == pytest.approx(peer(*a, *b), rel=1e-10)
    # Two sets of 20 in 32 dimensions: the root of a singular product strays by 1e-8 of the root of its largest
    # eigenvalue for each that is 0, and the set's distance to itself is no longer 0.
    few = features()[0][:20]
    ours = frechet_of_moments(moments.of(few), moments.of(few))
    assert ours.rank_deficient
    assert ours.distance == pytest.approx(0, abs=1e-13)
    assert abs(peer(*statistics(few), *statistics(few))) > 1e-9


def test_kid_of_torch_fidelity():
    peer = fidelity("metric_kid", "kid_features_to_metric")
    a, b = features()
    options = {"kid_subsets": 7, "kid_subset_size": 150, "verbose": False}
    expected = peer(a, b, **options)
    found = kid(a, b, subsets=7, size=150)
    assert found.mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-10)
    assert found.std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-10)
    # In float32, as its network's features come, its sums of kernels lose digits; ours are of float64.
    a, b = np.float32(a), np.float32(b)
    low = peer(a, b, **options)["kernel_inception_distance_mean"]
    assert kid(a, b, subsets=7, size=150).mean == pytest.approx(low, rel=1e-4)


def test_kernel_distance_of_clean_fid():
    peer = pytest.importorskip("cleanfid.fid").kernel_distance
    a, b = features()
    b = b[:N]  # subsets of all rows, so its random choice does not matter
    expected = peer(b, a, num_subsets=1, max_subset_size=N)
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_inception_score_of_torch_fidelity():
    peer = fidelity("metric_isc", "isc_features_to_metric")
    logits = 3 * np.random.default_rng(0).normal(size=(1003, 12))  # splits of unequal sizes
    for seed in (2020, None):
        expected = peer(logits, splits=10, shuffle=seed is not None)
        found = inception_score(logits, shuffle_seed=seed)
        assert found.mean == pytest.approx(expected["inception_score_mean"], rel=1e-12)
        assert found.std == pytest.approx(expected["inception_score_std"], rel=1e-9)
    # A class that no image can be: its marginal underflows there, and 0 (log 0 - log 0) is NaN.
    logits[:, 0] = -1e4
    assert np.isnan(peer(logits)["inception_score_mean"])
    assert inception_score(logits).mean == pytest.approx(inception_score(logits[:, 1:]).mean, rel=1e-12)


def test_precision_and_recall_of_torch_fidelity():
    """Since 0.4.0; before, input 1's precision was called recall. Sets of different spread tell the two apart."""
    peer = fidelity("metric_prc", "prc_features_to_metric")
    a, b = features()
    for save in (False, True):
        expected = peer(a, b, prc_neighborhood=3, save_cpu_ram=save, prc_batch_size=170, verbose=False)
        found = prdc(a, b, k=3)
        assert found.precision == pytest.approx(expected["precision"], abs=1e-6)  # its means are in float32
        assert found.recall == pytest.approx(expected["recall"], abs=1e-6)
    assert found.precision - found.recall > 0.05


def test_prdc_of_its_authors():
    peer = pytest.importorskip("prdc").compute_prdc
    a, b = features()
    for k in (1, 5):
        expected, found = peer(b, a, nearest_k=k), prdc(a, b, k=k)
        for name, value in expected.items():
            assert getattr(found, name) == pytest.approx(value, rel=1e-12), name
    # A copy of a reference image that the reference holds twice too has distance 0 to a ball of radius 0: within, says
    # eq. 2 of Kynkaanniemi et al. (<=); outside, says prdc (<).
    copies = np.repeat(b[:50], 2, axis=0)
    assert peer(copies, copies, nearest_k=1)["precision"] < 0.5  # 0 but for rounding
    assert prdc(copies, copies, k=1).precision == 1


def test_vendi_of_its_authors():
    peer = pytest.importorskip("vendi_score.vendi")
    x = features()[0]
    assert vendi_score(x) == pytest.approx(peer.score_X(x), rel=1e-9)
    assert vendi_score(x[:20]) == pytest.approx(peer.score_dual(x[:20]), rel=1e-9)
    for q in (0.5, 2.0, np.inf):
        expected = peer.score_dual(x, q="inf" if np.isinf(q) else q)
        assert vendi_score(x, q) == pytest.approx(expected, rel=1e-9)
    # score_X takes order 1 whatever it is asked for; of orders near 0 it counts the rounding errors of zeros.
    assert peer.score_X(x, q=2) == peer.score_X(x, q=1)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert peer.score_K(unit @ unit.T, q=0.1) > 1.1 * vendi_score(x, 0.1)


def pictures(side: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Three noisy uint8 images, and the images."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, side // 8, side // 8, channels))
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)
    noise = rng.normal(size=images.shape) * np.reshape([10, 30, 80], (3, 1, 1, 1))
    return np.uint8(np.clip(images + noise, 0, 255)), np.uint8(images)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_and_psnr_of_scikit_image(channels):
    peer = pytest.importorskip("skimage.metrics")
    x, y = pictures(40, channels)
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    expected = [peer.structural_similarity(a, b, data_range=255, **wang) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ssim(x, y, 255), expected, rtol=1e-9)
    expected = [peer.peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(psnr(x, y, 255), expected, rtol=1e-12)


def test_ms_ssim_of_pytorch_msssim():
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("pytorch_msssim")
    x, y = pictures(176, 3)
    a, b = (torch.tensor(z.astype(np.float64)).permute(0, 3, 1, 2) for z in (x, y))
    window = torch.tensor(WINDOW).expand(3, 1, 1, -1)  # its own one is rounded to float32: 1e-5 of the score
    options = {"data_range": 255, "size_average": False, "win": window}
    np.testing.assert_allclose(ms_ssim(x, y, 255), peer.ms_ssim(a, b, **options).numpy(), rtol=1e-9)
    np.testing.assert_allclose(ssim(x, y, 255), peer.ssim(a, b, **options).numpy(), rtol=1e-9)

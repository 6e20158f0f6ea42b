"""Sketches of photos, against closed forms: flat tones, gratings, steps and ramps."""

import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.edges import Canny, XDoG, brightness
from jdiff.data.sources import Picture


@pytest.fixture
def canny():
    pytest.importorskip("skimage.feature")
    return Canny()


def grey(levels):
    return np.rint(np.asarray(levels)).astype(np.uint8)[..., None]


def soft(u, epsilon, phi):
    """Paper by brightness u: white from epsilon on, darker below."""
    return 255.0 if u >= epsilon else 255 * (1 + np.tanh(phi * (u - epsilon)))


def test_xdog_of_flat_tones_is_their_threshold():
    for level in (0, 60, 100, 120, 127, 128, 255):
        for channels in (1, 3):
            sketch = XDoG(epsilon=0.5, phi=10.0)(np.full((9, 12, channels), level, np.uint8))
            assert sketch.shape == (9, 12, 1)
            np.testing.assert_allclose(sketch, soft(level / 255, 0.5, 10.0), atol=1)


@pytest.mark.parametrize(("cycles", "sigma", "k", "p"), [(4, 1.0, 1.6, 5.0), (9, 1.3, 2.0, 20.0), (2, 3.0, 1.6, 40.0)])
def test_xdog_of_a_grating(cycles, sigma, k, p):
    """A Gaussian of deviation s takes a wave of f cycles a pixel to exp(-2 (pi f s)^2) of its height."""
    f = cycles / 64
    x = np.arange(64) + 0.5
    photo = grey(np.tile(127.5 + 40 * np.cos(2 * np.pi * f * x), (10, 1)))
    height = (1 + p) * np.exp(-2 * (np.pi * f * sigma) ** 2) - p * np.exp(-2 * (np.pi * f * k * sigma) ** 2)
    want = [soft(0.5 + 40 / 255 * height * np.cos(2 * np.pi * f * at), 0.45, 3.0) for at in x]
    sketch = XDoG(sigma=sigma, k=k, p=p, epsilon=0.45, phi=3.0)(photo)[..., 0]
    assert np.ptp(want) > 50
    # Grey levels are rounded, by up to half a level, which p makes more of.
    np.testing.assert_allclose(sketch, np.tile(want, (10, 1)), atol=3 * (1 + 2 * p) * 0.5)
    assert np.abs(sketch - np.tile(want, (10, 1))).mean() < 0.05 * np.ptp(want)


def test_xdog_draws_the_dark_side_of_a_step():
    photo = grey(np.tile(np.repeat([170, 230], 20), (8, 1)))
    sketch = XDoG()(photo)[4, :, 0]
    assert sketch[19] < 100
    assert (sketch[20:] == 255).all()
    assert (sketch[:17] == 255).all()


def test_canny_draws_one_line_where_it_is_steepest(canny):
    step = np.tile(np.repeat([90, 160], [30, 34]), (40, 1))
    sketch = canny(grey(step))[..., 0]
    assert sketch.dtype == np.uint8
    assert set(sketch.ravel()) == {0, 255}
    rows, columns = np.nonzero(sketch == 0)
    assert set(columns) <= {29, 30}
    np.testing.assert_array_equal(np.unique(rows[(rows > 2) & (rows < 37)], return_counts=True)[1], 1)
    sketch = canny(grey(step.T))[..., 0]
    assert set(np.nonzero(sketch == 0)[0]) <= {29, 30}


def test_canny_thresholds_are_slopes(canny):
    """A broad bump of brightness has slopes known in closed form: lines come where they pass `high`."""
    x = np.arange(120)
    photo = grey(np.tile(20 + 200 / (1 + np.exp(-(x - 60) / 5)), (40, 1)))
    steepest = 200 / 255 / 4 / 5
    for factor in (0.85, 1.15):
        sketch = Canny(sigma=0.5, low=0.5 * steepest, high=factor * steepest)(photo)
        assert (sketch[3:-3] == 0).any() == (factor < 1)
    assert (Canny()(np.full((30, 30, 3), 80, np.uint8)) == 255).all()


def test_canny_follows_a_line_as_it_fades(canny):
    """A step from strong to weak along its length: drawn to where it passes `low`; a weak one alone is not."""
    height = np.linspace(0, 120, 100)[:, None]  # grey levels
    photo = grey(100 + height * (np.arange(40) >= 20))
    slope = 0.35 * height[:, 0] / 255  # of the step blurred by one pixel, less what Sobel's filter blurs
    rows = np.unique(np.nonzero(Canny(low=0.03, high=0.08)(photo)[..., 0] == 0)[0])
    np.testing.assert_array_equal(np.diff(rows), 1)
    assert slope[rows[0]] == pytest.approx(0.03, abs=0.008)
    weak = photo[slope < 0.06]
    assert (Canny(low=0.03, high=0.08)(weak) == 255).all()


def test_brightness():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]], np.uint8)
    np.testing.assert_allclose(brightness(colours), [[0.299, 0.587, 0.114, 1, 0]], atol=1e-6)
    photo = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    luma = np.asarray(Image.fromarray(photo).convert("L")) / 255
    np.testing.assert_allclose(brightness(photo), luma, atol=0.51 / 255)
    opacity = np.linspace(0, 255, 5).astype(np.uint8)[None, :, None]
    on_white = brightness(np.concatenate([colours, opacity], axis=-1))
    np.testing.assert_allclose(on_white[0, [0, 4]], [1, 0], atol=1e-6)
    assert on_white[0, 2] == pytest.approx(1 - 127 / 255 * (1 - 0.114), abs=1e-5)
    with pytest.raises(ValueError, match="1, 3 or 4 channels; this has 2"):
        XDoG()(np.zeros((4, 4, 2), np.uint8))


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(
        UserError, match=r'canny needs the library scikit-image .*pip install "jdiff-diffusion\[edges\]"'
    ):
        Canny()(np.zeros((8, 8, 1), np.uint8))
    XDoG()(np.zeros((8, 8, 1), np.uint8))


def test_sketches_are_picklable_and_one_channel_deep():
    for sketch in (Canny(sigma=2.0), XDoG(p=7.0)):
        assert pickle.loads(pickle.dumps(sketch)) == sketch
        assert sketch.made(Picture((9, 12, 3))) == Picture((9, 12, 1))


@pytest.mark.parametrize("kind", [Canny, XDoG])
def test_sketches_of_real_photos_are_mostly_paper(test_data, kind):
    if kind is Canny:
        pytest.importorskip("skimage.feature")
    for path in sorted((test_data / "facades_100").glob("*.jpg"))[:5]:
        photo = np.asarray(Image.open(path))[:, :256]
        sketch = kind()(photo) / 255
        assert 0.4 < sketch.mean() < 0.97, path.name
        assert (sketch < 0.5).mean() > 0.02, path.name

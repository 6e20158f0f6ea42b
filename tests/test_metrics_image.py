"""PSNR, SSIM and MS-SSIM against closed forms."""

import numpy as np
import pytest

from jdiff.common.errors import UserError
from jdiff.metrics.image import ms_ssim, psnr, ssim


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape) * 2 - 1


def test_an_image_against_itself():
    x = noise(2, 176, 176, 3)
    assert np.isinf(psnr(x, x, 2)).all()
    np.testing.assert_allclose(ssim(x, x, 2), 1, rtol=1e-12)
    np.testing.assert_allclose(ms_ssim(x, x, 2), 1, rtol=1e-12)


def test_psnr_of_a_shift():
    """20 log10(L / shift), for each image by itself; uint8 does not wrap around."""
    x = np.full((2, 4, 5, 1), 250, np.uint8)
    y = x - np.uint8(np.reshape([10, 250], (2, 1, 1, 1)))
    np.testing.assert_allclose(psnr(y, x, 255), 20 * np.log10([25.5, 1.02]))
    np.testing.assert_allclose(psnr(x, y, 255), psnr(y, x, 255))


def test_ssim_of_constant_images():
    """(2 a b + c_1) / (a^2 + b^2 + c_1), c_1 = (0.01 L)^2: the structure is 1."""
    a, b = 0.2, 0.7
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    x = np.full((1, 20, 20, 1), a)
    np.testing.assert_allclose(ssim(x, np.full_like(x, b), 1), expected, rtol=1e-9)
    for scales in (1, 2):  # the luminance counts at the coarsest scale only, to the power of its weight
        weight = np.array([0.0448, 0.2856])[:scales]
        found = ms_ssim(np.full((1, 21, 21, 1), a), np.full((1, 21, 21, 1), b), 1, scales=scales)
        np.testing.assert_allclose(found, expected ** (weight[-1] / weight.sum()), rtol=1e-9)


def test_scores_fall_with_noise_and_do_not_depend_on_the_unit():
    x = np.kron(noise(1, 22, 22, 1), np.ones((1, 8, 8, 1)))
    levels = [x + noise(*x.shape) * level for level in (0.1, 0.3, 1.0)]
    for metric in (psnr, ssim, ms_ssim):
        values = [metric(y, x, 2)[0] for y in levels]
        assert values == sorted(values, reverse=True)
        assert values == pytest.approx([metric(y * 127.5, x * 127.5, 255)[0] for y in levels], rel=1e-9)


def test_an_inverted_image_has_a_ms_ssim_of_0():
    x = np.kron(np.random.default_rng(0).random((1, 11, 11, 1)), np.ones((1, 16, 16, 1)))
    assert ssim(x, 1 - x, 1)[0] < 0
    assert ms_ssim(x, 1 - x, 1)[0] == 0


def test_odd_sides():
    x = np.full((1, 163, 171, 1), 0.5)
    np.testing.assert_allclose(ms_ssim(x, x * 1.0, 1), 1, rtol=1e-12)
    brighter = (2 * 0.5 * 0.6 + 1e-4) / (0.5**2 + 0.6**2 + 1e-4)  # no dark border comes in
    np.testing.assert_allclose(ms_ssim(x, np.full_like(x, 0.6), 1), brighter**0.1333, rtol=1e-4)


def test_bad_input():
    x = noise(2, 28, 28, 1)
    with pytest.raises(UserError, match="5 scales needs sides of at least 161; these are 28x28: ask for scales=2"):
        ms_ssim(x, x, 2)
    assert ms_ssim(x, x, 2, scales=2).shape == (2,)
    with pytest.raises(UserError, match="too small for any"):
        ms_ssim(x[:, :10], x[:, :10], 2)
    with pytest.raises(UserError, match="window is 11x11 pixels, larger than images of 10x28"):
        ssim(x[:, :10], x[:, :10], 2)
    with pytest.raises(UserError, match=r"\[2, 28, 28, 1\], \[1, 28, 28, 1\]"):
        psnr(x, x[:1], 2)
    with pytest.raises(UserError, match="1 of the images hold NaN or infinite values, the first is 1"):
        psnr(np.where(np.arange(2).reshape(2, 1, 1, 1) == 1, np.nan, x), x, 2)
    with pytest.raises(ValueError, match="data_range=0"):
        psnr(x, x, 0)
    with pytest.raises(ValueError, match="scales=6"):
        ms_ssim(x, x, 2, scales=6)

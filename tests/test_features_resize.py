"""The resizes of evaluation protocols against the libraries that define them: Pillow, torch, torch-fidelity."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
from PIL import Image

from jdiff.networks.features.resize import (
    resize_clean,
    resize_pil_bicubic,
    resize_tf1,
    resize_torch,
    resize_torch_bicubic,
)
from jdiff.networks.features.space import IMAGENET, Input
from tests.features_parity import SIDES, difference, peer, random_images, real_images, torch_images

# (height, width) -> Inception's side and DINOv2's.
CASES = [((32, 32), 299), ((96, 72), 299), ((299, 299), 299), ((512, 512), 299), ((32, 32), 224), ((512, 384), 224)]
CLOSE = 5e-7


@pytest.fixture(scope="module")
def pictures(test_data):
    """One of noise and a photo at each size."""
    made = {side: np.concatenate([random_images(1, side), real_images(test_data, 1, side)]) for side in SIDES}
    return {shape: made[shape[0]][:, :, : shape[1]] for shape, _ in CASES}


def run(resize: Callable, images: np.ndarray, size: int) -> jax.Array:
    return jax.jit(resize, static_argnums=1)(images, size)


def pillow(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("shape", "size"), CASES)
def test_pil_bicubic_is_pillows_to_the_last_bit(pictures, shape, size):
    images = pictures[shape]
    ours = np.asarray(run(resize_pil_bicubic, images, size))
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, np.stack([pillow(image, size) for image in images]))


@pytest.mark.parametrize(("shape", "size"), CASES)
def test_clean_is_pillows_of_floats_clipped(pictures, shape, size):
    images = pictures[shape]
    channels = np.moveaxis(images.astype(np.float32), -1, 1)
    theirs = np.stack([[pillow(channel, size) for channel in image] for image in channels]).clip(0, 255)
    assert difference(run(resize_clean, images, size), np.moveaxis(theirs, 1, -1)) < CLOSE


@pytest.mark.parametrize(("shape", "size"), CASES)
def test_torchs_resizes_are_torchs(pictures, shape, size):
    """Without antialiasing ours has the rounding of torch's float32, and with it the accuracy of torch's float64, from
    which its float32 is 2e-5 of the range away.
    """
    torch = pytest.importorskip("torch")
    images = pictures[shape]

    def theirs(mode: str, dtype: str) -> np.ndarray:
        x = torch_images(images).to(getattr(torch, dtype))
        antialias = mode == "bicubic"
        out = torch.nn.functional.interpolate(x, (size, size), mode=mode, align_corners=False, antialias=antialias)
        return out.numpy().transpose(0, 2, 3, 1)

    assert difference(run(resize_torch, images, size), theirs("bilinear", "float32")) < CLOSE
    ours = run(resize_torch_bicubic, images, size)
    assert difference(ours, theirs("bicubic", "float64")) < CLOSE
    assert difference(ours, theirs("bicubic", "float32")) < 3e-5


@pytest.mark.parametrize(("shape", "size"), CASES)
def test_tf1_is_torch_fidelitys_and_edms(pictures, shape, size):
    like = peer("torch_fidelity.interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x
    torch = pytest.importorskip("torch")
    images = pictures[shape]
    x = torch_images(images).float()
    ours = run(resize_tf1, images, size)
    theirs = like(x, size=(size, size), align_corners=False)
    assert difference(ours, theirs.numpy().transpose(0, 2, 3, 1)) < CLOSE
    # The same map of coordinates as a grid that samples the image, as NVIDIA's networks have it.
    height, width = shape
    shift = [[1, 0, 1 / width - 1 / size], [0, 1, 1 / height - 1 / size]]
    grid = torch.nn.functional.affine_grid(
        torch.tensor([shift]).repeat(len(x), 1, 1), [*x.shape[:2], size, size], align_corners=False
    )
    sampled = torch.nn.functional.grid_sample(x, grid, "bilinear", "border", align_corners=False)
    assert difference(ours, sampled.numpy().transpose(0, 2, 3, 1)) < 1e-4


def test_tf1_does_not_center_pixels_nor_antialias():
    """Known values: doubling a row repeats its last pixel; halving one takes every second pixel as it is."""
    columns = np.broadcast_to(np.array([10, 30, 50, 70], np.uint8).reshape(1, 4, 1, 1), (1, 4, 4, 1))
    np.testing.assert_allclose(run(resize_tf1, columns, 8)[0, :, 0, 0], [10, 20, 30, 40, 50, 60, 70, 70])
    np.testing.assert_allclose(run(resize_tf1, columns, 2)[0, :, 0, 0], [10, 50])
    np.testing.assert_allclose(run(resize_torch, columns, 2)[0, :, 0, 0], [20, 60])


def test_an_input_is_resized_cropped_standardised_and_in_colour():
    offset, scale = IMAGENET
    images = random_images(2, 40)[:, :, :30]
    whole = Input(resize="pil_bicubic", size=16, offset=offset, scale=scale)
    middle = Input(resize="pil_bicubic", size=16, offset=offset, scale=scale, crop=True)
    for network_input, rows in ((whole, slice(None)), (middle, slice(5, 35))):
        resized = np.stack([pillow(image[rows], 16) for image in images]) / 255
        expected = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(jax.jit(network_input)(images), expected, atol=1e-5)
    in_colour = jax.jit(middle)(images[..., :1])
    np.testing.assert_array_equal(in_colour, jax.jit(middle)(np.repeat(images[..., :1], 3, axis=-1)))
    ends = np.stack([np.zeros((30, 30, 3)), np.full((30, 30, 3), 255)]).astype(np.uint8)
    np.testing.assert_allclose(jax.jit(middle)(ends)[:, 0, 0], middle.range, rtol=1e-6)
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        whole(jax.device_put(images[..., :2]))

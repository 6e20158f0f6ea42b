"""Images whose values may be taken for others, and bits per dimension of whatever levels the data have."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdiff
from jdiff import from_config
from jdiff.common.arrays import per_image
from jdiff.common.errors import UserError
from jdiff.common.keys import image_keys
from jdiff.common.pictures import checked
from jdiff.common.ranges import Range
from jdiff.diffusion import variational
from jdiff.diffusion.denoiser import Denoised
from jdiff.diffusion.likelihood import bits_per_dim, log_likelihood
from jdiff.diffusion.tables import DDPMTable, linear_betas

UNIT = np.random.default_rng(0).random((3, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tiny_run) -> jdiff.Model:
    return jdiff.load(tiny_run.workdir)


HALF = np.tile(np.arange(8) < 4, (8, 1))
CALLS = {
    "img2img": lambda model, images: model.img2img(images, sigma=1.0, sampler="ddim", steps=2),
    "inpaint": lambda model, images: model.inpaint(images, HALF, repeats=1, sampler="ddim", steps=2),
    "invert": lambda model, images: model.invert(images, sampler="ddim", steps=3),
}


@pytest.mark.parametrize("call", CALLS)
def test_floats_from_0_to_1_are_told_of_once(model, call):
    with pytest.warns(
        UserWarning, match=r"images are float32 from 0\.\d+ to 0\.99\d+ and taken for values from -1 to 1"
    ) as told:
        CALLS[call](model, UNIT)
    assert len(told) == 1
    assert "if they are of [0, 1], scale them first (2 * images - 1)" in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CALLS[call](model, 2 * UNIT - 1)


@pytest.mark.parametrize(
    ("values", "images", "told"),
    [
        (Range("uint16", 0, 65535), UNIT, r"taken for values from 0 to 65535; if they are of \[0, 1\], scale them"),
        (
            Range("uint16", 0, 65535),
            np.uint8(UNIT * 255),
            "uint8 .* taken for values from 0 to 65535; if they are of 8",
        ),
        (Range("float32", -1000, 3000), UNIT, "taken for values from -1000 to 3000"),
        (Range("float32", 0, 1), UNIT, ""),
        (Range("uint16", 0, 65535), np.uint16(UNIT * 65535), ""),
        (Range("uint8", 0, 3), np.uint8(UNIT * 3), ""),
        (Range(), np.uint8(UNIT), ""),
    ],
)
def test_values_that_fit_another_range_are_told_of(values, images, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checked(images, (8, 8, 1), values=values)
    assert len(caught) == bool(told)
    if told:
        with pytest.warns(UserWarning, match=told):
            checked(images, (8, 8, 1), values=values)


def denoise_uniform(x, sigma, cond=None, to=None):
    """E[x0 | x] for x0 uniform on [-1, 1]: the mean of a truncated Gaussian."""
    sigma = per_image(sigma, x)
    low, high = (-1 - x) / sigma, (1 - x) / sigma
    norm = jax.scipy.stats.norm
    x0 = x - sigma * (norm.pdf(high) - norm.pdf(low)) / jnp.maximum(norm.cdf(high) - norm.cdf(low), 1e-30)
    return Denoised(x0=jnp.clip(x0, -1, 1), x0_dir=x0)


@pytest.mark.parametrize("levels", [256, 1000, 65536])
def test_uniform_noise_takes_the_logarithm_of_its_levels(levels):
    """By the true denoiser; the very ends, where noise of sigma_min blurs the density, are left out."""
    values = Range("uint16", 7.0, levels + 6.0)
    pixels = np.random.default_rng(0).integers(7 + levels // 50, levels + 6 - levels // 50, (64, 4, 4, 1))
    with jax.enable_x64(True):
        x, ends = jnp.asarray(values.to_model(pixels.astype(np.uint16)), jnp.float64), jnp.asarray([1e-3, 50.0])
        flow = partial(log_likelihood, denoise_uniform, exact=True, cond={}, keys=image_keys(0, jnp.arange(64)))
        nats = jax.jit(lambda x: flow(x, sigma_min=ends[0], sigma_max=ends[1], prior_std=ends[1]))(x)
        bits = bits_per_dim(nats, 16, values.half_level)
    np.testing.assert_allclose(bits, np.log2(levels), atol=0.02)


@pytest.mark.parametrize("levels", [4, 256, 65536])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gaussians_masses_of_all_levels_add_up(levels, dtype):
    values = Range("uint16", 0.0, levels - 1.0)
    with jax.enable_x64(True):
        x0 = jnp.asarray(np.arange(levels) / (levels - 1) * 2 - 1, dtype)
        for mean, std in ((0.3, 0.002), (-0.99, 0.05), (0.1, 0.5), (0.0, 10.0)):
            given = jnp.asarray(mean, dtype), jnp.asarray(2 * np.log(std), dtype), values.half_level
            masses = np.exp(np.asarray(variational.discretized_gaussian(x0, *given), np.float64))
            assert masses.sum() == pytest.approx(1, rel=1e-6 if dtype == "float64" else 2e-3)


def of_data(model: jdiff.Model, dtype: str, low: float, high: float) -> jdiff.Model:
    """The same weights as a model of other data."""
    settings = model.config.copy_and_resolve_references()
    settings.data.dtype, settings.data.range = dtype, (low, high)
    return jdiff.Model(settings, from_config.task(settings), model.mesh, model.weights, step=model.step)


@pytest.mark.slow
def test_bits_of_a_16_bit_model(model):
    """Uniform noise of 16 bits takes about 16 by a model that has learned little but the data's scale."""
    noise = np.random.default_rng(0).integers(0, 65536, (16, 8, 8, 1)).astype(np.uint16)
    of_16 = of_data(model, "uint16", 0.0, 65535.0)
    ode = of_16.bits_per_dim(noise, rtol=1e-2, atol=1e-2)
    assert 15.9 < ode.mean() < 17
    of_8 = model.bits_per_dim(np.uint8(noise >> 8), rtol=1e-2, atol=1e-2)
    assert ode.mean() - of_8.mean() == pytest.approx(8, abs=0.1)
    assert 15.9 < of_16.bits_per_dim(noise, method="bound", steps=100).mean() < 20


def test_floats_have_no_bits(model):
    with pytest.raises(UserError, match="bits of whole numbers, and this model's data are float32") as error:
        of_data(model, "float32", 0.0, 1.0).bits_per_dim(UNIT)
    assert "\n" not in str(error.value)
    for images in (UNIT, 2.0 * UNIT - 1, np.float64(np.round(255 * UNIT))):
        with pytest.raises(UserError, match=f"these images are {images.dtype}: give them as uint8"):
            model.bits_per_dim(images)


def test_narrower_levels_take_more_bits():
    """L_0 of the bound, eight bits more for levels of 16 bits than for levels of 8."""
    table = jnp.asarray(DDPMTable(linear_betas(50)).sigmas, jnp.float32)
    x0, t = jnp.zeros((1, 2, 2, 1)), jnp.zeros(1, jnp.int32)
    given = Denoised(x0=x0 + 0.01, x0_dir=x0)
    bits = [float(variational.term(table, x0, x0 + table[0], t, given, half)[0]) for half in (1 / 255, 1 / 65535)]
    assert bits[1] - bits[0] == pytest.approx(8, abs=0.5)

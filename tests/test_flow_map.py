"""D(x, sigma, s): Euler with jumps against the exact end of a Gaussian's probability flow, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff.common.keys import image_keys
from jdiff.diffusion import drivers, guidance
from jdiff.diffusion.denoiser import Denoised, make_denoiser
from jdiff.diffusion.guidance import ClassifierFree
from jdiff.diffusion.ladders import karras
from jdiff.diffusion.parameterization import Edm
from jdiff.diffusion.samplers import DDIM
from jdiff.diffusion.schedules import EDM
from tests.closed_forms import GaussianFlowMap, Mixture

MEAN, STD = np.array([0.3, -0.6]), np.array([0.2, 0.6])
DATA = GaussianFlowMap(MEAN, STD)
SIGMA_MAX = 80.0
EULER = DDIM(jumps=True)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def starts():
    return SIGMA_MAX * jax.random.normal(jax.random.key(0), (16, 2), jnp.float64)


def ladder(steps, end=0.0):
    """`steps` steps to `end`."""
    rungs = karras(steps, sigma_min=0.05, sigma_max=SIGMA_MAX)
    return jnp.asarray([*rungs[:-1], end])


def walk(denoise, x, sigmas, sampler=EULER, cond=None):
    keys = image_keys(0, jnp.arange(len(x)))
    return jax.jit(lambda x, sigmas: drivers.scan(sampler, denoise, x, sigmas, cond or {}, keys).x0)(x, sigmas)


@pytest.mark.parametrize("end", [0.0, 0.02])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_any_number_of_jumps_ends_where_the_flow_does(steps, end):
    x = starts()
    exact = DATA.flow(x, SIGMA_MAX, end)
    np.testing.assert_allclose(walk(DATA.denoise, x, ladder(steps, end)), exact, rtol=0, atol=1e-13)
    without = walk(DATA.denoise, x, ladder(steps, end), DDIM())
    assert np.abs(without - exact).max() > 0.02


# The classes of a conditional model have one spread; with label 2 the condition is dropped (its null).
MEANS = np.array([[0.3, -0.6], [-0.5, 0.4], [0.0, 0.1]])


def of_classes(x, sigma, cond, to=None):
    label = jnp.where(cond["drop"]["label"], 2, cond["label"]) if "drop" in cond else cond["label"]
    means = jnp.asarray(MEANS)[label]
    x0 = means + GaussianFlowMap(np.zeros(2), STD).denoise(x - means, sigma, {}, to).x0
    return Denoised(x0=x0, x0_dir=x0)


@pytest.mark.parametrize("w", [1.0, 0.0, 2.5])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_jumps_pass_through_guidance(steps, w):
    """w D_cond + (1 - w) D_uncond of two Gaussians of one spread is the flow map of the Gaussian whose mean is
    w mean_cond + (1 - w) mean_uncond.
    """
    x, label = starts(), jnp.arange(16) % 2
    guided = guidance.guided(of_classes, (ClassifierFree(jnp.asarray(w)),))
    ours = walk(guided, x, ladder(steps), cond={"label": label})
    mean = w * MEANS[np.asarray(label)] + (1 - w) * MEANS[2]
    exact = mean + GaussianFlowMap(np.zeros(2), STD).flow(x - mean, SIGMA_MAX, 0.0)
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-13)


def test_to_sigma_itself_is_the_posterior_mean():
    """As is `to` left out; each image may have a sigma and a `to` of its own."""
    x, sigma = starts(), jnp.geomspace(0.01, 80.0, 16)
    posterior = Mixture(np.ones(1), MEAN[None], STD[None]).denoise(x, sigma, {}).x0
    for to in (None, sigma):
        np.testing.assert_allclose(DATA.denoise(x, sigma, {}, to).x0, posterior, rtol=1e-13, atol=1e-14)


def test_to_zero_is_a_consistency_function():
    """The flow's end, which is the same from every point of one trajectory."""
    x = starts()
    ends = [DATA.denoise(DATA.flow(x, SIGMA_MAX, s), s, {}, jnp.asarray(0.0)).x0 for s in (80.0, 3.0, 0.2, 1e-3)]
    for end in ends:
        np.testing.assert_allclose(end, DATA.flow(x, SIGMA_MAX, 0.0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_the_identity_along_the_flow(share):
    """s (D(x, sigma, sigma) - D(x, sigma, s)) = sigma (sigma - s) dD/dsigma, x moving with the flow and s fixed."""
    sigma = jnp.geomspace(0.05, 20.0, 16)
    x, s = MEAN + sigma[:, None] * starts() / SIGMA_MAX, share * sigma
    posterior = DATA.denoise(x, sigma, {}).x0
    velocity = (x - posterior) / sigma[:, None]
    D, along = jax.jvp(lambda x, sigma: DATA.denoise(x, sigma, {}, s).x0, (x, sigma), (velocity, jnp.ones(16)))
    left, right = s[:, None] * (posterior - D), (sigma * (sigma - s))[:, None] * along
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)
    assert (np.abs(left).max() > 1e-3) == (0 < share < 1)


def test_an_ordinary_network_knows_the_posterior_mean_alone():
    denoise = make_denoiser(lambda x, c_noise, cond: x, Edm(EDM()))
    x = starts()
    assert np.isfinite(walk(denoise, x, ladder(2), DDIM())).all()
    with pytest.raises(ValueError, match="to must be None"):
        jax.eval_shape(lambda x: denoise(x, jnp.asarray(2.0), {}, jnp.asarray(1.0)), x)
    with pytest.raises(ValueError, match="to must be None"):
        walk(denoise, x, ladder(2))

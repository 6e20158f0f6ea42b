"""Samplers against the exact solution for Gaussian data, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff.common.keys import image_keys
from jdiff.diffusion import drivers
from jdiff.diffusion.ladders import karras
from jdiff.diffusion.samplers import DDIM, Heun
from jdiff.diffusion.schedules import EDM
from tests.closed_forms import MEAN, STD, gaussian_denoiser, gaussian_flow

SIGMA_MAX, SIGMA_END = 5.0, 0.1


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def walk(sampler, x, sigmas, seed=0):
    keys = image_keys(seed, jnp.arange(len(x)))
    return jax.jit(lambda x, s: drivers.scan(sampler, gaussian_denoiser, x, s, {}, keys).x0)(x, jnp.asarray(sigmas))


def ladder_to(end, steps):
    """Karras' rungs from SIGMA_MAX to `end` > 0, without the last step to 0."""
    return karras(steps + 1, sigma_min=end, sigma_max=SIGMA_MAX)[:-1]


@pytest.mark.parametrize(("sampler", "order"), [(DDIM(eta=0.0), 1), (Heun(), 2)])
def test_global_error_falls_with_the_order(sampler, order):
    x = SIGMA_MAX * jax.random.normal(jax.random.key(0), (64, 2))
    exact = gaussian_flow(np.asarray(x), SIGMA_MAX, SIGMA_END)
    counts = [20, 40, 80, 160]
    errors = [np.abs(walk(sampler, x, ladder_to(SIGMA_END, n)) - exact).max() for n in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize(
    "sampler",
    [DDIM(eta=1.0), DDIM(eta=0.5), Heun(steps=400, s_churn=40.0), Heun(steps=400, s_churn=40.0, s_min=0.3, s_max=2.0)],
)
def test_noisy_samplers_keep_the_exact_moments(sampler):
    """Started at the exact marginal and stopped at SIGMA_END: mean and covariance within five standard errors."""
    n = 40_000
    noise = jax.random.normal(jax.random.key(1), (n, 2))
    x = MEAN + np.sqrt(STD**2 + SIGMA_MAX**2) * noise
    out = np.asarray(walk(sampler, x, ladder_to(SIGMA_END, 400), seed=3))
    variance = STD**2 + SIGMA_END**2
    assert (np.abs(out.mean(0) - MEAN) < 5 * np.sqrt(variance / n)).all()
    assert (np.abs(out.var(0) - variance) < 5 * variance * np.sqrt(2 / n) + 0.01 * variance).all()
    assert abs(np.corrcoef(out.T)[0, 1]) < 5 / np.sqrt(n)


def test_ddim_step_is_the_papers():
    """One step in DDIM's own coordinates (2010.02502, eq. 12 and 16), with alpha here the paper's alpha-bar."""
    s, s_next, eta = 2.0, 0.7, 0.6
    alpha, alpha_next = 1 / (1 + s**2), 1 / (1 + s_next**2)
    x = jax.random.normal(jax.random.key(0), (5, 2))
    keys = image_keys(0, jnp.arange(5))
    sampler = DDIM(eta=eta)
    ours, _ = sampler.step(
        lambda x, sigma: gaussian_denoiser(x, sigma, {}), (), x, jnp.float64(s), jnp.float64(s_next), keys
    )
    x_t = np.sqrt(alpha) * x
    x0 = gaussian_denoiser(x, jnp.float64(s), {}).x0
    eps = (x_t - np.sqrt(alpha) * x0) / np.sqrt(1 - alpha)
    std = eta * np.sqrt((1 - alpha_next) / (1 - alpha)) * np.sqrt(1 - alpha / alpha_next)
    z = jax.vmap(lambda key: jax.random.normal(key, (2,), jnp.float64))(keys)
    theirs = np.sqrt(alpha_next) * x0 + np.sqrt(1 - alpha_next - std**2) * eps + std * z
    np.testing.assert_allclose(ours, theirs / np.sqrt(alpha_next), rtol=1e-10)


def test_the_last_step_answers_with_the_denoiser():
    x = jax.random.normal(jax.random.key(0), (5, 2))
    for sampler in (DDIM(eta=1.0), Heun()):
        last = walk(sampler, x, np.array([0.5, 0.0]))
        np.testing.assert_allclose(last, gaussian_denoiser(x, 0.5, {}).x0, rtol=1e-12)


@pytest.mark.parametrize("sampler", [DDIM(eta=1.0), Heun(steps=2, s_churn=80.0)])
def test_the_longest_step_stays_finite_in_float32(sampler):
    x = jnp.ones((1000, 2), jnp.float32)
    assert np.isfinite(walk(sampler, x, np.array([80.0, 0.002, 0.0], np.float32))).all()


@pytest.mark.parametrize("sampler", [DDIM(), DDIM(eta=1.0), Heun(), Heun(steps=7, s_churn=7.0)])
def test_nfe_counts_the_denoisers_calls(sampler):
    calls = []

    def counting(x, sigma, cond):
        jax.debug.callback(lambda: calls.append(1))
        return gaussian_denoiser(x, sigma, cond)

    keys = image_keys(0, jnp.arange(3))
    sigmas = jnp.asarray(karras(7, sigma_min=0.01, sigma_max=5))
    drivers.scan(sampler, counting, jnp.ones((3, 2)), sigmas, {}, keys).x0.block_until_ready()
    jax.effects_barrier()
    assert len(calls) == sampler.nfe(7)


def test_a_trajectory_is_kept_only_if_asked_for():
    x = jnp.ones((3, 2))
    keys = image_keys(0, jnp.arange(3))
    sigmas = jnp.asarray(karras(7, sigma_min=0.01, sigma_max=5))
    assert drivers.scan(Heun(), gaussian_denoiser, x, sigmas, {}, keys).trajectory is None
    kept = drivers.scan(Heun(), gaussian_denoiser, x, sigmas, {}, keys, keep_trajectory=True)
    assert kept.trajectory.shape == (8, 3, 2)
    np.testing.assert_array_equal(kept.trajectory[0], x)
    np.testing.assert_array_equal(kept.trajectory[-1], kept.x0)


def test_an_image_does_not_depend_on_those_beside_it():
    sigmas = jnp.asarray(karras(7, sigma_min=0.01, sigma_max=5))

    def sample(indices):
        keys = image_keys(7, jnp.asarray(indices))
        x = drivers.prior(keys, jnp.zeros((len(indices), 2)), sigmas[0], EDM())
        return x, drivers.scan(DDIM(eta=1.0), gaussian_denoiser, x, sigmas, {}, keys).x0

    prior, together = sample([0, 1, 2, 3])
    prior_alone, alone = sample([2])
    np.testing.assert_array_equal(prior[2], prior_alone[0])
    np.testing.assert_allclose(together[2], alone[0], rtol=1e-12)

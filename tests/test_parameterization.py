"""The four functions of sigma against what defines them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff.diffusion.denoiser import make_denoiser
from jdiff.diffusion.objective import LogNormal, Simple, UniformSteps
from jdiff.diffusion.parameterization import Edm, Eps
from jdiff.diffusion.schedules import EDM, DDPMTable, linear_betas

TABLE = DDPMTable(linear_betas(1000))
SIGMAS = jnp.geomspace(0.01, 80, 50)


def test_edm_keeps_input_and_target_at_unit_variance():
    """2206.00364, appendix B.6: with x0 of variance s^2, c_in x and (x0 - c_skip x)/c_out have variance 1."""
    s = 0.37
    c = Edm(EDM(), s)(SIGMAS)
    np.testing.assert_allclose(c.c_in**2 * (s**2 + SIGMAS**2), 1, rtol=1e-5)
    target_variance = ((1 - c.c_skip) ** 2 * s**2 + c.c_skip**2 * SIGMAS**2) / c.c_out**2
    np.testing.assert_allclose(target_variance, 1, rtol=1e-4)


def test_edm_weight_is_the_papers():
    s = 0.5
    expected = (SIGMAS**2 + s**2) / (SIGMAS * s) ** 2
    np.testing.assert_allclose(Simple(Edm(EDM(), s))(SIGMAS), expected, rtol=1e-5)


def test_a_network_that_knows_eps_gives_x0_back():
    x0 = jax.random.uniform(jax.random.key(0), (50, 4, 4, 1), minval=-1)
    eps = jax.random.normal(jax.random.key(1), x0.shape)
    alpha = 1 / jnp.sqrt(1 + SIGMAS**2)[:, None, None, None]
    sigma = SIGMAS[:, None, None, None]

    def network(x, c_noise, cond):
        # DDPM's network sees x_t = alpha_t x0 + sqrt(1 - alpha_t^2) eps, of unit variance.
        np.testing.assert_allclose(x, alpha * x0 + jnp.sqrt(1 - alpha**2) * eps, atol=1e-5)
        return eps

    denoised = make_denoiser(network, Eps(TABLE))(x0 + sigma * eps, SIGMAS, {})
    np.testing.assert_allclose(denoised.x0, x0, atol=1e-4)


def test_simple_weight_makes_the_eps_loss():
    """weight |D - x0|^2 = |F - eps|^2 for eps prediction."""
    np.testing.assert_allclose(Simple(Eps(TABLE))(SIGMAS), 1 / SIGMAS**2, rtol=1e-6)


def test_draws():
    key = jax.random.key(0)
    logs = np.log(LogNormal(-1.2, 1.2)(key, (100_000,)))
    assert logs.mean() == pytest.approx(-1.2, abs=5 * 1.2 / np.sqrt(1e5))
    assert logs.std() == pytest.approx(1.2, abs=0.02)
    drawn = np.asarray(UniformSteps(TABLE)(key, (100_000,)))
    assert np.isin(drawn, TABLE.sigmas.astype(np.float32)).all()
    steps = np.searchsorted(TABLE.sigmas.astype(np.float32), drawn)
    counts = np.bincount(steps // 100, minlength=10)
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(9_000)

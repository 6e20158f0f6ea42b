"""Schedules against their defining formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdiff.diffusion.schedules import EDM, DDPMTable, cosine_betas, linear_betas

TABLES = {
    "linear": DDPMTable(linear_betas(1000)),
    "cosine": DDPMTable(cosine_betas(1000)),
    "linear, T = 100": DDPMTable(linear_betas(100)),
}


@pytest.mark.parametrize("name", TABLES)
def test_sigma_and_time_are_inverse(name):
    table = TABLES[name]
    t = jnp.linspace(0, len(table.betas) - 1, 333)
    np.testing.assert_allclose(table.time(table.sigma(t)), t, atol=2e-3)
    sigma = jnp.geomspace(table.sigma_min, table.sigma_max, 333)
    # t has a float32's 6e-5 near 1000, where the cosine table's ln sigma rises by up to 3.5 a step.
    np.testing.assert_allclose(table.sigma(table.time(sigma)), sigma, rtol=3e-4 if name == "cosine" else 2e-5)


def test_table_is_exact_at_its_steps():
    table = TABLES["linear"]
    betas = np.linspace(1e-4, 0.02, 1000)
    alphas_bar = np.cumprod(1 - betas)
    for t in (0, 1, 500, 999):
        expected = np.sqrt((1 - alphas_bar[t]) / alphas_bar[t])
        assert table.sigmas[t] == pytest.approx(expected, rel=1e-12)
        assert float(table.sigma(jnp.float32(t))) == pytest.approx(expected, rel=1e-5)


def test_ho_et_als_numbers():
    """DDPM's section 4: alpha-bar at T is about 4e-5, so sigma at T is about 157."""
    assert TABLES["linear"].sigma_max == pytest.approx(157.4, abs=0.1)
    assert TABLES["linear"].sigma_min == pytest.approx(0.01, abs=1e-5)


def test_linear_betas_scale_with_the_number_of_steps():
    """The same process in fewer steps ends at about the same noise (ln sigma within 10 %)."""
    ratio = np.log(TABLES["linear, T = 100"].sigma_max) / np.log(TABLES["linear"].sigma_max)
    assert ratio == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("steps", [1, 2, 10, 20])
def test_short_tables_stay_finite(steps):
    for betas in (linear_betas(steps), cosine_betas(steps)):
        sigmas = DDPMTable(betas).sigmas
        assert np.isfinite(sigmas).all()
        assert (np.diff(sigmas) > 0).all()


def test_cosine_betas_follow_alpha_bar_until_they_are_clipped():
    betas = np.array(cosine_betas(1000))
    assert betas.max() == 0.999
    t = np.arange(1, 991) / 1000
    expected = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(np.cumprod(1 - betas)[:990], expected, rtol=1e-9)


def test_what_networks_are_told():
    assert float(EDM().c_noise(jnp.float32(np.e))) == pytest.approx(0.25)
    table = TABLES["linear"]
    assert float(table.c_noise(jnp.float32(table.sigmas[123]))) == pytest.approx(123, abs=1e-2)
    outside = jnp.array([table.sigma_min / 2, table.sigma_max * 2])
    np.testing.assert_array_equal(table.c_noise(outside), [0, 999])


def test_walks_start_with_the_spread_of_the_process():
    assert float(EDM().prior_std(jnp.float32(80))) == 80
    assert float(TABLES["linear"].prior_std(jnp.float32(3.0))) == pytest.approx(np.sqrt(10))

"""The variational bound against Ho et al.'s formulas, numerical integrals, and the entropy of known data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from jdiff.common.keys import image_keys
from jdiff.diffusion import variational
from jdiff.diffusion.denoiser import Denoised
from jdiff.diffusion.tables import DDPMTable, cosine_betas, linear_betas, zero_terminal_snr

TABLES = {
    "linear": DDPMTable(linear_betas(1000)),
    "cosine": DDPMTable(cosine_betas(100)),
    "no signal at T": DDPMTable(zero_terminal_snr(linear_betas(100))),
}
LEVELS = np.arange(256) / 127.5 - 1
term = jax.jit(variational.term)
discretized_gaussian = jax.jit(variational.discretized_gaussian)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def ho(table):
    """Ho et al.'s beta, abar and abar of the step before, counted from 0; abar is cut where the table cuts sigma."""
    alphas_bar = 1 / (1 + table.sigmas**2)
    before = np.append(1.0, alphas_bar[:-1])
    return 1 - alphas_bar / before, alphas_bar, before


@pytest.mark.parametrize("name", TABLES)
def test_small_and_large_are_ho_et_als_beta_tilde_and_beta(name):
    """2006.11239, eq. 7 and section 3.2, divided by alpha'^2 = abar'. From abar the two lose up to 1e-16/beta."""
    table = TABLES[name]
    beta, alphas_bar, before = ho(table)
    s, s_next = jnp.asarray(table.sigmas), jnp.asarray(np.append(0.0, table.sigmas[:-1]))
    beta_tilde = (1 - before) / (1 - alphas_bar) * beta
    np.testing.assert_allclose(variational.small_variance(s, s_next) * before, beta_tilde, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(variational.large_variance(s, s_next) * before, beta, rtol=1e-9)
    if name != "no signal at T":
        np.testing.assert_allclose(variational.large_variance(s, s_next) * before, table.betas, rtol=1e-9)
    assert float(variational.small_variance(s[0], s_next[0])) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 999), st.floats(-0.2, 1.2))
def test_a_learned_variance_lies_between_on_a_logarithmic_scale(t, fraction):
    """2102.09672, eq. 15: exp(v ln beta + (1 - v) ln beta-tilde), for any v; 0 and 1 are the small and the large."""
    beta, alphas_bar, before = (values[t] for values in ho(TABLES["linear"]))
    beta_tilde = (1 - before) / (1 - alphas_bar) * beta
    sigma, sigma_next = jnp.asarray(TABLES["linear"].sigmas[[t, t - 1]])
    fractions = jnp.array([fraction, 0.0, 1.0]).reshape(1, 3)
    ours = variational.learned_variance(fractions, sigma[None], sigma_next[None], jnp.asarray(7.0)) * before
    between = np.exp(fraction * np.log(beta) + (1 - fraction) * np.log(beta_tilde))
    np.testing.assert_allclose(ours[0], [between, beta_tilde, beta], rtol=1e-9)


def test_a_learned_variance_of_the_first_step_has_another_small_one():
    """The posterior's is 0 there; beta is that of the step itself."""
    table = TABLES["linear"]
    sigma, sigma_next = jnp.asarray(table.sigmas[:1]), jnp.zeros(1)
    ours = variational.learned_variance(jnp.array([[0.0, 1.0]]), sigma, sigma_next, jnp.asarray(3e-5))
    np.testing.assert_allclose(ours[0], [3e-5, table.betas[0]], rtol=1e-9)


NUMBERS = st.floats(-3, 3)


@settings(max_examples=15, deadline=None)
@given(NUMBERS, st.floats(-2, 2), NUMBERS, st.floats(-2, 2))
def test_the_gaussians_divergence_is_the_integral(mean, log_variance, other_mean, other_log_variance):
    p = stats.norm(mean, np.exp(log_variance / 2))
    q = stats.norm(other_mean, np.exp(other_log_variance / 2))
    ends = mean - 12 * p.std(), mean + 12 * p.std()
    expected, _ = integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), *ends, epsabs=1e-10)
    ours = variational.gaussian_kl(*(jnp.asarray(v) for v in (mean, log_variance, other_mean, other_log_variance)))
    assert float(ours) == pytest.approx(expected, rel=1e-6, abs=1e-8)


MEANS = (-5.0, -1.0, -0.3, 0.002, 0.9, 3.0)
STDS = (1e-3, 0.004, 0.05, 0.5, 10.0)


def of_all_levels(means, stds, dtype=None):
    """[means, stds, 256]."""
    means, stds = jnp.asarray(means, dtype)[:, None, None], jnp.asarray(stds, dtype)[None, :, None]
    return np.asarray(discretized_gaussian(jnp.asarray(LEVELS, dtype), means, 2 * jnp.log(stds)))


def test_the_discretized_gaussian_is_a_distribution_over_the_levels():
    np.testing.assert_allclose(np.exp(of_all_levels(MEANS, STDS)).sum(-1), 1, rtol=1e-9)


def test_the_discretized_gaussian_is_the_mass_within_half_a_level():
    logs = of_all_levels(MEANS, STDS)
    edges = np.concatenate([[-np.inf], (LEVELS[1:] + LEVELS[:-1]) / 2, [np.inf]])
    for i, mean in enumerate(MEANS):
        for j, std in enumerate(STDS):
            below, above = stats.norm(mean, std).cdf(edges[:-1]), stats.norm(mean, std).cdf(edges[1:])
            counts = (above > 1e-3) & (below < 1 - 1e-3)  # where the plain difference does not cancel
            np.testing.assert_allclose(logs[i, j][counts], np.log((above - below)[counts]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_discretized_gaussian_is_finite_in_its_far_tails(dtype):
    """Ten thousand standard deviations away, where the plain difference of cumulative functions is 0."""
    logs = of_all_levels((-1.0, 0.0, 1.0), (2e-4, 0.1, 50.0), dtype)
    assert np.isfinite(logs).all()
    away = (LEVELS[0] - LEVELS[-1] + 1 / 255) / 2e-4
    assert logs[2, 0, 0] == pytest.approx(-(away**2) / 2 - np.log(-away) - 0.919, rel=1e-5)
    slope = jax.jit(jax.grad(discretized_gaussian, argnums=(1, 2)))
    assert np.isfinite(slope(jnp.asarray(-1, dtype), jnp.asarray(1, dtype), jnp.asarray(-17, dtype))).all()


def in_papers_coordinates(table, t, x0, x, d, fraction=None):
    """L_{t-1} of 2006.11239, eq. 5-8, in x_t = sqrt(abar) x, in nats a value."""
    beta, alphas_bar, before = (values[t] for values in ho(table))
    x_t = np.sqrt(alphas_bar) * x
    beta_tilde = (1 - before) / (1 - alphas_bar) * beta

    def mean(x0):
        of_x0 = np.sqrt(before) * beta / (1 - alphas_bar)
        return of_x0 * x0 + np.sqrt(1 - beta) * (1 - before) / (1 - alphas_bar) * x_t

    variance = beta_tilde if fraction is None else np.exp(fraction * np.log(beta) + (1 - fraction) * np.log(beta_tilde))
    apart = (mean(x0) - mean(d)) ** 2
    return np.mean(0.5 * (np.log(variance / beta_tilde) + (beta_tilde + apart) / variance - 1), axis=(1, 2, 3))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_a_term_is_the_divergence_in_the_papers_coordinates(name, learned):
    table = TABLES[name]
    rng = np.random.default_rng(0)
    x0, noise, error = rng.normal(size=(3, 6, 2, 2, 1))
    t = np.linspace(1, len(table.betas) - 1, 6).astype(int)
    x = x0 + table.sigmas[t][:, None, None, None] * noise
    d = x0 + 0.1 * error
    fraction = rng.uniform(size=x0.shape)
    denoised = Denoised(x0=jnp.asarray(d), x0_dir=jnp.asarray(d), variance=jnp.asarray(fraction) if learned else None)
    ours = term(jnp.asarray(table.sigmas), x0, x, jnp.asarray(t), denoised)
    for i, step in enumerate(t):
        one = slice(i, i + 1)
        nats = in_papers_coordinates(table, step, x0[one], x[one], d[one], fraction[one] if learned else None)
        assert float(ours[i]) == pytest.approx(float(nats[0]) / np.log(2), rel=1e-6, abs=1e-9)


def test_the_first_term_decodes():
    """-ln of the mass of x0's level under N(D, the second step's small variance), in bits."""
    table = TABLES["linear"]
    x0 = LEVELS[[0, 3, 128, 255]].reshape(1, 2, 2, 1)
    d = x0 + 0.004
    denoised = Denoised(x0=jnp.asarray(d), x0_dir=jnp.asarray(d))
    ours = term(jnp.asarray(table.sigmas), jnp.asarray(x0), jnp.asarray(d), jnp.array([0]), denoised)
    first, second = table.sigmas[:2]
    std = np.sqrt(first**2 * (second**2 - first**2) / second**2)
    low = np.where(x0 < -0.999, 0, stats.norm(d, std).cdf(x0 - 1 / 255))
    high = np.where(x0 > 0.999, 1, stats.norm(d, std).cdf(x0 + 1 / 255))
    assert float(ours[0]) == pytest.approx(-np.log2(high - low).mean(), rel=1e-9)


MASS = np.exp(stats.norm(-0.2, 0.25).logpdf(LEVELS))
MASS /= MASS.sum()


def pixels(images, size):
    """Images whose pixels are levels of N(-0.2, 0.25^2), each alone."""
    return jax.random.choice(jax.random.key(0), jnp.asarray(LEVELS), (images, size, size, 1), p=jnp.asarray(MASS))


def denoise_pixels(x, sigma, cond, to=None):
    """E[x0 | x] = m + s^2/(s^2 + sigma^2) (x - m), with beta for the steps' variance (right at the first step)."""
    share = 0.0625 / (0.0625 + jnp.broadcast_to(sigma, x.shape[:1])[:, None, None, None] ** 2)
    x0 = share * (x + 0.2) - 0.2
    return Denoised(x0=x0, x0_dir=x0, variance=jnp.ones_like(x))


def test_the_bound_is_above_the_likelihood_and_tightens_with_the_steps():
    """E[bound] >= E[-log2 p(x0)] with p the data's own, up to the noise's error: 0.35 bits above it in 20 steps, less
    than 0.1 in 200.
    """
    x0 = pixels(128, 4)
    exact = -np.log2(MASS)[np.asarray(jnp.round((x0 + 1) * 127.5).astype(int))].mean(axis=(1, 2, 3))

    def excess(T):
        sigmas = jnp.asarray(DDPMTable(linear_betas(T)).sigmas)
        prior_std = jnp.sqrt(1 + sigmas[-1] ** 2)
        compute = jax.jit(lambda x0, keys: variational.bound(denoise_pixels, sigmas, prior_std, x0, {}, keys))
        above = np.asarray(compute(x0, image_keys(0, jnp.arange(128)))) - exact
        return above.mean(), above.std() / np.sqrt(128)

    (loose, error), (tight, error_tight) = excess(20), excess(200)
    assert max(error, error_tight) < 0.05
    assert loose > tight + 4 * np.hypot(error, error_tight)
    assert -4 * error_tight < tight < 0.15


def test_the_bound_is_the_sum_of_its_terms():
    """T terms at x0 + sigma_t noise_t, plus KL(N(x0, sigma_T^2) || N(0, prior_std^2))."""
    sigmas = jnp.asarray([0.01, 0.1, 2.0])
    x0 = pixels(2, 2)
    keys = image_keys(3, jnp.arange(2))
    seen = []

    def denoise(x, sigma, cond, to=None):
        jax.debug.callback(lambda x, sigma: seen.append((np.asarray(x), float(sigma))), x, sigma)
        return denoise_pixels(x, sigma, cond)

    ours = jax.jit(lambda x0: variational.bound(denoise, sigmas, jnp.sqrt(5.0), x0, {}, keys))(x0)
    jax.effects_barrier()
    assert sorted(sigma for _, sigma in seen) == [0.01, 0.1, 2.0]
    total = 0.5 * (x0**2 / 5 + 4 / 5 - 1 + np.log(5 / 4)).mean(axis=(1, 2, 3)) / np.log(2)
    for x, sigma in seen:
        t = jnp.full(2, list(np.asarray(sigmas)).index(sigma))
        total += term(sigmas, x0, jnp.asarray(x), t, denoise_pixels(jnp.asarray(x), jnp.asarray(sigma), {}))
    np.testing.assert_allclose(ours, total, rtol=1e-9)
    noises = np.stack([(x - np.asarray(x0)).ravel() / sigma for x, sigma in seen])
    assert np.abs(noises[:, None] - noises).max(axis=2)[~np.eye(3, dtype=bool)].min() > 0.1

"""Draws against their distributions, weights against their formulas and one another, losses against theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jdiff.diffusion import parameterization, weights
from jdiff.diffusion.denoiser import make_denoiser
from jdiff.diffusion.draws import LogNormal, LogUniform, Steps, Uniform, stratified, uniform
from jdiff.diffusion.objective import Objective, uncertain
from jdiff.diffusion.schedules import EDM, VE, VP, Cosine, Flow
from jdiff.diffusion.tables import DDPMTable, cosine_betas, linear_betas, zero_terminal_snr

LINEAR = DDPMTable(linear_betas(1000))
TABLES = {
    "linear": LINEAR,
    "cosine": DDPMTable(cosine_betas(100)),
    "no signal at T": DDPMTable(zero_terminal_snr(linear_betas(1000))),
}
SCHEDULES = {"edm": EDM(), "ve": VE(), "vp": VP(), "cosine": Cosine(), "flow": Flow(), "flow, shift 3": Flow(shift=3.0)}
SIGMAS = jnp.geomspace(0.01, 80, 50)
SNR = 1 / SIGMAS**2
MANY = uniform(jax.random.key(0), 20_000)
FINEST = np.float32(2.0**-24)


def follows(values, distribution):
    """Kolmogorov and Smirnov's test does not refuse; its p is fixed by the key, so 1e-3 costs no false alarms."""
    return stats.kstest(np.asarray(values, np.float64), distribution.cdf).pvalue > 1e-3


def test_uniform_numbers_are_uniform_and_never_an_end():
    assert follows(MANY, stats.uniform())
    assert float(MANY.min()) > 0
    assert float(MANY.max()) < 1


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.4, 1.0)])
def test_lognormal(mean, std):
    """2206.00364, table 1: ln sigma ~ N(-1.2, 1.2^2), 2312.02696's is N(-0.4, 1)."""
    assert follows(np.log(LogNormal(mean, std)(MANY)), stats.norm(mean, std))
    assert not follows(np.log(LogNormal(mean + 0.1, std)(MANY)), stats.norm(mean, std))


def test_lognormal_is_finite_at_the_last_numbers():
    ends = LogNormal()(jnp.array([FINEST, 1 - FINEST]))
    assert np.isfinite(ends).all()
    assert float(ends.min()) > 0


@settings(max_examples=30, deadline=None)
@given(st.floats(-2, 2), st.floats(0.2, 2), st.floats(0.5, 6))
def test_sd3s_logit_normal_is_lognormal_in_sigma(mean, std, shift):
    """2403.03206, eq. 19 and 23: t = sigmoid(mean + std z), shifted, has t/(1 - t) = exp(mean + ln(shift) + std z)."""
    z = np.linspace(-3, 3, 7)
    t = 1 / (1 + np.exp(-(mean + std * z)))
    t = shift * t / (1 + (shift - 1) * t)
    with jax.enable_x64(True):
        ours = LogNormal(mean + np.log(shift), std)(jnp.asarray(stats.norm.cdf(z)))
    np.testing.assert_allclose(ours, t / (1 - t), rtol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_uniform(name):
    schedule = SCHEDULES[name]
    low, high = np.log(schedule.sigma_min), np.log(schedule.sigma_max)
    assert follows(np.log(LogUniform(schedule)(MANY)), stats.uniform(low, high - low))


@pytest.mark.parametrize("name", SCHEDULES)
def test_uniform_times_stay_within_the_schedules_ends(name):
    schedule = SCHEDULES[name]
    sigmas = np.asarray(Uniform(schedule)(jnp.concatenate([MANY, jnp.array([FINEST, 1 - FINEST])])))
    assert sigmas.min() >= schedule.sigma_min * (1 - 1e-4)
    assert sigmas.max() <= schedule.sigma_max * (1 + 1e-4)
    times = np.asarray(schedule.time(jnp.asarray(sigmas[:-2])))
    first, last = (float(schedule.time(jnp.float32(end))) for end in (schedule.sigma_min, schedule.sigma_max))
    assert follows(times, stats.uniform(first, last - first))


@pytest.mark.parametrize("name", TABLES)
def test_steps_are_the_tables_each_as_often(name):
    table = TABLES[name]
    T = len(table.betas)
    assert (np.asarray(Steps(table)((jnp.arange(T) + 0.5) / T)) == table.sigmas.astype(np.float32)).all()
    drawn = np.asarray(Steps(table)(MANY))
    assert np.isin(drawn, table.sigmas.astype(np.float32)).all()
    steps = np.searchsorted(table.sigmas.astype(np.float32), drawn)
    counts = np.bincount(steps * 50 // T, minlength=50)
    assert stats.chisquare(counts).pvalue > 1e-3
    np.testing.assert_array_equal(Steps(table)(jnp.array([FINEST, 1 - FINEST])), table.sigmas[[0, -1]].astype("f4"))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from((1, 3, 128, 4096)), st.integers(0, 2**31))
def test_stratified_numbers_lie_one_in_each_bin(count, seed):
    u = np.asarray(stratified(jax.random.key(seed), count))
    assert u.dtype == np.float32
    np.testing.assert_array_equal(np.floor(u.astype(np.float64) * count), np.arange(count))
    assert u.min() > 0
    assert u.max() < 1


def test_stratified_numbers_are_uniform_each():
    """So that the loss's mean is as with independent ones."""
    u = jax.jit(jax.vmap(lambda key: stratified(key, 4)))(jax.random.split(jax.random.key(0), 4000))
    for i in range(4):
        assert follows(u[:, i], stats.uniform(i / 4, 1 / 4))


def test_stratified_sigmas_spread_less():
    """A batch's mean of ln sigma varies far less than with independent draws, and is right."""

    def means(in_strata):
        objective = Objective(LogNormal(), weights.Edm(), stratified=in_strata)
        batch = jax.jit(jax.vmap(lambda key: jnp.mean(jnp.log(objective.sigmas(key, 64)))))
        return np.asarray(batch(jax.random.split(jax.random.key(0), 2000)))

    independent, strata = means(False), means(True)
    assert strata.mean() == pytest.approx(-1.2, abs=5 * strata.std() / np.sqrt(2000) + 1e-3)
    assert independent.mean() == pytest.approx(-1.2, abs=5 * independent.std() / np.sqrt(2000))
    assert independent.std() == pytest.approx(1.2 / 8, rel=0.1)
    assert strata.std() < independent.std() / 3


def test_simple_weighs_each_prediction_once():
    """|F - F*|^2 = |D - x0|^2 / c_out^2: SNR for eps, 1 for x0, 1 + SNR for v, (1 + 1/sigma)^2 for a flow's."""
    expected = {
        parameterization.Eps: SNR,
        parameterization.X0: np.ones(50),
        parameterization.V: 1 + SNR,
        parameterization.Flow: (1 + 1 / SIGMAS) ** 2,
    }
    for prediction, weight in expected.items():
        np.testing.assert_allclose(weights.Simple(prediction(LINEAR))(SIGMAS), weight, rtol=1e-5)
    v = weights.Simple(parameterization.V(LINEAR))(SIGMAS)
    np.testing.assert_allclose(weights.VUniform()(SIGMAS), v, rtol=1e-5)


@pytest.mark.parametrize("s", [0.3, 0.5, 1.0])
def test_edms_weight_is_simple_with_edm(s):
    expected = (SIGMAS**2 + s**2) / (SIGMAS * s) ** 2
    np.testing.assert_allclose(weights.Edm(s)(SIGMAS), expected, rtol=1e-6)
    np.testing.assert_allclose(weights.Simple(parameterization.Edm(EDM(), s))(SIGMAS), expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_and_its_smooth_form(gamma):
    """Equal at both ends; at SNR = gamma min-SNR turns and the smooth one has half of it."""
    hard, soft = weights.MinSNR(gamma), weights.SoftMinSNR(gamma)
    np.testing.assert_allclose(hard(SIGMAS), np.minimum(SNR, gamma), rtol=1e-6)
    np.testing.assert_allclose(soft(SIGMAS), gamma * SNR / (SNR + gamma), rtol=1e-5)
    turn = jnp.float32(gamma**-0.5)
    assert float(hard(turn)) == pytest.approx(gamma, rel=1e-6)
    assert float(hard(turn * 0.9)) == gamma
    assert float(hard(turn * 1.1)) == pytest.approx(gamma / 1.21, rel=1e-5)
    assert float(soft(turn)) == pytest.approx(gamma / 2, rel=1e-5)
    assert float(soft(jnp.float32(100))) == pytest.approx(float(hard(jnp.float32(100))), rel=1e-3)
    assert float(soft(jnp.float32(0.001))) == pytest.approx(gamma, rel=1e-3)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_p2_weighs_eps_by_its_signal(gamma):
    """2104.00227, eq. 8: 1/(1 + SNR)^gamma on eps; gamma 0 is eps' simple loss, gamma 1 min-SNR's smooth form at 1."""
    ours = weights.P2(gamma)(SIGMAS)
    on_eps = ours / weights.Simple(parameterization.Eps(LINEAR))(SIGMAS)
    np.testing.assert_allclose(on_eps, (1 + SNR) ** -gamma, rtol=1e-5)
    if gamma == 1:
        np.testing.assert_allclose(ours, weights.SoftMinSNR(1.0)(SIGMAS), rtol=1e-5)


@pytest.mark.parametrize("prediction", ["Eps", "X0", "V", "Edm", "Flow"])
def test_the_simple_loss_is_the_networks_own(prediction):
    """l2 of F - F*, for a network that is wrong by a known amount."""
    predicted = getattr(parameterization, prediction)(VP())
    x0, eps, wrong = np.random.default_rng(1).normal(size=(3, 5, 4, 4, 1)).astype(np.float32)

    @jax.jit
    def losses(x0, sigma):
        x = x0 + sigma[:, None, None, None] * eps
        F = parameterization.target(predicted, x0, x, sigma) + wrong
        x0_of_it = make_denoiser(lambda *_: F, predicted)(x, sigma, {}).x0
        return Objective(LogNormal(), weights.Simple(predicted)).losses(x0, x0_of_it, sigma)

    ours = losses(jnp.asarray(x0), jnp.asarray(np.geomspace(0.1, 10, 5), jnp.float32))
    np.testing.assert_allclose(ours, np.mean(wrong**2, axis=(1, 2, 3)), rtol=1e-4)


def test_losses_are_their_formulas():
    """rho(sqrt(weight) (D - x0)), a mean over the pixels of each image, weighted inside."""
    x0, error = np.random.default_rng(2).normal(size=(2, 5, 4, 4, 3)).astype(np.float32)
    sigma = np.geomspace(0.05, 5, 5).astype(np.float32)
    e = np.sqrt(1 + 1 / sigma**2)[:, None, None, None] * error
    delta = 0.7
    assert ((np.abs(e) > delta).any()) & ((np.abs(e) < delta).any())
    expected = {
        "l2": e**2,
        "l1": np.abs(e),
        "huber": np.where(np.abs(e) < delta, e**2 / 2, delta * (np.abs(e) - delta / 2)),
    }
    for rho, values in expected.items():
        objective = Objective(LogNormal(), weights.VUniform(), rho=rho, huber_delta=delta)
        losses = jax.jit(objective.losses)(x0, x0 + error, sigma)
        np.testing.assert_allclose(losses, values.mean(axis=(1, 2, 3)), rtol=1e-4)


costs = jax.jit(uncertain)
slopes = jax.jit(jax.grad(lambda losses, u: uncertain(losses, u).sum(), argnums=1))


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-4, 1e4), st.floats(-3, 3))
def test_uncertainty_is_best_at_the_losss_logarithm(loss, off):
    """2312.02696, eq. 21: loss/exp(u) + u is least at u = ln loss, where it is 1 + ln loss."""
    with jax.enable_x64(True):
        u = jnp.asarray([np.log(loss), np.log(loss) + off])
        best, other = costs(jnp.full(2, loss), u)
        slope = slopes(jnp.full(2, loss), u)
    assert float(best) == pytest.approx(1 + np.log(loss), rel=1e-9, abs=1e-9)
    assert float(other - best) == pytest.approx(np.exp(-off) - 1 + off, abs=1e-9)
    assert float(slope[0]) == pytest.approx(0, abs=1e-9)

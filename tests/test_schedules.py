"""Schedules and tables against their papers' formulas, written again in numpy, and sigma and time as inverses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdiff.diffusion.schedules import EDM, LARGEST_SIGMA, VE, VP, Cosine, Flow, Schedule
from jdiff.diffusion.tables import (
    DDPMTable,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    sigmoid_alpha_bar_betas,
    sigmoid_betas,
    zero_terminal_snr,
)

BETAS = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "sigmoid": sigmoid_betas,
    "cosine": cosine_betas,
    "sigmoid_alpha_bar": sigmoid_alpha_bar_betas,
}
PLAIN = {f"{name}, T = {T}": DDPMTable(betas(T)) for name, betas in BETAS.items() for T in (100, 1000)}
REBASED = {f"{name}, no signal at T": DDPMTable(zero_terminal_snr(table.betas)) for name, table in PLAIN.items()}
TABLES = PLAIN | REBASED
CONTINUOUS = {
    "edm": EDM(),
    "ve": VE(),
    "vp": VP(),
    "cosine": Cosine(),
    "flow": Flow(),
    "flow, shift 3": Flow(shift=3.0),
}
SCHEDULES = CONTINUOUS | TABLES

# sigma(t) of the continuous ones, each from its process' alpha_t and sigma_t where the paper gives these.
FORMULAS = {
    "edm": lambda t: t,
    "ve": lambda t: 0.01 * (50 / 0.01) ** t,
    "vp": lambda t: np.sqrt(1 - vp_alpha(t) ** 2) / vp_alpha(t),
    "cosine": lambda t: np.sin(np.pi * t / 2) / np.cos(np.pi * t / 2),
    "flow": lambda t: t / (1 - t),
    "flow, shift 3": lambda t: sd3_time(t, 3) / (1 - sd3_time(t, 3)),
}


def vp_alpha(t):
    """exp(-1/2 int_0^t beta), beta from 0.1 to 20 (2011.13456, eq. 33)."""
    return np.exp(-0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1)


def sd3_time(t, shift):
    """2403.03206, eq. 23."""
    return shift * t / (1 + (shift - 1) * t)


def sigma_at(schedule: Schedule, share):
    """The sigma that lies `share` of the way from the schedule's least to its largest, in ln sigma."""
    return schedule.sigma_min * (schedule.sigma_max / schedule.sigma_min) ** share


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0, 1))
def test_sigma_and_time_are_inverse(name, share):
    schedule = SCHEDULES[name]
    with jax.enable_x64(True):
        sigma = jnp.asarray(sigma_at(schedule, share))
        assert float(schedule.sigma(schedule.time(sigma))) == pytest.approx(float(sigma), rel=1e-9)
        first, last = (float(schedule.time(jnp.asarray(end))) for end in (schedule.sigma_min, schedule.sigma_max))
        t = first + share * (last - first)
        assert float(schedule.time(schedule.sigma(jnp.asarray(t)))) == pytest.approx(t, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0, 1))
def test_float32_loses_no_more_than_its_time_can_hold(name, share):
    """t is stored with a relative error of 2^-24, and ln sigma on the way likewise; both show in sigma(time(sigma)) by
    the factors t dln sigma/dt and ln sigma. Eight such errors are allowed.
    """
    schedule = SCHEDULES[name]
    sigma = np.float32(sigma_at(schedule, share))
    with jax.enable_x64(True):
        last = schedule.time(jnp.asarray(schedule.sigma_max))
        t = schedule.time(jnp.asarray(float(sigma))) * (1 + jnp.array([-1e-6, 0.0, 1e-6]))
        logs = np.log(schedule.sigma(jnp.minimum(t, last)))
    growth = np.abs(np.diff(logs)).max() / 1e-6
    allowed = 8 * 2.0**-24 * (1 + np.abs(np.log(float(sigma))) + growth)
    back = schedule.sigma(schedule.time(jnp.asarray(sigma)))
    assert back.dtype == jnp.float32
    assert float(back) == pytest.approx(float(sigma), rel=allowed)


@pytest.mark.parametrize("name", CONTINUOUS)
@settings(max_examples=15, deadline=None)
@given(t=st.floats(1e-3, 1 - 1e-3))
def test_continuous_schedules_are_their_papers(name, t):
    with jax.enable_x64(True):
        assert float(CONTINUOUS[name].sigma(jnp.asarray(t))) == pytest.approx(FORMULAS[name](t), rel=1e-10)


def test_an_infinite_sigma_is_cut():
    for schedule in (Cosine(), Flow(), Flow(shift=3.0)):
        assert float(schedule.sigma(jnp.float32(1))) == LARGEST_SIGMA == schedule.sigma_max == 2**20


def test_the_ends_are_those_of_the_papers():
    """VP's over t in [1e-3, 1] (2206.00364, table 1), the others' where the paper puts them."""
    assert (EDM().sigma_min, EDM().sigma_max) == (0.002, 80)
    assert (VE().sigma_min, VE().sigma_max) == (0.01, 50)
    for name in ("vp", "cosine", "flow", "flow, shift 3"):
        assert CONTINUOUS[name].sigma_min == pytest.approx(FORMULAS[name](1e-3), rel=1e-10)
    assert VP().sigma_max == pytest.approx(FORMULAS["vp"](1.0), rel=1e-12)


def sigmoid(x):
    return np.exp(x) / (1 + np.exp(x))


def papers_alphas_bar(name, T):
    """Ho et al., Rombach et al., GeoDiff, Nichol & Dhariwal's and Chen's tables, before any clipping of beta."""
    u, t = np.arange(T) / (T - 1), np.arange(1, T + 1) / T
    a, b = 1e-4 * 1000 / T, 0.02 * 1000 / T
    return {
        "linear": lambda: np.cumprod(1 - (a + u * (b - a))),
        "scaled_linear": lambda: np.cumprod(1 - (np.sqrt(a) + u * (np.sqrt(b) - np.sqrt(a))) ** 2),
        "sigmoid": lambda: np.cumprod(1 - (a + (b - a) * sigmoid(-6 + 12 * u))),
        "cosine": lambda: (np.cos((t + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2,
        "sigmoid_alpha_bar": lambda: (sigmoid(3) - sigmoid(-3 + 6 * t)) / (sigmoid(3) - sigmoid(-3)),
    }[name]()


@pytest.mark.parametrize("T", [100, 1000])
@pytest.mark.parametrize("name", BETAS)
def test_tables_are_their_papers(name, T):
    table = PLAIN[f"{name}, T = {T}"]
    expected = papers_alphas_bar(name, T)
    ours = np.cumprod(1 - np.asarray(table.betas))
    clipped = np.asarray(table.betas) >= 0.999
    assert len(ours) == T
    assert clipped.sum() <= 1  # the alpha-bar tables' last
    np.testing.assert_allclose(ours[~clipped], expected[~clipped], rtol=1e-9)
    np.testing.assert_allclose(table.sigmas, np.sqrt((1 - ours) / ours), rtol=1e-12)


@pytest.mark.parametrize("name", TABLES)
def test_betas_are_shares_of_noise(name):
    betas = np.asarray(TABLES[name].betas)
    assert (betas > 0).all()
    assert (betas <= (1 if name in REBASED else 0.999)).all()
    assert (np.diff(TABLES[name].sigmas) > 0).all()


@pytest.mark.parametrize("name", PLAIN)
def test_a_table_without_signal_at_its_end(name):
    """2305.08891, algorithm 1: sqrt(abar) keeps its first, loses its last, and is changed linearly in between."""
    before, after = PLAIN[name], REBASED[f"{name}, no signal at T"]
    alphas_bar = np.cumprod(1 - np.asarray(after.betas))
    old = np.sqrt(np.cumprod(1 - np.asarray(before.betas)))
    assert alphas_bar[-1] == 0
    assert alphas_bar[0] == pytest.approx(old[0] ** 2, rel=1e-12)
    assert after.sigma_max == after.sigmas[-1] == 2**20
    assert after.sigma_min == pytest.approx(before.sigma_min, rel=1e-9)
    expected = old[0] * (old - old[-1]) / (old[0] - old[-1])
    np.testing.assert_allclose(np.sqrt(alphas_bar), expected, rtol=1e-9)


def test_a_table_of_one_step_cannot_end_without_signal():
    with pytest.raises(ValueError, match="one step"):
        zero_terminal_snr(linear_betas(1))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_exact_at_its_steps(name):
    table = TABLES[name]
    with jax.enable_x64(True):
        steps = jnp.arange(float(len(table.betas)))
        np.testing.assert_allclose(table.sigma(steps), table.sigmas, rtol=1e-12)
        np.testing.assert_allclose(table.c_noise(jnp.asarray(table.sigmas)), steps, rtol=1e-9, atol=1e-9)
        halfway = np.sqrt(table.sigmas[:-1] * table.sigmas[1:])
        np.testing.assert_allclose(table.sigma(steps[:-1] + 0.5), halfway, rtol=1e-12)


def test_ho_et_als_numbers():
    """DDPM's section 4: alpha-bar at T is about 4e-5, so sigma at T is about 157."""
    assert PLAIN["linear, T = 1000"].sigma_max == pytest.approx(157.4, abs=0.1)
    assert PLAIN["linear, T = 1000"].sigma_min == pytest.approx(0.01, abs=1e-5)


def test_linear_betas_scale_with_the_number_of_steps():
    """The same process in fewer steps ends at about the same noise (ln sigma within 10 %)."""
    ratio = np.log(PLAIN["linear, T = 100"].sigma_max) / np.log(PLAIN["linear, T = 1000"].sigma_max)
    assert ratio == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("steps", [1, 2, 10, 20])
@pytest.mark.parametrize("name", BETAS)
def test_short_tables_stay_finite(name, steps):
    sigmas = DDPMTable(BETAS[name](steps)).sigmas
    assert np.isfinite(sigmas).all()
    assert (np.diff(sigmas) > 0).all()


def test_cosine_betas_follow_alpha_bar_until_they_are_clipped():
    betas = np.array(cosine_betas(1000))
    assert betas.max() == 0.999
    np.testing.assert_allclose(np.cumprod(1 - betas)[:990], papers_alphas_bar("cosine", 1000)[:990], rtol=1e-9)


def test_what_networks_are_told():
    """ln(sigma)/4; 1000 t; the share of noise of a flow, whatever its shift; a table's step, the nearest outside it."""
    assert float(EDM().c_noise(jnp.float32(np.e))) == pytest.approx(0.25)
    assert float(VE().c_noise(jnp.float32(np.e))) == pytest.approx(0.25)
    for t in (0.05, 0.5, 0.9):
        assert float(VP().c_noise(jnp.float32(FORMULAS["vp"](t)))) == pytest.approx(1000 * t, rel=1e-5)
        assert float(Cosine().c_noise(jnp.float32(FORMULAS["cosine"](t)))) == pytest.approx(1000 * t, rel=1e-5)
        for shift in (1.0, 3.0):
            assert float(Flow(shift=shift).c_noise(jnp.float32(t / (1 - t)))) == pytest.approx(1000 * t, rel=1e-5)
    table = PLAIN["linear, T = 1000"]
    assert float(table.c_noise(jnp.float32(table.sigmas[123]))) == pytest.approx(123, abs=1e-2)
    outside = jnp.array([table.sigma_min / 2, table.sigma_max * 2])
    np.testing.assert_array_equal(table.c_noise(outside), [0, 999])


@pytest.mark.parametrize("name", SCHEDULES)
def test_walks_start_with_the_spread_of_the_process(name):
    """sqrt(1 + sigma^2) where the process keeps variance 1, of data of variance 1; sigma elsewhere."""
    keeps_variance = name not in ("edm", "ve", "flow", "flow, shift 3")
    expected = np.sqrt(10) if keeps_variance else 3
    assert float(SCHEDULES[name].prior_std(jnp.float32(3.0))) == pytest.approx(expected)

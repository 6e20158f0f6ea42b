"""Ladders fall strictly, end at 0, and have exact ends."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import jdiff.config
from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.diffusion import ladders
from jdiff.diffusion.schedules import EDM, VE, VP, Cosine, Flow
from jdiff.diffusion.tables import DDPMTable, linear_betas, zero_terminal_snr

TABLE = DDPMTable(linear_betas(1000))
BENT = (ladders.quadratic, ladders.exponential)  # two steps of theirs that would be the same move apart
SCHEDULES = (EDM(), VE(), VP(), Cosine(), Flow(), Flow(shift=3.0), TABLE, DDPMTable(zero_terminal_snr(TABLE.betas)))


@given(st.integers(2, 300), st.floats(1e-3, 0.5), st.floats(1.0, 200.0), st.floats(1.0, 15.0))
def test_karras(steps, sigma_min, sigma_max, rho):
    rungs = ladders.karras(steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    assert len(rungs) == steps + 1
    assert (rungs[0], rungs[-2], rungs[-1]) == (sigma_max, sigma_min, 0)
    assert (np.diff(rungs) < 0).all()


@given(st.integers(2, 300), st.floats(1e-3, 0.5), st.floats(1.0, 2.0**20))
def test_logsnr_falls_by_one_factor(steps, sigma_min, sigma_max):
    """2206.00927, section 3.4: lambda = ln(alpha/sigma_t) = -ln sigma in equal steps."""
    rungs = ladders.logsnr(steps, sigma_min=sigma_min, sigma_max=sigma_max)
    assert len(rungs) == steps + 1
    assert (rungs[0], rungs[-2], rungs[-1]) == (sigma_max, sigma_min, 0)
    assert (np.diff(rungs) < 0).all()
    np.testing.assert_allclose(np.diff(np.log(rungs[:-1])), np.log(sigma_min / sigma_max) / (steps - 1), atol=1e-12)


@given(st.integers(1, 1000), st.floats(0.1, 2.0**20), st.floats(0.1, 12.0))
def test_flow_is_sd3s(steps, sigma_max, shift):
    """2403.03206, eq. 23: times t in equal steps become t' = shift t/(1 + (shift - 1) t), and sigma = t'/(1 - t')."""
    rungs = ladders.flow(steps, sigma_max=sigma_max, shift=shift)
    assert len(rungs) == steps + 1
    assert (rungs[0], rungs[-1]) == (sigma_max, 0)
    assert (np.diff(rungs) < 0).all()
    shifted = sigma_max / (1 + sigma_max)
    t = np.linspace(shifted / (shift - (shift - 1) * shifted), 0, steps + 1)[:-1]  # eq. 23 solved for t, then the steps
    expected = shift * t / (1 + (shift - 1) * t)
    np.testing.assert_allclose(rungs[:-1] / (1 + rungs[:-1]), expected, rtol=1e-12)


def test_a_flow_with_shift_spends_more_steps_at_high_noise():
    plain, shifted = (ladders.flow(50, sigma_max=80, shift=shift) for shift in (1, 3))
    assert (plain > 1).sum() == 25
    assert (shifted > 1).sum() == 38  # t' = 1/2 at t = 1/4
    np.testing.assert_allclose(ladders.flow(4, sigma_max=2.0**20)[1:], [3, 1, 1 / 3, 0], rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from((1, 10, 1000)), st.sampled_from(SCHEDULES), st.floats(0.0, 1.0))
@example(1000, Flow(), 1.0)
@example(1000, Cosine(), 1.0)
def test_uniform_in_a_schedules_time(steps, schedule, share):
    sigma_max = 0.5 * (schedule.sigma_max / 0.5) ** share
    rungs = ladders.uniform(steps, schedule, sigma_max=sigma_max)
    assert len(rungs) == steps + 1
    assert (rungs[0], rungs[-1]) == (sigma_max, 0)
    assert (np.diff(rungs) < 0).all()
    assert np.isfinite(rungs).all()


def test_uniform_steps_of_known_times():
    np.testing.assert_allclose(ladders.uniform(4, EDM(), sigma_max=8.0), [8, 6, 4, 2, 0], rtol=1e-6)
    np.testing.assert_allclose(ladders.uniform(4, Flow(), sigma_max=4.0), [4, 1.5, 2 / 3, 0.25, 0], rtol=1e-5)
    np.testing.assert_allclose(ladders.uniform(2, Cosine(), sigma_max=1.0), [1, np.tan(np.pi / 8), 0], rtol=1e-5)
    np.testing.assert_allclose(
        ladders.uniform(3, TABLE, sigma_max=TABLE.sigma_max), [*TABLE.sigmas[[999, 666, 333]], 0], rtol=1e-5
    )


@given(st.sets(st.floats(1e-6, 2.0**20), min_size=1, max_size=20))
def test_by_hand_takes_what_falls(sigmas):
    falling = sorted(sigmas, reverse=True)
    np.testing.assert_array_equal(ladders.by_hand(falling), [*falling, 0])
    np.testing.assert_array_equal(ladders.by_hand([*falling, 0.0]), [*falling, 0])
    if len(sigmas) > 1:
        with pytest.raises(ValueError, match="must be numbers that fall"):
            ladders.by_hand(falling[::-1])


@pytest.mark.parametrize(
    "sigmas", [(), (0.0,), (1.0, 1.0), (2.0, 3.0), (1.0, 0.0, 0.0), (1.0, -1.0), (-1.0,), (np.inf, 1.0), (2.0, np.nan)]
)
def test_by_hand_refuses_what_does_not_fall(sigmas):
    with pytest.raises(ValueError, match="must be numbers that fall and stay above 0"):
        ladders.by_hand(sigmas)


@given(st.integers(1, 1000), st.sampled_from([ladders.leading, ladders.trailing, ladders.linspace, *BENT]))
@example(1000, ladders.quadratic)
@example(1000, ladders.exponential)
@example(1, ladders.quadratic)
def test_subsequences_of_a_table(steps, ladder):
    rungs = ladder(steps, TABLE)
    assert len(rungs) == steps + 1
    assert rungs[-1] == 0
    assert (np.diff(rungs) < 0).all()
    assert np.isin(rungs[:-1], TABLE.sigmas).all()
    if ladder is not ladders.leading:
        assert rungs[0] == TABLE.sigma_max
    if ladder in BENT and steps > 1:
        assert rungs[-2] == TABLE.sigma_min


@pytest.mark.parametrize(
    ("ladder", "expected"),
    [
        (ladders.leading, [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
        (ladders.trailing, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
        (ladders.linspace, [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]),
        (ladders.quadratic, [999, 789, 604, 444, 308, 197, 111, 49, 12, 0]),
        (ladders.exponential, [999, 463, 214, 99, 45, 21, 9, 4, 1, 0]),
    ],
)
def test_ten_steps_of_a_thousand(ladder, expected):
    """2305.08891, table 2 (there counted from 1); (i/9)^2 999 and 1000^(i/9) - 1, rounded."""
    np.testing.assert_array_equal(ladder(10, TABLE)[:-1], TABLE.sigmas[expected])


def test_all_steps_are_the_table():
    for ladder in (ladders.leading, ladders.trailing, ladders.linspace, *BENT):
        np.testing.assert_array_equal(ladder(1000, TABLE)[:-1], TABLE.sigmas[::-1])


def test_one_step_visits_the_most_noise():
    assert ladders.karras(1, sigma_min=0.01, sigma_max=9.0).tolist() == [9, 0]
    assert ladders.logsnr(1, sigma_min=0.01, sigma_max=9.0).tolist() == [9, 0]


def test_leading_steps_with_an_offset():
    """Stable Diffusion's: 1, 101, ..., 901."""
    np.testing.assert_array_equal(ladders.leading(10, TABLE, 1)[:-1], TABLE.sigmas[901::-100])
    with pytest.raises(ValueError, match=r"step 1000 is none of the table's 1000"):
        ladders.leading(10, TABLE, 100)


def asked(**changed):
    sample = jdiff.config.defaults().sample
    for name, value in changed.items():
        sample[name] = value
    return from_config.ladder(sample, TABLE)


def test_a_ladder_may_end_at_the_lowest_sigma():
    """Diffusers' set_alpha_to_one=False; a rung that is there already is not doubled."""
    usual = {"sampler": "ddim", "steps": 10, "ladder": "leading"}
    plain, low = asked(**usual, steps_offset=1), asked(**usual, steps_offset=1, final_sigma="sigma_min")
    np.testing.assert_array_equal(low[:-1], plain[:-1])
    assert (plain[-1], low[-1]) == (0, TABLE.sigmas[0])
    np.testing.assert_array_equal(asked(**usual, final_sigma="sigma_min"), asked(**usual)[:-1])
    for ladder in ("auto", "karras"):  # those that a sampler has by itself go to the image
        assert asked(sampler="heun", ladder=ladder, steps=5, final_sigma="sigma_min")[-1] == 0
    with pytest.raises(UserError, match=r"sample\.final_sigma='low' is unknown; it is one of zero, sigma_min"):
        asked(**usual, final_sigma="low")
    with pytest.raises(UserError, match=r"sample\.steps_offset=100 with sample\.steps=10: step 1000 is none of the"):
        asked(**usual, steps_offset=100)

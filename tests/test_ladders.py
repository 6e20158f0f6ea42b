"""Ladders fall strictly, end at 0, and have exact ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jdiff.diffusion import ladders
from jdiff.diffusion.schedules import DDPMTable, linear_betas

TABLE = DDPMTable(linear_betas(1000))


@given(st.integers(2, 300), st.floats(1e-3, 0.5), st.floats(1.0, 200.0), st.floats(1.0, 15.0))
def test_karras(steps, sigma_min, sigma_max, rho):
    rungs = ladders.karras(steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    assert len(rungs) == steps + 1
    assert (rungs[0], rungs[-2], rungs[-1]) == (sigma_max, sigma_min, 0)
    assert (np.diff(rungs) < 0).all()


@given(st.integers(1, 1000), st.sampled_from([ladders.leading, ladders.trailing, ladders.linspace]))
def test_subsequences_of_a_table(steps, ladder):
    rungs = ladder(steps, TABLE)
    assert len(rungs) == steps + 1
    assert rungs[-1] == 0
    assert (np.diff(rungs) < 0).all()
    assert np.isin(rungs[:-1], TABLE.sigmas).all()
    if ladder is not ladders.leading:
        assert rungs[0] == TABLE.sigma_max


@pytest.mark.parametrize(
    ("ladder", "expected"),
    [
        (ladders.leading, [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
        (ladders.trailing, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
        (ladders.linspace, [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]),
    ],
)
def test_ten_steps_of_a_thousand(ladder, expected):
    """2305.08891, table 2 (there counted from 1)."""
    np.testing.assert_array_equal(ladder(10, TABLE)[:-1], TABLE.sigmas[expected])


def test_all_steps_are_the_table():
    for ladder in (ladders.leading, ladders.trailing, ladders.linspace):
        np.testing.assert_array_equal(ladder(1000, TABLE)[:-1], TABLE.sigmas[::-1])

"""Brownian noise: standard normal, independent from step to step, one path however its steps are cut."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jdiff.common.keys import image_keys
from jdiff.diffusion import brownian

MANY = 4000
LOG_SIGMAS = st.floats(np.log(0.002), np.log(2.0**20))
noises = jax.jit(brownian.noise)


def of_images(count, sigma, sigma_next, *, pixels=4, seed=0):
    keys, like = image_keys(seed, jnp.arange(count)), jnp.zeros((count, pixels))
    return np.asarray(noises(keys, like, jnp.float32(sigma), jnp.float32(sigma_next)))


# Inside a piece [2^(k-1), 2^k], from one into the next, over many, between edges, and by as little as a thousandth.
STEPS = [(1.9, 1.1), (2.5, 1.5), (80.0, 0.002), (4.0, 1.0), (0.5, 0.3), (0.0023, 0.002), (3.003, 3.0), (2.0**20, 80.0)]


@pytest.mark.parametrize(("sigma", "sigma_next"), STEPS)
def test_noise_is_standard_normal(sigma, sigma_next):
    noise = of_images(MANY, sigma, sigma_next)
    assert noise.dtype == np.float32
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert np.abs(noise.mean(axis=0)).max() < 5 / np.sqrt(MANY)
    assert np.abs(noise.var(axis=0) - 1).max() < 5 * np.sqrt(2 / MANY)
    between_pixels = np.corrcoef(noise.T) - np.eye(4)
    assert np.abs(between_pixels).max() < 5 / np.sqrt(MANY)


def test_disjoint_steps_are_independent():
    """Neighbours and others, within a piece and across: all correlations within five standard errors of 0."""
    sigmas = [80.0, 20.0, 4.0, 3.5, 3.2, 2.1, 1.9, 1.0, 0.7, 0.51, 0.5, 0.49, 0.1, 0.002]
    noise = np.stack([of_images(MANY, s, s_next)[:, 0] for s, s_next in pairwise(sigmas)])
    assert np.abs(np.corrcoef(noise) - np.eye(len(noise))).max() < 5 / np.sqrt(MANY)
    assert np.abs(np.corrcoef(noise**2) - np.eye(len(noise))).max() < 0.1


def test_overlapping_steps_share_what_they_overlap_in():
    """cov(W(4) - W(1), W(9) - W(2.25)) = 4 - 2.25, of v = sigma^2."""
    a, b = of_images(MANY, 2.0, 1.0) * np.sqrt(3), of_images(MANY, 3.0, 1.5) * np.sqrt(6.75)
    assert np.mean(a * b) == pytest.approx(4 - 2.25, abs=5 * np.std(a * b) / np.sqrt(a.size))


@settings(max_examples=40, deadline=None)
@given(
    st.floats(np.log(0.002), np.log(2.0**20)),
    st.floats(0.01, 8),
    st.floats(0.01, 8),
    st.sampled_from((None, 0.25, 1, 64)),
)
def test_a_step_is_the_sum_of_its_parts(log_sigma, upper, lower, edge):
    """W(s^2) - W(e^2) = (W(s^2) - W(m^2)) + (W(m^2) - W(e^2)), anywhere from 0.002 to 2^20, m also on a power of 2."""
    middle = np.exp(log_sigma) if edge is None else edge
    sigma, end = np.float32([min(middle * np.exp(upper), 2.0**20), max(middle * np.exp(-lower), 0.002)])
    middle = np.float32(np.clip(middle, end * 1.005, sigma / 1.005))
    if not end < middle < sigma:
        return
    v = np.float64([sigma, middle, end]) ** 2
    whole, first, second = (
        of_images(8, a, b).astype(np.float64) for a, b in ((sigma, end), (sigma, middle), (middle, end))
    )
    parts = np.sqrt(v[0] - v[1]) * first + np.sqrt(v[1] - v[2]) * second
    np.testing.assert_allclose(parts / np.sqrt(v[0] - v[2]), whole, atol=1e-3)


def test_refining_a_ladder_refines_one_path():
    """The same W at the rungs that two ladders share, summed over 4 steps and over 32."""
    fine = np.geomspace(80, 0.01, 33).astype(np.float32)

    def summed(ladder):
        return sum(np.sqrt(float(a) ** 2 - float(b) ** 2) * of_images(8, a, b) for a, b in pairwise(ladder))

    np.testing.assert_allclose(summed(fine), summed(fine[::8]), atol=1e-3 * 80)


def test_an_images_noise_does_not_depend_on_its_neighbours():
    together = of_images(8, 3.0, 0.4)
    others = np.concatenate([np.arange(100, 105), [5], np.arange(200, 202)])
    among_others = noises(image_keys(0, jnp.asarray(others)), jnp.zeros((8, 4)), jnp.float32(3.0), jnp.float32(0.4))
    np.testing.assert_array_equal(together[5], among_others[5])
    assert np.abs(np.delete(together - among_others, 5, axis=0)).min(axis=1).all()
    np.testing.assert_array_equal(together, of_images(8, 3.0, 0.4))
    assert np.abs(together - of_images(8, 3.0, 0.4, seed=1)).max() > 0.01


def test_no_noise_belongs_to_the_last_step():
    np.testing.assert_array_equal(of_images(8, 0.002, 0.0), 0)


@settings(max_examples=40, deadline=None)
@given(LOG_SIGMAS, st.floats(1e-4, 20))
def test_noise_is_finite_in_float32(log_sigma, length):
    sigma = np.float32(np.exp(log_sigma))
    noise = of_images(8, sigma, max(sigma * np.float32(np.exp(-length)), np.float32(1e-4)))
    assert np.isfinite(noise).all()
    assert 0 < np.abs(noise).max() < 6


def test_float64_and_images_of_any_shape():
    """Additive to rounding there, where float32 loses up to four digits."""
    with jax.enable_x64(True):
        of = jax.jit(partial(brownian.noise, image_keys(0, jnp.arange(2)), jnp.zeros((2, 3, 3, 1))))
        whole, first, second = (of(jnp.asarray(a), jnp.asarray(b)) for a, b in ((3.0, 1.0), (3.0, 2.0), (2.0, 1.0)))
        assert (whole.shape, whole.dtype) == ((2, 3, 3, 1), jnp.float64)
        np.testing.assert_allclose(np.sqrt(5) * first + np.sqrt(3) * second, np.sqrt(8) * whole, atol=1e-10)

"""The probability-flow ODE's log-likelihood against closed forms, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jdiff.common.keys import image_keys
from jdiff.diffusion.likelihood import bits_per_dim, log_likelihood
from jdiff.diffusion.schedules import EDM
from tests.closed_forms import PROBLEMS, Mixture, gaussian_flow

SIGMA_MIN = 0.05


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@partial(jax.jit, static_argnames="exact")
def program(weights, means, stds, x, sigma_max, keys, exact):
    denoise = Mixture(weights, means, stds).denoise
    ends = (jnp.asarray(SIGMA_MIN), sigma_max, EDM().prior_std(sigma_max))
    return log_likelihood(denoise, x, *ends, {}, keys, exact=exact, rtol=1e-7, atol=1e-7)


def likelihood(problem, x, sigma_max, *, exact):
    """ln p of x at SIGMA_MIN, walked up to sigma_max, by the key of each image where it is not exact."""
    if len(problem.weights) == 1:  # three equal parts: one program serves all problems
        problem = Mixture(np.full(3, 1 / 3), problem.means.repeat(3, 0), problem.stds.repeat(3, 0))
    keys = image_keys(0, jnp.arange(len(x)))
    return np.asarray(program(problem.weights, problem.means, problem.stds, x, jnp.asarray(sigma_max), keys, exact))


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_likelihood_is_the_closed_form(name):
    """Within 1e-3 nats a dimension of ln p of the data with noise of sigma_min. The start's Gaussian has mean 0, which
    the data's has not: that costs up to mean |z| / sigma_max, so the walk goes to 3000.
    """
    problem = PROBLEMS[name]
    x = problem.draw(jax.random.key(0), 8, SIGMA_MIN)
    ours = likelihood(problem, x, 3000.0, exact=True)
    np.testing.assert_allclose(ours, problem.log_density(x, SIGMA_MIN), atol=1e-3 * x.shape[1])


def test_what_remains_is_the_mismatch_at_the_start():
    """At EDM's sigma_max of 80, where it shows: ln N(x_max; 0, 80^2) against the data's own marginal there."""
    problem = PROBLEMS["gaussian, 2-D"]
    x = problem.draw(jax.random.key(0), 8, SIGMA_MIN)
    x_max = gaussian_flow(problem, np.asarray(x), SIGMA_MIN, 80.0)
    start = stats.norm(0, 80).logpdf(x_max).sum(axis=1)
    mismatch = start - np.asarray(problem.log_density(jnp.asarray(x_max), 80.0))
    assert np.abs(mismatch).max() > 1e-2
    ours = likelihood(problem, x, 80.0, exact=True)
    np.testing.assert_allclose(ours, problem.log_density(x, SIGMA_MIN) + mismatch, atol=1e-4)


PROBES = 2000


def test_one_probe_is_exact_for_an_isotropic_gaussian():
    """dD/dx is a number times the identity, and v^T v = n for signs."""
    problem = Mixture(np.ones(1), np.array([[0.3, -0.2]]), np.full((1, 2), 0.4))
    x = problem.draw(jax.random.key(0), PROBES, SIGMA_MIN)
    ours = likelihood(problem, x, 3000.0, exact=False)
    np.testing.assert_allclose(ours, problem.log_density(x, SIGMA_MIN), atol=2e-3)


def test_probes_are_right_on_average():
    """Of one image of the mixture, whose Jacobian is not diagonal: the mean over 2,000 probes is within four standard
    errors of the trace, and a single one is not.
    """
    problem = PROBLEMS["mixture, 2-D"]
    x = jnp.broadcast_to(jnp.asarray(problem.means[:2].mean(axis=0)), (PROBES, 2))
    probed = likelihood(problem, x, 80.0, exact=False)
    exact = likelihood(problem, x[:8], 80.0, exact=True)
    np.testing.assert_allclose(exact, exact[0], rtol=1e-12)
    assert probed.std() > 0.01
    assert probed.mean() == pytest.approx(exact[0], abs=4 * probed.std() / np.sqrt(PROBES))


def test_an_image_does_not_depend_on_those_beside_it():
    """Its answer comes from itself and its key alone, though all walk together."""
    problem = PROBLEMS["mixture, 2-D"]
    x = problem.draw(jax.random.key(0), PROBES, SIGMA_MIN)
    beside_others = x.at[5:].multiply(3.0)
    ours, again = (likelihood(problem, images, 80.0, exact=False) for images in (x, beside_others))
    np.testing.assert_allclose(again[:5], ours[:5], rtol=1e-9)
    assert np.abs(again - ours)[5:].min() > 1e-6


def test_bits_per_dim_is_those_of_256_levels():
    """-log2 of the mass of a level, density times its width 2/255 each, in the range [-1, 1]."""
    uniform = jnp.asarray([-12 * np.log(2.0)])  # density 1/2 on [-1, 1] in 12 values
    assert float(bits_per_dim(uniform, 12)[0]) == pytest.approx(np.log2(255), abs=1e-12)
    std = 0.3
    level = np.log(2 / 255 / (std * np.sqrt(2 * np.pi)))  # of the Gaussian's mean
    density = jnp.asarray([5 * -np.log(std * np.sqrt(2 * np.pi))])
    assert float(bits_per_dim(density, 5)[0]) == pytest.approx(-level / np.log(2), abs=1e-12)

"""The parameterizations against what defines them, and against one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdiff.common.keys import image_keys
from jdiff.diffusion import drivers
from jdiff.diffusion.denoiser import make_denoiser
from jdiff.diffusion.ladders import karras
from jdiff.diffusion.parameterization import X0, Edm, Eps, Flow, Parameterization, V, target
from jdiff.diffusion.samplers import Heun
from jdiff.diffusion.schedules import EDM, VP, Cosine
from jdiff.diffusion.schedules import Flow as FlowSchedule
from jdiff.diffusion.tables import DDPMTable, linear_betas
from tests.closed_forms import mixture

TABLE = DDPMTable(linear_betas(1000))
SIGMAS = jnp.geomspace(0.01, 80, 50)
S = 0.5  # EDM's sigma_data

# name: (parameterization, its network's answer from x0, eps and sigma, each in its paper's own words)
ANSWERS = {
    "eps": (Eps(VP()), lambda x0, eps, sigma: eps),
    "x0": (X0(VP()), lambda x0, eps, sigma: x0),
    "v": (V(Cosine()), lambda x0, eps, sigma: jnp.cos(jnp.arctan(sigma)) * eps - jnp.sin(jnp.arctan(sigma)) * x0),
    "edm": (Edm(EDM(), S), lambda x0, eps, sigma: (sigma * x0 - S**2 * eps) / (S * jnp.sqrt(sigma**2 + S**2))),
    "flow": (Flow(FlowSchedule()), lambda x0, eps, sigma: eps - x0),
}
NUMBERS = st.floats(-3, 3, allow_subnormal=False)
LOG_SIGMAS = st.floats(np.log(1e-3), np.log(1e3))


@pytest.mark.parametrize("name", ANSWERS)
@settings(max_examples=30, deadline=None)
@given(x0=NUMBERS, eps=NUMBERS, log_sigma=LOG_SIGMAS)
def test_the_target_is_what_the_paper_predicts_and_gives_x0_back(name, x0, eps, log_sigma):
    parameterization, answer = ANSWERS[name]
    sigma = np.exp(log_sigma)
    with jax.enable_x64(True):
        x = jnp.full((1, 2), x0 + sigma * eps)
        wanted = target(parameterization, jnp.full_like(x, x0), x, jnp.asarray(sigma))
        # (x0 - c_skip x)/c_out loses what x0 and x's noise lose in their sum, times 1/c_out.
        rounding = 1e-13 * (1 + sigma) / min(sigma, 1)
        np.testing.assert_allclose(wanted, answer(x0, eps, sigma), atol=rounding)
        denoise = make_denoiser(lambda x, c_noise, cond: jnp.full_like(x, answer(x0, eps, sigma)), parameterization)
        np.testing.assert_allclose(denoise(x, jnp.asarray(sigma), {}).x0, x0, atol=1e-13 * (1 + sigma))


@pytest.mark.parametrize("name", ANSWERS)
@settings(max_examples=20, deadline=None)
@given(other=st.sampled_from(sorted(ANSWERS)), answer=NUMBERS, x=NUMBERS, log_sigma=st.floats(-4, 4))
def test_one_predictions_answer_becomes_anothers_and_comes_back(name, other, answer, x, log_sigma):
    """Through D, for any answer, be it right or wrong."""
    sigma = np.exp(log_sigma)
    there, back = ANSWERS[name][0], ANSWERS[other][0]
    with jax.enable_x64(True):
        sigma, x = jnp.asarray(sigma), jnp.full((1, 2), x)
        d = make_denoiser(lambda x, c_noise, cond: jnp.full_like(x, answer), there)(x, sigma, {}).x0
        converted = target(back, d, x, sigma)
        d_again = make_denoiser(lambda x, c_noise, cond: converted, back)(x, sigma, {}).x0
        np.testing.assert_allclose(target(there, d_again, x, sigma), answer, atol=1e-9)


def test_what_each_network_sees_has_unit_variance_or_is_the_papers():
    """VP's and EDM's c_in x have variance 1, for data of variance 1 and sigma_data^2; a flow's is (1-t) x0 + t eps."""
    for name, variance in {"eps": 1, "x0": 1, "v": 1, "edm": S**2}.items():
        c_in = ANSWERS[name][0](SIGMAS).c_in
        np.testing.assert_allclose(c_in**2 * (variance + SIGMAS**2), 1, rtol=1e-5)
    t = FlowSchedule().time(SIGMAS)
    c_in = ANSWERS["flow"][0](SIGMAS).c_in
    np.testing.assert_allclose(c_in, 1 - t, rtol=2e-5)
    np.testing.assert_allclose(c_in * SIGMAS, t, rtol=1e-5)


def test_edm_keeps_input_and_target_at_unit_variance():
    """2206.00364, appendix B.6: with x0 of variance s^2, c_in x and (x0 - c_skip x)/c_out have variance 1."""
    s = 0.37
    c = Edm(EDM(), s)(SIGMAS)
    np.testing.assert_allclose(c.c_in**2 * (s**2 + SIGMAS**2), 1, rtol=1e-5)
    target_variance = ((1 - c.c_skip) ** 2 * s**2 + c.c_skip**2 * SIGMAS**2) / c.c_out**2
    np.testing.assert_allclose(target_variance, 1, rtol=1e-4)


def test_a_network_that_knows_eps_gives_x0_back():
    rng = np.random.default_rng(0)
    x0, eps = rng.uniform(-1, 1, (50, 4, 4, 1)), rng.normal(size=(50, 4, 4, 1))
    sigma = np.asarray(SIGMAS, np.float64)[:, None, None, None]
    alpha = 1 / np.sqrt(1 + sigma**2)

    def network(x, c_noise, cond):
        # DDPM's network sees x_t = alpha_t x0 + sqrt(1 - alpha_t^2) eps, of unit variance.
        np.testing.assert_allclose(x, alpha * x0 + np.sqrt(1 - alpha**2) * eps, atol=1e-5)
        return jnp.asarray(eps, jnp.float32)

    denoised = make_denoiser(network, Eps(TABLE))(jnp.asarray(x0 + sigma * eps, jnp.float32), SIGMAS, {})
    np.testing.assert_allclose(denoised.x0, x0, atol=1e-4)


def network_of(problem, parameterization: Parameterization, name):
    """What a perfectly trained network of this prediction answers: it sees c_in x and c_noise alone."""

    def network(scaled, c_noise, cond):
        sigma = {
            "eps": lambda: VP().sigma(c_noise / 1000),
            "x0": lambda: VP().sigma(c_noise / 1000),
            "v": lambda: jnp.tan(jnp.pi / 2 * c_noise / 1000),
            "edm": lambda: jnp.exp(4 * c_noise),
            "flow": lambda: c_noise / (1000 - c_noise),
        }[name]()[:, None]
        # x of x = x0 + sigma eps, from what each paper's network sees.
        scale = {"edm": jnp.sqrt(S**2 + sigma**2), "flow": 1 + sigma}.get(name, jnp.sqrt(1 + sigma**2))
        x = scaled * scale
        x0 = problem.denoise(x, sigma[:, 0], cond).x0
        eps = (x - x0) / sigma
        return ANSWERS[name][1](x0, eps, sigma)

    return make_denoiser(network, parameterization)


def test_every_parameterization_of_one_model_gives_the_same_trajectory():
    """Each with a schedule of its own: a sampler sees nothing but D."""
    problem = mixture(2)
    with jax.enable_x64(True):
        sigmas = jnp.asarray(karras(12, sigma_min=0.02, sigma_max=80.0))
        x = sigmas[0] * jax.random.normal(jax.random.key(0), (16, 2))
        keys = image_keys(0, jnp.arange(16))

        def trajectory(denoise):
            return jax.jit(lambda x: drivers.scan(Heun(), denoise, x, sigmas, {}, keys, keep_trajectory=True))(x)[1]

        expected = trajectory(problem.denoise)
        for name, (parameterization, _) in ANSWERS.items():
            ours = trajectory(network_of(problem, parameterization, name))
            np.testing.assert_allclose(ours, expected, rtol=1e-8, err_msg=name)


def test_the_second_half_of_the_channels_is_the_variance():
    """F in the first channels, 2 v - 1 in the others (2102.09672, eq. 15); D is that of a network with F alone."""
    x, F, nu = np.random.default_rng(0).normal(size=(3, 3, 4, 4, 2)).astype(np.float32)
    nu[0], nu[1] = -1, 1
    x, sigma = jnp.asarray(x), jnp.array([0.1, 1.0, 10.0])
    answer = jnp.asarray(np.concatenate([F, nu], axis=-1))
    both = jax.jit(make_denoiser(lambda *_: answer, Eps(TABLE), learned_variance=True))(x, sigma, {})
    plain = jax.jit(make_denoiser(lambda *_: jnp.asarray(F), Eps(TABLE)))(x, sigma, {})
    np.testing.assert_allclose(both.x0, plain.x0, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(both.x0_dir, both.x0)
    assert plain.variance is None
    np.testing.assert_array_equal(both.variance[0], 0)
    np.testing.assert_array_equal(both.variance[1], 1)
    np.testing.assert_allclose(2 * both.variance[2] - 1, nu[2], atol=1e-6)


def test_a_network_in_half_precision_gives_a_denoiser_in_single():
    """c_skip x + c_out F is summed in x's precision."""
    x = jnp.ones((2, 3))
    denoised = make_denoiser(lambda x, *_: x.astype(jnp.bfloat16), Edm(EDM()))(x, jnp.float32(2), {})
    assert denoised.x0.dtype == jnp.float32

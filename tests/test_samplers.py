"""Samplers against closed forms, in float64: Gaussians and mixtures of Gaussians, in 2 and 16 dimensions."""

from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff.common.keys import folded, image_keys, named, normal
from jdiff.diffusion import drivers
from jdiff.diffusion.denoiser import Denoised
from jdiff.diffusion.ladders import karras
from jdiff.diffusion.samplers import (
    DDIM,
    DDPM,
    DPM2,
    LMS,
    ODE,
    Consistency,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp2SAncestral,
    DPMpp3M,
    DPMppSDE,
    Heun,
    Langevin,
    PredictorCorrector,
    RePaint,
    Sampler,
    UniPC,
)
from jdiff.diffusion.schedules import EDM
from tests.closed_forms import PROBLEMS, GaussianFlowMap, gaussian, gaussian_flow

SIGMA_MAX, SIGMA_END = 5.0, 0.1
KARRAS_7 = karras(7, sigma_min=0.01, sigma_max=5)

# Those that follow the probability-flow ODE down the ladder, whose order of convergence is measured.
DETERMINISTIC = [
    DDIM(),
    Heun(),
    DPM2(),
    DPMpp2M(),
    DPMpp3M(),
    LMS(order=1),
    LMS(order=2),
    LMS(order=3),
    LMS(),
    UniPC(predictor_order=1),
    UniPC(predictor_order=2),
    UniPC(predictor_order=3),
    UniPC(predictor_order=2, corrector=False),
    DPMpp2SAncestral(eta=0.0),
    DPMppSDE(eta=0.0),
    DPMpp2MSDE(eta=0.0),
]

# Sampler -> steps at which its moments are within their standard errors: 2-D and 16-D mixtures need about as many.
STOCHASTIC = {
    DDIM(eta=1.0): 400,
    DDIM(eta=0.5): 400,
    DDPM(variance="large"): 400,
    DDPM(variance="learned"): 400,
    Heun(steps=100, s_churn=10.0): 100,
    Heun(steps=100, s_churn=40.0, s_min=0.3, s_max=2.0): 100,
    DPMpp2SAncestral(): 100,
    DPMpp2MSDE(): 50,
    DPMppSDE(): 50,
    PredictorCorrector(r=0.1): 200,
    Langevin(r=0.1, corrector_steps=4): 2000,
}

CHURNING = Heun(steps=7, s_churn=7.0)

# Every sampler, for what holds of all.
ALL = [
    DDIM(),
    DDIM(eta=1.0),
    DDPM(variance="large"),
    Heun(),
    CHURNING,
    DPM2(),
    DPMpp2SAncestral(),
    DPMpp2M(),
    DPMpp3M(),
    DPMpp2MSDE(),
    DPMppSDE(),
    LMS(),
    UniPC(),
    UniPC(predictor_order=3),
    Langevin(),
    Langevin(corrector_steps=2),
    PredictorCorrector(),
    ODE(),
]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def walk(sampler, problem, x, sigmas, seed=0):
    keys = image_keys(seed, jnp.arange(len(x)))
    program = jax.jit(lambda x, s: drivers.scan(sampler, problem.denoise, x, s, {}, keys).x0)
    return np.asarray(program(x, jnp.asarray(sigmas)))


@cache
def compiled_step(sampler, problem):
    def step(x, carry, sigma, sigma_next, index, keys):
        def denoise(x, sigma, to=None):
            return problem.denoise(x, sigma, {}, to)

        return sampler.step(denoise, carry, x, sigma, sigma_next, folded(keys, index))

    return jax.jit(step)


def march(sampler, problem, x, sigmas, seed=0):
    """As `walk`, on the host: compiled once for ladders of any length."""
    keys = image_keys(seed, jnp.arange(len(x)))
    step, carry = compiled_step(sampler, problem), sampler.init(jnp.asarray(x), keys)
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x, carry = step(x, carry, sigma, sigma_next, index, keys)
    return np.asarray(x)


def ladder_to(end, steps):
    """Karras' rungs from SIGMA_MAX to `end` > 0, without the last step to 0."""
    return karras(steps + 1, sigma_min=end, sigma_max=SIGMA_MAX)[:-1]


@cache
def exact(name):
    """(starts [64, D], where the probability-flow ODE leads from there)."""
    problem = PROBLEMS[name]
    x = np.asarray(problem.draw(jax.random.key(0), 64, SIGMA_MAX))
    if name.startswith("gaussian"):
        return x, gaussian_flow(problem, x, SIGMA_MAX, SIGMA_END)
    return x, walk(ODE(rtol=1e-12, atol=1e-12), problem, x, np.array([SIGMA_MAX, SIGMA_END]))


def measured_order(sampler, name, counts=(40, 80, 160, 320)):
    x, end = exact(name)
    errors = [np.sqrt(np.mean((march(sampler, PROBLEMS[name], x, ladder_to(SIGMA_END, n)) - end) ** 2)) for n in counts]
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=str)
def test_global_error_falls_with_the_order(sampler, name):
    assert measured_order(sampler, name) == pytest.approx(sampler.order, abs=0.3)


class Wave:
    """D = sin(lambda), lambda = -ln sigma: the reverse SDE's mean solves dx/dlambda = -2 (x - sin(lambda)). (A
    Gaussian's D is constant along that mean, so every sampler would be exact.)
    """

    def denoise(self, x, sigma, cond, to=None):
        x0 = jnp.full_like(x, jnp.sin(-jnp.log(sigma)))
        return Denoised(x0=x0, x0_dir=x0)

    def mean(self, x, sigma, sigma_next):
        def forced(sigma):
            return (4 * np.sin(-np.log(sigma)) - 2 * np.cos(-np.log(sigma))) / 5

        return forced(sigma_next) + (x - forced(sigma)) * (sigma_next / sigma) ** 2


@pytest.mark.parametrize("sampler", [DDIM(eta=1.0), DDPM(variance="large"), DPMpp2MSDE(), DPMppSDE()], ids=str)
def test_the_mean_of_a_stochastic_sampler_converges_with_its_order(sampler, monkeypatch):
    """To the mean of the reverse SDE, the noise set to 0."""
    for where in ("ddim.normal", "ddpm.normal", "dpmpp_2m_sde.brownian.noise"):
        monkeypatch.setattr(f"jdiff.diffusion.samplers.{where}", lambda keys, x, *_: jnp.zeros_like(x))
    problem, x, counts = Wave(), np.linspace(-8, 8, 16).reshape(8, 2), (40, 80, 160, 320)
    end = problem.mean(x, SIGMA_MAX, SIGMA_END)
    errors = [np.sqrt(np.mean((march(sampler, problem, x, ladder_to(SIGMA_END, n)) - end) ** 2)) for n in counts]
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(sampler.order, abs=0.3)


@pytest.mark.parametrize("name", ["mixture, 2-D", "mixture, 16-D"])
def test_the_adaptive_solvers_order_is_its_pairs(name):
    """With every step accepted it takes two from rung to rung, and the error falls with the rungs. (For a Gaussian it
    falls faster, until rounding is all that is left.)
    """
    solver = ODE(rtol=1e9, atol=1e9)
    assert measured_order(solver, name, counts=(20, 40, 80)) == pytest.approx(solver.order, abs=0.4)


@pytest.mark.parametrize(
    "sampler", [*ALL, DDIM(jumps=True), Consistency(), DPMpp2SAncestral(eta=0.0), DPMppSDE(eta=0.0)], ids=str
)
def test_the_facts_are_what_a_sampler_does(sampler):
    """remembers: its carry holds something. random: another seed is another image. jumps: it asks for D(x, s, s').
    arrives: after a step from the marginal at s, the variance is nearer to that at s' than to that at s.
    """
    asked, flow_map = [], GaussianFlowMap(gaussian(2).means[0], gaussian(2).stds[0])

    def denoise(x, sigma, cond, to=None):
        asked.append(to)
        return flow_map.denoise(x, sigma, cond, to)

    @jax.jit
    def one_step(x, seed):
        keys = image_keys(seed, jnp.arange(len(x)))
        return drivers.scan(sampler, denoise, x, jnp.array([1.0, 0.7]), {}, keys).x0

    assert isinstance(sampler, Sampler)
    x = gaussian(2).draw(jax.random.key(0), 4000, 1.0)
    ends = one_step(x, 0)
    assert sampler.remembers == bool(jax.tree.leaves(sampler.init(x, image_keys(0, jnp.arange(len(x))))))
    assert sampler.random == bool(np.abs(ends - one_step(x, 1)).max() > 0)
    assert [to is not None for to in asked] == [sampler.jumps] * len(asked)
    assert sampler.lands == isinstance(sampler, Consistency)
    spread = np.mean((ends - flow_map.mean) ** 2 / (flow_map.std**2 + np.array([[[1.0]], [[0.7]]]) ** 2), axis=(1, 2))
    assert sampler.arrives == (abs(np.log(spread[1])) < abs(np.log(spread[0])))
    assert (sampler.order == 0) == isinstance(sampler, (Langevin, PredictorCorrector, Consistency))


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_adaptive_solver_keeps_to_its_tolerance(name):
    x, end = exact(name)
    for tolerance in (1e-3, 1e-5, 1e-7):
        solved = walk(ODE(rtol=tolerance, atol=tolerance), PROBLEMS[name], x, np.array([SIGMA_MAX, SIGMA_END]))
        assert np.abs(solved - end).max() < 200 * tolerance


def test_the_adaptive_solver_steps_for_each_image():
    """An image's result does not depend on a difficult one beside it, and the calls are counted."""
    calls = []

    def denoise(x, sigma, cond, to=None):
        jax.debug.callback(lambda: calls.append(1))
        std = jnp.where(jnp.arange(len(x)) > 0, 1e-3, 0.5)[:, None]
        x0 = std**2 / (std**2 + jnp.broadcast_to(sigma, len(x))[:, None] ** 2) * x
        return Denoised(x0=x0, x0_dir=x0)

    def solve(x):
        keys = image_keys(0, jnp.arange(len(x)))
        walked = drivers.scan(ODE(), denoise, x, jnp.array([SIGMA_MAX, 1e-4]), {}, keys)
        jax.block_until_ready(walked)
        jax.effects_barrier()
        return walked

    alone, several = solve(jnp.ones((1, 2))), solve(jnp.ones((3, 2)))
    np.testing.assert_allclose(several.x0[0], alone.x0[0], rtol=1e-12)
    assert int(alone.carry) < int(several.carry)
    assert int(alone.carry) + int(several.carry) == len(calls)


def moments_cases():
    for sampler in STOCHASTIC:
        if not isinstance(sampler, Langevin):
            yield pytest.param(sampler, "mixture, 2-D", 20_000, id=f"{sampler} mixture, 2-D")
        for name in PROBLEMS:
            yield pytest.param(sampler, name, 100_000, marks=pytest.mark.slow, id=f"{sampler} {name} 100,000")


@pytest.mark.compile_well
@pytest.mark.parametrize(("sampler", "name", "n"), moments_cases())
def test_noisy_samplers_keep_the_exact_moments(sampler, name, n):
    """Started at the exact marginal and stopped at SIGMA_END: mean and covariance of n within five standard errors."""
    steps, problem = STOCHASTIC[sampler], PROBLEMS[name]
    if isinstance(sampler, DDPM) and sampler.variance == "learned":
        problem = HalfLearned(problem)
    with jax.enable_x64(False):  # the error looked for is the sampler's, 1e-3 and not 1e-7
        start = problem.draw(jax.random.key(1), n, SIGMA_MAX)
        out = walk(sampler, problem, start, ladder_to(SIGMA_END, steps).astype(np.float32), seed=3).astype(np.float64)
    mean, covariance = problem.moments(SIGMA_END)
    assert (np.abs(out.mean(0) - mean) < 5 * np.sqrt(np.diag(covariance) / n)).all()
    products = (out - mean)[:, :, None] * (out - mean)[:, None, :]
    assert (np.abs(products.mean(0) - covariance) < 5 * products.std(0) / np.sqrt(n)).all()


class HalfLearned:
    """A problem whose denoiser also answers with a variance between the small and the large one."""

    def __init__(self, problem):
        self.draw, self.moments, self._denoise = problem.draw, problem.moments, problem.denoise

    def denoise(self, x, sigma, cond, to=None):
        return self._denoise(x, sigma, cond).replace(variance=jnp.full_like(x, 0.5))


@pytest.mark.parametrize("sampler", [DPMpp2MSDE(), DPMppSDE()], ids=str)
def test_refining_the_ladder_refines_the_same_brownian_path(sampler):
    """The end in N steps nears the end in many, image by image: the noise is that of one path."""
    problem = PROBLEMS["mixture, 2-D"]
    x = problem.draw(jax.random.key(0), 64, SIGMA_MAX)
    finest = march(sampler, problem, x, ladder_to(SIGMA_END, 512))
    errors = [np.sqrt(np.mean((march(sampler, problem, x, ladder_to(SIGMA_END, n)) - finest) ** 2)) for n in (16, 128)]
    assert errors[1] < 0.3 * errors[0]
    assert errors[1] < 0.1 * finest.std()
    other_noise = np.sqrt(np.mean((march(sampler, problem, x, ladder_to(SIGMA_END, 128), seed=1) - finest) ** 2))
    assert other_noise > 5 * errors[1]


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("sampler", [ODE(rtol=1e-9, atol=1e-9), Heun(), DPMpp3M(), UniPC(predictor_order=3)], ids=str)
def test_inversion_and_back_returns_the_start(sampler, name):
    x = np.asarray(PROBLEMS[name].draw(jax.random.key(2), 16, SIGMA_END))
    down = np.array([SIGMA_MAX, SIGMA_END]) if isinstance(sampler, ODE) else ladder_to(SIGMA_END, 400)
    noise = march(sampler, PROBLEMS[name], x, down[::-1])
    back = march(sampler, PROBLEMS[name], noise, down)
    tolerance = {ODE: 1e-6, Heun: 2e-3}.get(type(sampler), 1e-4)
    np.testing.assert_allclose(back, x, atol=tolerance)
    assert noise.std() > 0.5 * SIGMA_MAX


def test_ddim_step_is_the_papers():
    """One step in DDIM's own coordinates (2010.02502, eq. 12 and 16), with alpha here the paper's alpha-bar."""
    s, s_next, eta = 2.0, 0.7, 0.6
    alpha, alpha_next = 1 / (1 + s**2), 1 / (1 + s_next**2)
    x = jax.random.normal(jax.random.key(0), (5, 2))
    keys = image_keys(0, jnp.arange(5))
    problem = gaussian(2)
    ours, _ = DDIM(eta=eta).step(
        lambda x, sigma, to=None: problem.denoise(x, sigma, {}, to), (), x, jnp.float64(s), jnp.float64(s_next), keys
    )
    x_t = np.sqrt(alpha) * x
    x0 = problem.denoise(x, jnp.float64(s), {}).x0
    eps = (x_t - np.sqrt(alpha) * x0) / np.sqrt(1 - alpha)
    std = eta * np.sqrt((1 - alpha_next) / (1 - alpha)) * np.sqrt(1 - alpha / alpha_next)
    z = jax.vmap(lambda key: jax.random.normal(key, (2,), jnp.float64))(keys)
    theirs = np.sqrt(alpha_next) * x0 + np.sqrt(1 - alpha_next - std**2) * eps + std * z
    np.testing.assert_allclose(ours, theirs / np.sqrt(alpha_next), rtol=1e-10)


@pytest.mark.parametrize("sampler", [sampler for sampler in ALL if sampler != CHURNING], ids=str)
def test_a_single_step_to_zero_answers_with_the_denoiser(sampler):
    x = jax.random.normal(jax.random.key(0), (5, 2))
    last = walk(sampler, gaussian(2), x, np.array([0.5, 0.0]))
    np.testing.assert_allclose(last, gaussian(2).denoise(x, 0.5, {}).x0, rtol=1e-12)


@pytest.mark.parametrize("sampler", ALL, ids=str)
def test_the_longest_steps_stay_finite_in_float32(sampler):
    with jax.enable_x64(False):
        x = 2.0**20 * jnp.ones((100, 2), jnp.float32)
        ends = walk(sampler, gaussian(2), x, np.array([2.0**20, 80.0, 0.002, 0.0], np.float32))
    assert np.isfinite(ends).all()


@pytest.mark.parametrize("sampler", ALL, ids=str)
def test_nfe_counts_the_denoisers_calls_in_one_compiled_program(sampler):
    """The whole ladder is one program whose only word to the host is what the denoiser here says itself."""
    calls = []

    def counting(x, sigma, cond, to=None):
        jax.debug.callback(lambda: calls.append(1))
        return gaussian(2).denoise(x, sigma, cond)

    keys = image_keys(0, jnp.arange(3))
    sigmas = jnp.asarray([5.0, 0.01, 0.0]) if isinstance(sampler, ODE) else jnp.asarray(KARRAS_7)
    program = jax.jit(lambda x, s: drivers.scan(sampler, counting, x, s, {}, keys))
    walked = jax.block_until_ready(program(jnp.ones((3, 2)), sigmas))
    jax.effects_barrier()
    expected = int(walked.carry) if sampler.nfe(7) is None else sampler.nfe(7)
    assert len(calls) == expected
    assert program._cache_size() == 1


@pytest.mark.parametrize("sampler", ALL, ids=str)
def test_no_host_round_trip_and_no_memory_for_more_steps(sampler):
    def memory(steps, keep):
        x, sigmas = jax.ShapeDtypeStruct((64, 256), jnp.float32), jax.ShapeDtypeStruct((steps + 1,), jnp.float32)
        keys = jax.eval_shape(lambda: image_keys(0, jnp.arange(64)))
        denoise = gaussian(256).denoise
        program = jax.jit(lambda x, s, k: drivers.scan(sampler, denoise, x, s, {}, k, keep_trajectory=keep))
        lowered = program.lower(x, sigmas, keys)
        assert "callback" not in lowered.as_text()
        used = lowered.compile().memory_analysis()
        return used.temp_size_in_bytes + used.output_size_in_bytes

    with jax.enable_x64(False):
        few, many = memory(4, False), memory(400, False)
        one_image_set = 64 * 256 * 4
        assert many - few < one_image_set
        if isinstance(sampler, DDIM):
            assert memory(400, True) - many > 390 * one_image_set


def test_a_trajectory_is_kept_only_if_asked_for():
    x, keys, sigmas = jnp.ones((3, 2)), image_keys(0, jnp.arange(3)), jnp.asarray(KARRAS_7)
    assert drivers.scan(Heun(), gaussian(2).denoise, x, sigmas, {}, keys).trajectory is None
    kept = drivers.scan(Heun(), gaussian(2).denoise, x, sigmas, {}, keys, keep_trajectory=True)
    assert kept.trajectory.shape == (8, 3, 2)
    np.testing.assert_array_equal(kept.trajectory[0], x)
    np.testing.assert_array_equal(kept.trajectory[-1], kept.x0)


@pytest.mark.parametrize("sampler", [s for s in ALL if s not in (LMS(), UniPC(predictor_order=3))], ids=str)
def test_an_image_does_not_depend_on_those_beside_it(sampler):
    sigmas = jnp.asarray(KARRAS_7)

    @jax.jit
    def sample(indices):
        keys = image_keys(7, indices)
        x = drivers.prior(keys, jnp.zeros((len(indices), 2)), sigmas[0], EDM())
        return x, drivers.scan(sampler, gaussian(2).denoise, x, sigmas, {}, keys).x0

    prior, together = sample(jnp.array([0, 1, 2, 3]))
    prior_alone, alone = sample(jnp.array([2]))
    np.testing.assert_array_equal(prior[2], prior_alone[0])
    np.testing.assert_allclose(together[2], alone[0], rtol=1e-12)


@pytest.mark.parametrize(
    "sampler",
    [
        *(DDIM(eta=1.0), Heun(), DPM2(), DPMpp2SAncestral()),
        *(pytest.param(sampler, marks=pytest.mark.slow) for sampler in (PredictorCorrector(), DDPM())),
    ],
    ids=str,
)
def test_repainting_keeps_what_is_known_and_agrees_with_it(sampler):
    """Correlated Gaussian data, the first number known: the second's mean and variance are the conditional ones."""
    known, rho, n = 1.2, 0.9, 4000
    covariance = np.array([[1, rho], [rho, 1]])

    def denoise(x, sigma, cond, to=None):
        x0 = x @ jnp.linalg.solve(covariance + sigma**2 * jnp.eye(2), jnp.asarray(covariance))
        return Denoised(x0=x0, x0_dir=x0)

    keys, sigmas = image_keys(0, jnp.arange(n)), jnp.asarray(karras(60, sigma_min=0.01, sigma_max=20))
    x, painted = 20 * normal(keys, jnp.zeros((n, 2))), {}
    image, mask = jnp.full((n, 2), known), jnp.array([[False, True]])
    for repeats in (1, 10):
        repaint = RePaint(sampler=sampler, image=image, mask=mask, repeats=repeats)
        run = jax.jit(lambda x, repaint=repaint: drivers.scan(repaint, denoise, x, sigmas, {}, keys).x0)
        painted[repeats] = np.asarray(run(x))
        np.testing.assert_array_equal(painted[repeats][:, 0], known)
    bias = {repeats: abs(ends[:, 1].mean() - rho * known) for repeats, ends in painted.items()}
    assert bias[10] < 0.1 < 2 * bias[1]
    assert painted[10][:, 1].var() == pytest.approx(1 - rho**2, rel=0.3)


@pytest.mark.parametrize("sampler", [DDIM(), DDIM(eta=1.0), CHURNING, PredictorCorrector()], ids=str)
@pytest.mark.parametrize("repeats", [1, 3])
def test_repainting_is_the_papers_loop(sampler, repeats):
    """Algorithm 1 of 2201.09865 as plain loops, to the bit where nothing is compiled: after each step the known part is
    the image with that rung's noise, and between repeats x goes back up by sqrt(s^2 - s'^2) z.
    """
    x, image = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    mask = np.array([[True, False], [False, False], [True, True]])
    keys, sigmas = image_keys(5, jnp.arange(3)), jnp.asarray(karras(4, sigma_min=0.1, sigma_max=5), jnp.float32)

    def denoise(x, sigma, to=None):
        return gaussian(2).denoise(x, sigma, {}, to)

    repaint = RePaint(sampler=sampler, image=jnp.asarray(image), mask=jnp.asarray(mask), repeats=repeats)
    with jax.disable_jit():
        ours = drivers.scan(repaint, gaussian(2).denoise, jnp.asarray(x), sigmas, {}, keys, keep_trajectory=True)
        theirs = [jnp.asarray(x)]
        for rung, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            x = theirs[-1]
            for number in range(repeats):
                now = folded(keys, rung)
                if number:
                    now = folded(named(now, "repeat"), number - 1)
                    x = x + jnp.sqrt(sigma**2 - sigma_next**2) * normal(named(now, "back up"), x)
                x, _ = sampler.step(denoise, (), x, sigma, sigma_next, now)
                x = jnp.where(mask, x, image + sigma_next * normal(named(now, "project"), x))
            theirs.append(x)
    np.testing.assert_array_equal(ours.trajectory, jnp.stack(theirs))
    assert repaint.nfe(4) == repeats * sampler.nfe(4)
    assert (repaint.order, repaint.random, repaint.remembers) == (sampler.order, True, False)


@pytest.mark.parametrize("sampler", ALL, ids=str)
def test_what_cannot_repaint_is_refused(sampler):
    """A step that depends on others would be repeated without them."""
    image, mask = jnp.zeros((1, 2)), jnp.ones((1, 2), bool)
    if sampler.remembers or not sampler.arrives:
        with pytest.raises(ValueError, match="does not repaint"):
            RePaint(sampler=sampler, image=image, mask=mask)
    else:
        with pytest.raises(ValueError, match="repeats=0 must be at least 1"):
            RePaint(sampler=sampler, image=image, mask=mask, repeats=0)

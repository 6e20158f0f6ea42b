"""Free ladders against closed forms: on a Gaussian every step's error, and the best ladder, can be computed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jdiff.diffusion import free_ladder, ladders
from jdiff.diffusion.free_ladder import Costs
from jdiff.diffusion.samplers import DDIM, DPMpp2M, Heun, UniPC
from tests.closed_forms import gaussian, gaussian_flow, mixture

LOW, HIGH = 0.002, 80.0


def trajectories(problem):
    noise = jax.random.normal(jax.random.key(0), (32, problem.means.shape[1]))
    exact = jax.jit(lambda x, sigma: problem.denoise(x, sigma, {}))
    return free_ladder.reference(
        lambda x, sigma, to=None: exact(x, sigma), noise, jnp.asarray, sigma_min=LOW, sigma_max=HIGH
    )


@pytest.fixture(scope="module")
def known():
    return trajectories(gaussian(2))


def walked(problem, solver, ladder, noise):
    """x0_walked - x0 in float64, by the exact denoiser."""
    mean, std = problem.means[0], problem.stds[0]
    x, before, sigma_before = noise * ladder[0], None, None
    end = gaussian_flow(problem, noise * HIGH, HIGH, 0.0)
    for sigma, after in itertools.pairwise(ladder):
        x0 = mean + std**2 / (std**2 + sigma**2) * (x - mean)
        middle = x0
        if isinstance(solver, DPMpp2M) and before is not None and after > 0:
            middle = x0 + np.log(sigma / after) / (2 * np.log(sigma_before / sigma)) * (x0 - before)
        x, before, sigma_before = middle + after / sigma * (x - middle), x0, sigma
    return x - end


def off(problem, solver, ladder, known):
    return np.sqrt(np.mean(walked(problem, solver, ladder, np.asarray(known.noise, np.float64)) ** 2))


def best(problem, solver, known, starts):
    """The least error that Nelder and Mead's method finds from these ladders, the first rung fixed."""

    def made(logs):
        return np.append(np.exp(np.log(HIGH) - np.append(0, np.cumsum(np.exp(np.clip(logs, -8, 5))))), 0.0)

    def objective(logs):
        return np.log(off(problem, solver, made(logs), known))

    found = []
    for start in starts:
        logs = np.log(np.maximum(-np.diff(np.log(start[:-1])), 1e-3))
        for _ in range(2):
            result = scipy.optimize.minimize(objective, logs, method="Nelder-Mead", options={"maxfev": 3000})
            logs = result.x
        found.append(np.exp(result.fun))
    return min(found)


def test_the_reference_is_the_flow(known):
    problem = gaussian(2)
    sigmas = np.append(np.asarray(known.sigmas), 0.0)
    noise = np.asarray(known.noise, np.float64)
    for place in (0, 5, 20, 39, 40):
        exact = gaussian_flow(problem, noise * HIGH, HIGH, sigmas[place])
        np.testing.assert_allclose(known.x[place], exact, atol=1e-4 * max(1.0, sigmas[place]))
    np.testing.assert_allclose(
        known.x0[10], problem.denoise(known.x[10], sigmas[10], {}).x0, atol=1e-3
    )  # D at x as predicted, x as corrected


def test_what_a_step_costs_is_its_error_at_the_image(known):
    problem = gaussian(2)
    found, sigmas = free_ladder.costs(DDIM(), known), np.append(np.asarray(known.sigmas), 0.0)
    noise, std = np.asarray(known.noise, np.float64), problem.stds[0]
    for i, j in ((0, 9), (10, 11), (20, 30), (30, 40)):
        at, there = (gaussian_flow(problem, noise * HIGH, HIGH, sigmas[k]) for k in (i, j))
        mean = problem.means[0]
        x0 = mean + std**2 / (std**2 + sigmas[i] ** 2) * (at - mean)
        local = x0 + sigmas[j] / sigmas[i] * (at - x0) - there
        carried = std / np.sqrt(std**2 + sigmas[j] ** 2) * local  # the flow's Jacobian
        np.testing.assert_allclose(found.step[40, i, j], np.sqrt(np.mean(carried**2)), rtol=0.03)
    assert np.isinf(found.step[40, 10, 10])
    assert np.isinf(found.step[40, 10, 3])
    assert found.start[0] == 0
    assert found.start[30] > found.start[10] > 0


def test_history_makes_a_step_better(known):
    later, alone = free_ladder.costs(DPMpp2M(), known), free_ladder.costs(DDIM(), known)
    np.testing.assert_allclose(later.step[40], alone.step[40], rtol=1e-3)  # a first step is Euler's
    assert np.median(later.step[14, 16, 18:24] / alone.step[40, 16, 18:24]) < 0.5
    assert np.isinf(later.step[16, 16, 20])


@pytest.mark.parametrize("rungs", [1, 2, 4])
def test_the_shortest_path_is_the_least_of_all(rungs):
    rng = np.random.default_rng(rungs)
    step = np.full((8, 7, 8), np.inf)
    for p, i, j in itertools.product(range(8), range(7), range(8)):
        if j > i and (p < i or p == 7):
            step[p, i, j] = rng.uniform()
    found = Costs(start=rng.uniform(size=7), step=step)

    def total(path):
        before = [7, *path]
        return found.start[path[0]] + sum(step[p, i, j] for p, i, j in zip(before, path, [*path[1:], 7], strict=False))

    places, cost = free_ladder.shortest(found, rungs)
    every = min(itertools.combinations(range(7), rungs), key=total)
    assert tuple(places) == every
    assert cost == pytest.approx(total(every))
    with pytest.raises(ValueError, match=r"must lie in 1\.\.7"):
        free_ladder.shortest(found, 8)


@pytest.mark.parametrize("rungs", [4, 7, 10])
def test_eulers_ladder_is_the_best(known, rungs):
    problem, solver = gaussian(2), DDIM()
    free = free_ladder.ladder(solver, known, rungs, begin_below=False)
    usual = ladders.karras(rungs, sigma_min=LOW, sigma_max=HIGH)
    least = best(problem, solver, known, [free, usual])
    assert free[0] == pytest.approx(HIGH)
    assert off(problem, solver, free, known) < 1.02 * least
    assert off(problem, solver, free, known) < 0.7 * off(problem, solver, usual, known)
    grid, _ = free_ladder.shortest(free_ladder.costs(solver, known, begin_below=False), rungs)
    path = np.append(np.asarray(known.sigmas, np.float64)[grid], 0.0)
    assert off(problem, solver, path, known) < 1.1 * least  # the path alone, on the grid


@pytest.mark.parametrize("rungs", [4, 8])
def test_two_step_ladders_let_errors_cancel(rungs):
    """Errors of either sign make the best ladder of more rungs exact to any digits: then ours is as good as exact."""
    problem, solver = gaussian(16), DPMpp2M()
    known = trajectories(problem)
    free = free_ladder.ladder(solver, known, rungs, begin_below=False)
    usual = off(problem, solver, ladders.karras(rungs, sigma_min=LOW, sigma_max=HIGH), known)
    least = best(problem, solver, known, [free])
    assert off(problem, solver, free, known) < max(1.02 * least, 0.01 * usual)


def test_what_the_linearised_walk_tells_is_so(known):
    problem = gaussian(2)
    ladder = ladders.karras(6, sigma_min=0.02, sigma_max=40.0)
    for solver in (DDIM(), DPMpp2M()):
        (told,) = free_ladder.errors(solver, known, [ladder])
        assert told == pytest.approx(off(problem, solver, ladder, known), rel=0.02)


@pytest.mark.parametrize("solver", [Heun(), UniPC(), DPMpp2M()], ids=lambda solver: type(solver).__name__)
def test_a_ladder_of_a_mixture_beats_karras(solver):
    """Where the linearised denoiser is not exact."""
    problem = mixture(2)
    known = trajectories(problem)
    free = free_ladder.ladder(solver, known, 6)
    assert len(free) == 7
    assert (np.diff(free) < 0).all()
    assert free[-1] == 0
    assert free[0] <= HIGH * (1 + 1e-6)
    usual = ladders.karras(6, sigma_min=LOW, sigma_max=HIGH)

    def end(ladder):
        from jdiff.diffusion import drivers

        noise, keys = known.noise, jax.random.split(jax.random.key(0), 32)
        x = drivers.scan(solver, problem.denoise, noise * ladder[0], jnp.asarray(ladder, jnp.float32), {}, keys).x0
        return float(jnp.sqrt(jnp.mean((x - known.x[-1]) ** 2)))

    assert end(free) < 0.6 * end(usual)

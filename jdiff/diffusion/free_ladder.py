"""The ladder of N rungs along which a solver ends nearest to its own fine limit, without a scored image.

Reference trajectories x(s) of the probability flow, walked finely from noise z, give the denoised images D(s) on a grid
of sigmas. A step of the solver from x(s_i) to s_j, with D as on the reference, makes the error

    e(p, i, j) = step(x(s_i), s_i -> s_j; D; history: the rung s_p before) - x(s_j)

which takes no further denoiser call. To first order in these errors the flow carries each to the image by its Jacobian:

    x0_walked - x0 = sum over the steps of  dx(0)/dx(s_j) e(p, i, j)

Where x0 ~ N(mean, diag(std^2)) the Jacobian is diag(std(x(0)) / std(x(s_j))), the deviations over trajectories; these
are known on the reference, and stand for it in general. With |.| the root mean square over trajectories and pixels, a
step costs |diag(std(x(0)) / std(x(s_j))) e(p, i, j)|: by the triangle inequality the sum of the costs bounds the error
of the image, and is that error where the steps' errors are alike, as those of Euler's method on a Gaussian are, all of
which fall short. A walk that begins at s_i, below the reference's first sigma, begins with the error prior_std(s_i) z -
x(s_i), whose cost is counted likewise.

The ladder of least total cost is a shortest path over pairs (rung before, rung), found by dynamic programming (of step
errors without history: Watson et al., arXiv 2106.03802, of a likelihood). It is then moved off the grid, to where what
the sum leaves out counts: signs, and how one error makes the next. For this the whole walk is made with the denoiser
linearised about each trajectory,

    D(x, s) = D(s) + cov(D(s), x(s)) / var(x(s)) (x - x(s))        per pixel, over trajectories

which is exact for that Gaussian, and again takes no denoiser call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float

from jdiff.diffusion import drivers
from jdiff.diffusion.denoiser import Cond, Denoised, Sigma
from jdiff.diffusion.ladders import Ladder, karras
from jdiff.diffusion.samplers import Sampler, UniPC
from jdiff.diffusion.samplers.sampler import Carry, Conditioned

GRID = 40  # sigmas
FINER = 3  # steps of the reference from one sigma of the grid to the next
CHANGE = 0.01  # of ln sigma, for derivatives
LEAST_GAP = 0.01  # between rungs, in ln sigma
LEAST_END = 2e-4  # of the first rung, where a Karras ladder ends that a search begins with
TINY = 1e-12


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Reference:
    """Fine trajectories. sigmas: the grid, falling, equally apart in ln sigma [G]. x: where the flow is there, and its
    end at 0 [G + 1, B, ...]. x0: D(x, sigma) [G, B, ...]. noise: z, of unit variance [B, ...]. prior_std: of a walk's
    start at each sigma of the grid [G].
    """

    sigmas: Float[Array, " rungs"]
    x: Float[Array, "grid b ..."]
    x0: Float[Array, "rungs b ..."]
    noise: Float[Array, "b ..."]
    prior_std: Float[Array, " rungs"]


@dataclass(frozen=True, eq=False)
class Costs:
    """start [G]: of beginning at a sigma of the grid. step [G + 1, G, G + 1]: of the step i -> j after the rung p, at
    [p, i, j]; p = G is a first step, without history, and j = G the step to 0. Infinite unless p < i < j.
    """

    start: Float[np.ndarray, " rungs"]
    step: Float[np.ndarray, "grid rungs grid"]


def reference(
    denoise: Conditioned,
    noise: Float[Array, "b ..."],
    prior_std: Callable[[Array], Array],
    *,
    sigma_min: float,
    sigma_max: float,
    grid: int = GRID,
) -> Reference:
    """Trajectories from this noise by UniPC of third order, in FINER (grid - 1) + 1 denoiser calls."""
    fine = np.append(np.geomspace(sigma_max, sigma_min, FINER * (grid - 1) + 1), 0.0).astype(np.float32)
    solver, keys, at, x0s = UniPC(), _no_keys(noise), [], []
    x = prior_std(jnp.asarray(fine[0])) * noise
    carry = solver.init(x, keys)

    @jax.jit
    def step(known: Denoised, carry: Carry, x: Array, sigma: Array, after: Array) -> tuple[Array, Carry]:
        return solver.step(lambda *asked: known, carry, x, sigma, after, keys)

    for number, (sigma, after) in enumerate(zip(jnp.asarray(fine[:-1]), jnp.asarray(fine[1:]), strict=True)):
        x, carry = step(denoise(x, sigma), carry, x, sigma, after)
        if number % FINER == 0:
            at.append(carry[0])  # as corrected
            x0s.append(carry[1][0])
    sigmas = jnp.asarray(fine[:-1:FINER])
    return Reference(
        sigmas=sigmas, x=jnp.stack([*at, x]), x0=jnp.stack(x0s), noise=noise, prior_std=jax.vmap(prior_std)(sigmas)
    )


def costs(solver: Sampler, known: Reference, *, begin_below: bool = True) -> Costs:
    """What each start and each step of a deterministic solver costs.

    A solver that remembers more than one rung before is seen with one; what it asks of the denoiser off the trajectory
    is answered by the trajectory at that sigma. begin_below: whether a walk may begin below the first sigma.
    """
    count = len(known.x0)
    start = np.asarray(_starts(known), np.float64) if begin_below else np.full(count, np.inf)
    start[0] = 0.0
    step = np.full((count + 1, count, count + 1), np.inf)
    places = np.arange(count + 1)
    for i in range(count):
        for p in (count, *(range(i) if solver.remembers else ())):
            found = np.asarray(_steps(known, p, i, solver=solver), np.float64)
            step[p, i] = np.where((places > i) & np.isfinite(found), found, np.inf)
        if not solver.remembers:
            step[:i, i] = step[count, i]
    return Costs(start=start, step=step)


def shortest(found: Costs, rungs: int) -> tuple[list[int], float]:
    """(the places in the grid of the N rungs of least total cost, that cost)."""
    count = len(found.start)
    if not 1 <= rungs <= count:
        raise ValueError(f"rungs={rungs} must lie in 1..{count}, the sigmas of the grid")
    # best[i, j]: of the paths so far whose last step is i -> j; came: the rung before i, of each number of steps.
    best, came = found.start[:, None] + found.step[count], []
    for _ in range(rungs - 1):
        onward = best[:, :count, None] + found.step[:count]
        came.append(np.argmin(onward, axis=0))
        best = np.min(onward, axis=0)
    places, after = [int(np.argmin(best[:, count]))], count
    total = float(best[places[0], count])
    for before in reversed(came):
        places, after = [int(before[places[0], after]), *places], places[0]
    return places, total


def errors(solver: Sampler, known: Reference, ladders: Sequence[Ladder]) -> Float[np.ndarray, " n"]:
    """|x0_walked - x0| along ladders within the grid, all of as many rungs, by the linearised denoiser."""
    ends = _ends(known, jnp.asarray(np.stack(ladders), jnp.float32), solver=solver)
    return np.asarray(jax.vmap(_norm)(ends), np.float64)


def refined(
    solver: Sampler, known: Reference, ladders: Sequence[Ladder], *, begin_below: bool = True, rounds: int = 40
) -> Ladder:
    """The ladder of least error (see `errors`) that quasi-Newton steps (L-BFGS-B) lead to from any of these, all of as
    many rungs. The variables are ln of the first rung and of the ratios' logarithms. begin_below: whether the first
    rung moves.
    """
    logs = np.log(np.asarray(known.sigmas, np.float64))
    high, low = logs[0], logs[-1]

    def made(at: np.ndarray) -> np.ndarray:
        falling = at[..., :1] - np.concatenate(
            [np.zeros_like(at[..., :1]), np.cumsum(np.exp(at[..., 1:]), axis=-1)], axis=-1
        )
        # Below the grid's end all ratios shrink alike.
        room = np.maximum(falling[..., :1] - low, LEAST_GAP)
        depth = np.maximum((falling[..., :1] - falling[..., -1:]) / room, 1.0)
        rungs = np.exp(falling[..., :1] + (falling - falling[..., :1]) / depth)
        return np.concatenate([rungs, np.zeros_like(rungs[..., :1])], axis=-1)

    def objective(at: np.ndarray) -> tuple[float, np.ndarray]:
        """ln |error|^2 and its gradient."""
        shifts = CHANGE * np.eye(len(at))
        around = np.concatenate([at[None], at + shifts, at - shifts])
        walked = np.asarray(_ends(known, jnp.asarray(made(around), jnp.float32), solver=solver), np.float64)
        walked = walked.reshape(len(around), -1)
        here, up, down = walked[0], walked[1 : len(at) + 1], walked[len(at) + 1 :]
        square = max(float(here @ here), TINY)
        return float(np.log(square)), (up - down) @ here / CHANGE / square

    best, least = ladders[0], np.inf
    for ladder in ladders:
        rungs = np.log(np.asarray(ladder[:-1], np.float64))
        gaps = np.maximum(-np.diff(rungs), LEAST_GAP)
        at = np.append(min(rungs[0], high), np.log(gaps))
        # The first rung is no higher than where its derivative stays within the grid.
        first = (low + LEAST_GAP, max(high - CHANGE, at[0])) if begin_below else (at[0], at[0])
        ratios = (np.log(LEAST_GAP), np.log(high - low))
        found = scipy.optimize.minimize(
            objective,
            at,
            jac=True,
            method="L-BFGS-B",
            bounds=[first, *[ratios] * len(gaps)],
            options={"maxiter": rounds},
        )
        if np.isfinite(found.fun) and found.fun < least:
            best, least = made(found.x), found.fun
    return best


def ladder(
    solver: Sampler, known: Reference, rungs: int, *, begin_below: bool = True, of: Costs | None = None
) -> Ladder:
    """The free ladder [N + 1] of a deterministic solver: the shortest path, refined. of: the costs, where they are
    known already.
    """
    places, _ = shortest(of or costs(solver, known, begin_below=begin_below), rungs)
    grid = np.asarray(known.sigmas, np.float64)
    # Where errors of either sign cancel there are several nearest ladders: these lead to some more of them.
    ends = {"sigma_max": grid[0], "sigma_min": max(grid[-1], LEAST_END * grid[0])}
    others = [karras(rungs, **ends, rho=rho) for rho in (3.0, 7.0)] if rungs > 1 else []
    return refined(solver, known, [np.append(grid[places], 0.0), *others], begin_below=begin_below)


@jax.jit
def _starts(known: Reference) -> Float[Array, " rungs"]:
    return jax.vmap(lambda std, x, weight: _norm(weight * (std * known.noise - x)))(
        known.prior_std, known.x[:-1], _weights(known)[:-1]
    )


@partial(jax.jit, static_argnames="solver")
def _steps(known: Reference, p: Array, i: Array, *, solver: Sampler) -> Float[Array, " grid"]:
    """The costs of the steps from i to every sigma, after the rung p."""
    keys, sigmas, weights = _no_keys(known.noise), jnp.append(known.sigmas, 0.0), _weights(known)

    def answer(x: Array, sigma: Sigma, to: Sigma | None = None) -> Denoised:
        x0 = _between(known, known.x0, sigma)
        return Denoised(x0=x0, x0_dir=x0)

    fresh = carry = solver.init(known.x[i], keys)
    if solver.remembers:
        _, after = solver.step(answer, solver.init(known.x[p], keys), known.x[p], sigmas[p], sigmas[i], keys)
        carry = jax.tree.map(lambda a, b: jnp.where(p < i, a, b), after, fresh)

    def of_step(j: Array) -> Array:
        x, _ = solver.step(answer, carry, known.x[i], sigmas[i], sigmas[j], keys)
        return _norm(weights[j] * (x - known.x[j]))

    return jax.lax.map(of_step, jnp.arange(len(sigmas)))


@partial(jax.jit, static_argnames="solver")
def _ends(known: Reference, ladders: Float[Array, "n rungs"], *, solver: Sampler) -> Float[Array, "n b ..."]:
    """x0_walked - x0 along each ladder, by the linearised denoiser."""
    keys, slopes = _no_keys(known.noise), _slopes(known)

    def linearised(x: Array, sigma: Sigma, cond: Cond, to: Sigma | None = None) -> Denoised:
        x0 = _between(known, known.x0, sigma)
        x0 += _between(known, slopes, sigma) * (x - _between(known, known.x[:-1], sigma))
        return Denoised(x0=x0, x0_dir=x0)

    def of_ladder(sigmas: Array) -> Array:
        begin = _between(known, known.prior_std, sigmas[0]) * known.noise
        return drivers.scan(solver, linearised, begin, sigmas, {}, keys).x0 - known.x[-1]

    return jax.lax.map(of_ladder, ladders)


def _between(known: Reference, values: Float[Array, "rungs ..."], sigma: Array) -> Array:
    """Values of the grid at any sigma within, by Catmull and Rom's cubic in ln sigma."""
    count = len(known.sigmas)
    logs = jnp.log(known.sigmas)
    place = jnp.clip((logs[0] - jnp.log(sigma)) / (logs[0] - logs[-1]) * (count - 1), 0.0, count - 1.0)
    k = jnp.clip(place.astype(int), 0, count - 2)
    t = place - k
    b, c = values[k], values[k + 1]
    a = jnp.where(k > 0, values[jnp.maximum(k - 1, 0)], 2 * b - c)
    d = jnp.where(k < count - 2, values[jnp.minimum(k + 2, count - 1)], 2 * c - b)
    return b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def _weights(known: Reference) -> Float[Array, "grid 1 ..."]:
    """std(x(0)) / std(x(s)) over trajectories."""
    deviations = jnp.std(known.x, axis=1, keepdims=True)
    return deviations[-1:] / jnp.maximum(deviations, TINY)


def _slopes(known: Reference) -> Float[Array, "rungs 1 ..."]:
    """cov(D(s), x(s)) / var(x(s)) over trajectories."""
    x, x0 = (values - jnp.mean(values, axis=1, keepdims=True) for values in (known.x[:-1], known.x0))
    return jnp.mean(x * x0, axis=1, keepdims=True) / jnp.maximum(jnp.mean(x**2, axis=1, keepdims=True), TINY)


def _no_keys(noise: Array) -> Array:
    """For solvers that draw nothing."""
    return jax.vmap(jax.random.key)(jnp.zeros(len(noise), jnp.uint32))


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.mean(x**2))

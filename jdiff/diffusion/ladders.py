"""Ladders: the sigmas that a sampler visits, falling, N rungs and then 0 (alpha-bar 1): [N + 1] float64.

karras       sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho
logsnr       sigma_i = sigma_max (sigma_min/sigma_max)^(i/(N-1)), uniform in ln SNR = -2 ln sigma
flow         sigma_i = shift t/(1 - t), t falling to 0 in N equal steps from sigma_max's
uniform      the schedule's own time, likewise
by_hand      the sigmas given

and subsequences of a table's steps 0 .. T-1:

leading      t = 0, c, 2c, ... with c = T // N            (DDIM's and DDPM's own code)
trailing     t = T-1, T-1 - T/N, ...                       (Lin et al., arXiv 2305.08891)
linspace     t from 0 to T-1 in N equal steps, both ends
quadratic    sqrt(t) from 0 to sqrt(T-1) in equal steps    (Song et al., arXiv 2010.02502, appendix D.2)
exponential  ln(t + 1) from 0 to ln T in equal steps
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jdiff.diffusion.schedules import Schedule
from jdiff.diffusion.tables import DDPMTable

Ladder = Float[np.ndarray, " rungs"]


def karras(steps: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Ladder:
    """Karras et al., arXiv 2206.00364, eq. 5; exact at both ends. One step visits sigma_max alone."""
    ramp = np.linspace(0.0, 1.0, steps)
    rungs = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return _with_ends(rungs, sigma_min, sigma_max)


def logsnr(steps: int, *, sigma_min: float, sigma_max: float) -> Ladder:
    """Lu et al., arXiv 2206.00927, section 3.4; exact at both ends. One step visits sigma_max alone."""
    return _with_ends(np.geomspace(sigma_max, sigma_min, steps), sigma_min, sigma_max)


def flow(steps: int, *, sigma_max: float, shift: float = 1.0) -> Ladder:
    """Equal steps of a flow's time; shift > 1 moves them to higher noise (Esser et al., arXiv 2403.03206, eq. 23)."""
    t = sigma_max / (shift + sigma_max) * (1 - np.arange(steps) / steps)
    rungs = shift * t / (1 - t)
    rungs[0] = sigma_max
    return np.append(rungs, 0.0)


def uniform(steps: int, schedule: Schedule, *, sigma_max: float) -> Ladder:
    """Equal steps of the schedule's own time, from sigma_max's to 0 without it."""
    last = float(schedule.time(jnp.asarray(float(sigma_max))))
    rungs = np.asarray(schedule.sigma(jnp.asarray(last * (1 - np.arange(steps) / steps))), np.float64)
    rungs[0] = sigma_max
    return np.append(rungs, 0.0)


def by_hand(sigmas: Sequence[float]) -> Ladder:
    """The sigmas themselves, and 0 if it is not the last: ValueError unless they fall and are above 0."""
    rungs = np.asarray(sigmas, np.float64)
    rungs = rungs if rungs.size and rungs[-1] == 0 else np.append(rungs, 0.0)
    if len(rungs) < 2 or not np.isfinite(rungs).all() or not (np.diff(rungs) < 0).all():
        raise ValueError(f"{tuple(sigmas)} must be numbers that fall and stay above 0 (a last 0 may be left out)")
    return rungs


def leading(steps: int, table: DDPMTable) -> Ladder:
    """Every (T // N)-th step of the table, from step 0 up: never visits the last one unless N = T."""
    return _of_steps(np.arange(steps) * (len(table.betas) // steps), table)


def trailing(steps: int, table: DDPMTable) -> Ladder:
    """Steps counted back from T-1: round(T - i T/N) - 1 (Lin et al., arXiv 2305.08891, table 2)."""
    T = len(table.betas)
    return _of_steps(np.round(T - np.arange(steps) * T / steps).astype(int) - 1, table)


def linspace(steps: int, table: DDPMTable) -> Ladder:
    """N steps from T-1 to 0 in equal distances, rounded."""
    return _of_steps(np.round(np.linspace(len(table.betas) - 1, 0, steps)).astype(int), table)


def quadratic(steps: int, table: DDPMTable) -> Ladder:
    """N steps, denser towards the image: t_i = (i/(N-1))^2 (T-1), rounded, each above the one before."""
    return _of_steps(_apart(np.linspace(0.0, 1.0, steps) ** 2 * (len(table.betas) - 1), table), table)


def exponential(steps: int, table: DDPMTable) -> Ladder:
    """N steps, denser still: t_i = T^(i/(N-1)) - 1, rounded, each above the one before."""
    return _of_steps(_apart(len(table.betas) ** np.linspace(0.0, 1.0, steps) - 1, table), table)


def _with_ends(rungs: np.ndarray, sigma_min: float, sigma_max: float) -> Ladder:
    if len(rungs) > 1:
        rungs[-1] = sigma_min
    rungs[0] = sigma_max
    return np.append(rungs, 0.0)


def _apart(rising: np.ndarray, table: DDPMTable) -> np.ndarray:
    """Rising times as steps of the table, no two the same: a step that is taken already gives way to the next."""
    if len(rising) == 1:
        return np.array([len(table.betas) - 1])
    steps = np.round(rising).astype(int)
    return np.maximum.accumulate(steps - np.arange(len(steps))) + np.arange(len(steps))


def _of_steps(t: np.ndarray, table: DDPMTable) -> Ladder:
    return np.append(table.sigmas[np.sort(t)[::-1]], 0.0)

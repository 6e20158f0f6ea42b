"""Ladders: the sigmas that a sampler visits, falling, N rungs and then 0 (alpha-bar 1): [N + 1] float64."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jdiff.diffusion.schedules import Schedule
from jdiff.diffusion.tables import DDPMTable

Ladder = Float[np.ndarray, " rungs"]


def karras(steps: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Ladder:
    """sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho (Karras et al., arXiv
    2206.00364, eq. 5), exact at both ends. One step visits sigma_max alone.

    >>> karras(4, sigma_min=0.1, sigma_max=10.0).round(2).tolist()
    [10.0, 2.93, 0.66, 0.1, 0.0]
    """
    ramp = np.linspace(0.0, 1.0, steps)
    rungs = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return _with_ends(rungs, sigma_min, sigma_max)


def logsnr(steps: int, *, sigma_min: float, sigma_max: float) -> Ladder:
    """sigma_i = sigma_max (sigma_min/sigma_max)^(i/(N-1)), uniform in ln SNR = -2 ln sigma (Lu et al., arXiv
    2206.00927, section 3.4), exact at both ends. One step visits sigma_max alone.

    >>> logsnr(4, sigma_min=0.1, sigma_max=100.0).tolist()
    [100.0, 10.0, 1.0, 0.1, 0.0]
    """
    return _with_ends(np.geomspace(sigma_max, sigma_min, steps), sigma_min, sigma_max)


def flow(steps: int, *, sigma_max: float, shift: float = 1.0) -> Ladder:
    """sigma_i = shift t/(1 - t), t falling to 0 in N equal steps from sigma_max's; shift > 1 moves them to higher noise
    (Esser et al., arXiv 2403.03206, eq. 23).
    """
    t = sigma_max / (shift + sigma_max) * (1 - np.arange(steps) / steps)
    rungs = shift * t / (1 - t)
    rungs[0] = sigma_max
    return np.append(rungs, 0.0)


def uniform(steps: int, schedule: Schedule, *, sigma_max: float) -> Ladder:
    """sigma_i = sigma(t), the schedule's own time t falling to 0 in N equal steps from sigma_max's."""
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


def leading(steps: int, table: DDPMTable, offset: int = 0) -> Ladder:
    """Steps t = offset + (0, c, 2c, ...) of the table, c = T // N: never its last unless N = T (the code of DDPM and
    DDIM, and of Stable Diffusion with offset 1). Raises ValueError where the table has no such step.
    """
    t = offset + np.arange(steps) * (len(table.betas) // steps)
    if t[-1] >= len(table.betas):
        raise ValueError(f"step {t[-1]} is none of the table's {len(table.betas)}")
    return _of_steps(t, table)


def trailing(steps: int, table: DDPMTable) -> Ladder:
    """Steps t_i = round(T - i T/N) - 1 of the table, counted back from T-1 (Lin et al., arXiv 2305.08891, table 2)."""
    T = len(table.betas)
    return _of_steps(np.round(T - np.arange(steps) * T / steps).astype(int) - 1, table)


def linspace(steps: int, table: DDPMTable) -> Ladder:
    """Steps t_i = (1 - i/(N-1)) (T-1) of the table, rounded: both ends."""
    return _of_steps(np.round(np.linspace(len(table.betas) - 1, 0, steps)).astype(int), table)


def quadratic(steps: int, table: DDPMTable) -> Ladder:
    """Steps t_i = (i/(N-1))^2 (T-1) of the table, rounded, no two the same (Song et al., arXiv 2010.02502, appendix
    D.2).
    """
    return _of_steps(_apart(np.linspace(0.0, 1.0, steps) ** 2 * (len(table.betas) - 1), table), table)


def exponential(steps: int, table: DDPMTable) -> Ladder:
    """Steps t_i = T^(i/(N-1)) - 1 of the table, rounded, no two the same."""
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

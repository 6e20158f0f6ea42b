"""Ladders: the sigmas that a sampler visits, falling, N rungs and then 0 (alpha-bar 1): [N + 1] float64.

karras     sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho
leading    t = 0, c, 2c, ... with c = T // N            (DDIM's and DDPM's own code)
trailing   t = T-1, T-1 - T/N, ...                       (Lin et al., arXiv 2305.08891)
linspace   t from 0 to T-1 in N equal steps, both ends
"""

import numpy as np
from jaxtyping import Float

from jdiff.diffusion.schedules import DDPMTable

Ladder = Float[np.ndarray, " rungs"]


def karras(steps: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Ladder:
    """Karras et al., arXiv 2206.00364, eq. 5; exact at both ends. One step visits sigma_max alone."""
    ramp = np.linspace(0.0, 1.0, steps)
    rungs = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    if steps > 1:
        rungs[-1] = sigma_min
    rungs[0] = sigma_max
    return np.append(rungs, 0.0)


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


def _of_steps(t: np.ndarray, table: DDPMTable) -> Ladder:
    return np.append(table.sigmas[np.sort(t)[::-1]], 0.0)

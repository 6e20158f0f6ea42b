"""Annealed Langevin dynamics (Song & Ermon, arXiv 1907.05600, algorithm 1), one or more moves a rung.

    x <- x + (r sigma^2 / 2) score + sqrt(r) sigma z,    score = (D(x, sigma) - x) / sigma^2

r is the step in units of sigma^2. The moves are made at the rung's sigma, then the walk goes on to the next; the last
rung's call answers with D itself.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdiff.common.keys import folded, normal
from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class Langevin(Sampler):
    r: float = 0.25
    corrector_steps: int = 1

    order = 0
    random = True
    arrives = False

    def init(self, x, keys):
        return ()

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        def move(index, x):
            return langevin_step(denoise, x, sigma, self.r, folded(keys, index))

        return jax.lax.cond(
            sigma_next > 0,
            lambda: jax.lax.fori_loop(0, self.corrector_steps, move, x),
            lambda: denoise(x, sigma).x0,
        ), carry

    def nfe(self, steps: int) -> int:
        return self.corrector_steps * (steps - 1) + 1


def langevin_step(denoise, x, sigma, r, keys):
    return x + r / 2 * (denoise(x, sigma).x0 - x) + jnp.sqrt(jnp.asarray(r, x.dtype)) * sigma * normal(keys, x)

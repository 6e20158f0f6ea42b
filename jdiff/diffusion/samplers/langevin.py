"""Annealed Langevin dynamics."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdiff.common.keys import folded, normal
from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class Langevin(Sampler):
    """`corrector_steps` times at each rung (Song & Ermon, arXiv 1907.05600, algorithm 1):

        x <- x + (r s^2 / 2) score + sqrt(r) s z,    score = (D(x, s) - x) / s^2

    r is the step size in units of s^2. Then the walk goes on to the next rung; the last, to sigma = 0, answers D.
    """

    r: float = 0.25
    corrector_steps: int = 1

    order = 0
    random = True
    arrives = False

    def init(self, x, keys):
        return ()

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        def langevin(index, x):
            return langevin_step(denoise, x, sigma, self.r, folded(keys, index))

        return jax.lax.cond(
            sigma_next > 0,
            lambda: jax.lax.fori_loop(0, self.corrector_steps, langevin, x),
            lambda: denoise(x, sigma).x0,
        ), carry

    def nfe(self, steps: int) -> int:
        return self.corrector_steps * (steps - 1) + 1


def langevin_step(denoise, x, sigma, r, keys):
    """x + (r sigma^2 / 2) score + sqrt(r) sigma z."""
    return x + r / 2 * (denoise(x, sigma).x0 - x) + jnp.sqrt(jnp.asarray(r, x.dtype)) * sigma * normal(keys, x)

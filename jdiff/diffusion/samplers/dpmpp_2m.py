"""DPM-Solver++(2M)."""

from dataclasses import dataclass

import jax.numpy as jnp

from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class DPMpp2M(Sampler):
    """Two-step, second order (Lu et al., arXiv 2211.01095, algorithm 2). With h = ln(s / s') and h_1 the step before, D
    and D_1 their denoised images:

        D_mid = D + h / (2 h_1) (D - D_1)          D extrapolated to the middle of the step
        x'    = (s' / s) x + (1 - s' / s) D_mid

    The first step, and the last to sigma = 0, are Euler's.

    >>> DPMpp2M().nfe(18), DPMpp2M().order
    (18, 2)
    """

    order = 2
    remembers = True

    def init(self, x, keys):
        return jnp.zeros_like(x), jnp.full((), jnp.inf, x.dtype)  # D_1 and its sigma: an infinite step weighs nothing

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        x0_1, sigma_1 = carry
        x0 = denoise(x, sigma).x0
        h, h_1 = jnp.log(sigma / sigma_next), jnp.log(sigma_1 / sigma)
        x0_mid = x0 + jnp.where(sigma_next > 0, h / (2 * h_1), 0.0) * (x0 - x0_1)
        x_next = x0_mid + sigma_next / sigma * (x - x0_mid)
        return x_next, (x0, sigma)

    def nfe(self, steps: int) -> int:
        return steps

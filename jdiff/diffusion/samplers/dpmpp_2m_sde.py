"""SDE-DPM-Solver++(2M)."""

from dataclasses import dataclass

import jax.numpy as jnp

from jdiff.diffusion import brownian
from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class DPMpp2MSDE(Sampler):
    """Two-step, second order, with noise along a Brownian path (Lu et al., arXiv 2211.01095, section 5). With
    h = ln(s / s') and h_1 the step before; eta = 1 is the reverse SDE, eta = 0 DPM-Solver++(2M):

        D_mid = D + h / (2 h_1) (D - D_1)
        x'    = (s'/s)^(1 + eta) x + (1 - (s'/s)^(1 + eta)) D_mid + s' sqrt(1 - (s'/s)^(2 eta)) z

    The first step, and the last to sigma = 0, are of first order.
    """

    eta: float = 1.0

    order = 2
    remembers = True

    @property
    def random(self) -> bool:
        return self.eta > 0

    def init(self, x, keys):
        return jnp.zeros_like(x), jnp.full((), jnp.inf, x.dtype), keys

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        x0_1, sigma_1, path = carry
        x0 = denoise(x, sigma).x0
        h, h_1 = jnp.log(sigma / sigma_next), jnp.log(sigma_1 / sigma)
        x0_mid = x0 + jnp.where(sigma_next > 0, h / (2 * h_1), 0.0) * (x0 - x0_1)
        ratio = sigma_next / sigma
        x_next = x0_mid + ratio ** (1 + self.eta) * (x - x0_mid)
        if self.eta:
            x_next += sigma_next * jnp.sqrt(1 - ratio ** (2 * self.eta)) * brownian.noise(path, x, sigma, sigma_next)
        return x_next, (x0, sigma, path)

    def nfe(self, steps: int) -> int:
        return steps

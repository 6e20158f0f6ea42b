"""SDE-DPM-Solver++(2S)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdiff.diffusion import brownian
from jdiff.diffusion.samplers.ancestral import split
from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class DPMppSDE(Sampler):
    """Single-step, second order, with noise along a Brownian path (Lu et al., arXiv 2211.01095, section 5, r = 1/2; the
    form of k-diffusion's "DPM-Solver++ (stochastic)"). With s_mid = sqrt(s s') and the ancestral splits of s -> s_mid
    and s -> s':

        x_mid = (mid_down / s) x + (1 - mid_down / s) D(x, s) + mid_up z_mid
        x'    = (s_down / s) x + (1 - s_down / s) D(x_mid, s_mid) + s_up z

    The last step, to sigma = 0, is Euler's: N rungs cost 2N - 1 denoiser calls.
    """

    eta: float = 1.0

    order = 2
    remembers = True

    @property
    def random(self) -> bool:
        return self.eta > 0

    def init(self, x, keys):
        return keys

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        path = carry
        x0 = denoise(x, sigma).x0

        def towards(sigma_end, x0):
            down, up = split(sigma, sigma_end, self.eta)
            x_end = x0 + down / sigma * (x - x0)
            return x_end + up * brownian.noise(path, x, sigma, sigma_end) if self.eta else x_end

        def second_order():
            sigma_mid = jnp.sqrt(sigma * sigma_next)
            x_mid = towards(sigma_mid, x0)
            return towards(sigma_next, denoise(x_mid, sigma_mid).x0)

        return jax.lax.cond(sigma_next > 0, second_order, lambda: x0), carry

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1

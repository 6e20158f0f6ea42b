"""DPM-Solver++(2S) with ancestral noise."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdiff.common.keys import normal
from jdiff.diffusion.samplers.ancestral import split
from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class DPMpp2SAncestral(Sampler):
    """Single-step, second order (Lu et al., arXiv 2211.01095, algorithm 1, r = 1/2). With (s_down, s_up) the ancestral
    split of s -> s':

        x_mid = (s_mid / s) x + (1 - s_mid / s) D(x, s),    s_mid = sqrt(s s_down)
        x'    = (s_down / s) x + (1 - s_down / s) D(x_mid, s_mid) + s_up z

    The last step, to sigma = 0, is Euler's: N rungs cost 2N - 1 denoiser calls.
    """

    eta: float = 1.0

    order = 2

    @property
    def random(self) -> bool:
        return self.eta > 0

    def init(self, x, keys):
        return ()

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        x0 = denoise(x, sigma).x0
        sigma_down, sigma_up = split(sigma, sigma_next, self.eta)

        def second_order():
            sigma_mid = jnp.sqrt(sigma * sigma_down)
            x_mid = x0 + sigma_mid / sigma * (x - x0)
            x0_mid = denoise(x_mid, sigma_mid).x0
            return x0_mid + sigma_down / sigma * (x - x0_mid) + sigma_up * normal(keys, x)

        return jax.lax.cond(sigma_next > 0, second_order, lambda: x0), carry

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1

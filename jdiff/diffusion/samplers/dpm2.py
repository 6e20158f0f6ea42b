"""DPM-Solver-2."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class DPM2(Sampler):
    """The midpoint rule, the middle half way in ln sigma (Karras et al., arXiv 2206.00364, algorithm 3, with the middle
    of Lu et al., arXiv 2206.00927, algorithm 1):

        d     = (x - D(x, s)) / s
        x_mid = x + (s_mid - s) d,    s_mid = sqrt(s s')
        x'    = x + (s' - s) (x_mid - D(x_mid, s_mid)) / s_mid

    The last step, to sigma = 0, is Euler's: N rungs cost 2N - 1 denoiser calls.
    """

    order = 2

    def init(self, x, keys):
        return ()

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        x0 = denoise(x, sigma).x0
        d = (x - x0) / sigma

        def midpoint():
            sigma_mid = jnp.sqrt(sigma * sigma_next)
            x_mid = x + (sigma_mid - sigma) * d
            d_mid = (x_mid - denoise(x_mid, sigma_mid).x0) / sigma_mid
            return x + (sigma_next - sigma) * d_mid

        return jax.lax.cond(sigma_next > 0, midpoint, lambda: x0), carry

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1

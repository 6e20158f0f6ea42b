"""The probability-flow ODE by an adaptive solver."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdiff.common.arrays import per_image
from jdiff.diffusion.adaptive import integrate
from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class ODE(Sampler):
    """dx/dsigma = (x - D(x, sigma)) / sigma from rung to rung by RK45 (Song et al., arXiv 2011.13456, section 4.3;
    diffusion.adaptive).

    An image's step sizes follow its own error, so the number of denoiser calls is known afterwards: the carry counts
    them. The last step, to sigma = 0, is Euler's.
    """

    rtol: float = 1e-3
    atol: float = 1e-3

    order = 5
    remembers = True

    def init(self, x, keys):
        return jnp.zeros((), jnp.int32)  # denoiser calls so far

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        def slope(flat, sigma):
            x_now = flat.reshape(x.shape)
            return ((x_now - denoise(x_now, sigma).x0) / per_image(sigma, x)).reshape(flat.shape)

        def solve():
            flat, calls = integrate(slope, x.reshape(x.shape[0], -1), sigma, sigma_next, rtol=self.rtol, atol=self.atol)
            return flat.reshape(x.shape), calls

        x_next, calls = jax.lax.cond(sigma_next > 0, solve, lambda: (denoise(x, sigma).x0, jnp.ones((), jnp.int32)))
        return x_next, carry + calls

    def nfe(self, steps: int) -> None:
        return None

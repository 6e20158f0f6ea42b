"""DDIM, and with it Euler, DDPM and ancestral Euler (Song et al., arXiv 2010.02502, eq. 12, in sigma coordinates).

With s > s' two neighbouring rungs and x0 = D(x, s):

    s_up   = eta s' sqrt(1 - s'^2 / s^2)
    s_down = sqrt(s'^2 - s_up^2)
    x'     = x0 + (s_down / s) (x - x0_dir) + s_up z

eta = 0 is DDIM and the Euler step of the probability-flow ODE; eta = 1 is DDPM with the posterior ("small") variance
and ancestral Euler.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from jdiff.common.keys import normal


@dataclass(frozen=True, kw_only=True)
class DDIM:
    eta: float = 0.0

    def init(self, x):
        return ()

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        denoised = denoise(x, sigma)
        ratio = sigma_next / sigma
        sigma_up = self.eta * sigma_next * jnp.sqrt(1 - ratio**2)
        # sqrt(s'^2 - s_up^2), in a form that rounding cannot make imaginary on a long step.
        sigma_down = sigma_next * jnp.sqrt((1 - self.eta**2) + (self.eta * ratio) ** 2)
        x_next = denoised.x0 + sigma_down / sigma * (x - denoised.x0_dir)
        if self.eta:
            x_next += sigma_up * normal(keys, x)
        return x_next, carry

    def nfe(self, steps: int) -> int:
        return steps

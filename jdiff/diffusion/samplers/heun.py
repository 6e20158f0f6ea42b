"""Heun's method with churn."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdiff.common.keys import normal
from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class Heun(Sampler):
    """Algorithm 2 of Karras et al. (arXiv 2206.00364); without churn, algorithm 1:

        s_hat   = s + gamma s,    x_hat = x + sqrt(s_hat^2 - s^2) s_noise z
        d       = (x_hat - D(x_hat, s_hat)) / s_hat
        x_euler = x_hat + (s' - s_hat) d
        x'      = x_hat + (s' - s_hat) (d + (x_euler - D(x_euler, s')) / s') / 2

    gamma = min(s_churn / N, sqrt(2) - 1) where s_min <= s <= s_max, 0 elsewhere; `steps` is N, which matters with churn
    alone. The last step, to sigma = 0, is Euler's: N rungs cost 2N - 1 denoiser calls.

    >>> Heun().nfe(18)
    35
    """

    steps: int = 1
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    order = 2

    @property
    def random(self) -> bool:
        return self.s_churn > 0

    def init(self, x, keys):
        return ()

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        sigma_hat, x_hat = sigma, x
        if self.s_churn > 0:
            churned = (sigma >= self.s_min) & (sigma <= self.s_max)
            gamma = jnp.where(churned, min(self.s_churn / self.steps, math.sqrt(2) - 1), 0.0)
            sigma_hat = sigma + gamma * sigma
            # sqrt(sigma_hat^2 - sigma^2), in a form that rounding cannot make imaginary where gamma is 0.
            added = sigma * jnp.sqrt(gamma * (2 + gamma))
            x_hat = x + added * self.s_noise * normal(keys, x)

        d = (x_hat - denoise(x_hat, sigma_hat).x0) / sigma_hat
        x_euler = x_hat + (sigma_next - sigma_hat) * d

        def correct(x_next):
            d_next = (x_next - denoise(x_next, sigma_next).x0) / sigma_next
            return x_hat + (sigma_next - sigma_hat) * (d + d_next) / 2

        return jax.lax.cond(sigma_next > 0, correct, lambda x_next: x_next, x_euler), carry

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1

"""DDPM with the large or the learned variance."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from jdiff.common.keys import normal
from jdiff.diffusion.samplers.sampler import Sampler
from jdiff.diffusion.variational import large_variance, learned_variance


@dataclass(frozen=True, kw_only=True)
class DDPM(Sampler):
    """With x0 = D(x, s), the posterior's mean and one of two variances, none on the last step (Ho et al., arXiv
    2006.11239, section 3.2; Nichol & Dhariwal, arXiv 2102.09672, section 3.1):

        x' = x0 + (s'/s)^2 (x - x0_dir) + sqrt(variance) z
        large:    (1 + s'^2) / (1 + s^2) (s^2 - s'^2)
        learned:  between the posterior's and the large one, as the model predicts (diffusion.variational)

    With the posterior's ("small") variance this is DDIM at eta = 1.
    """

    variance: Literal["large", "learned"] = "large"

    order = 1
    random = True

    def init(self, x, keys):
        return ()

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        denoised = denoise(x, sigma)
        mean = denoised.x0 + (sigma_next / sigma) ** 2 * (x - denoised.x0_dir)
        if self.variance == "learned":
            variance = learned_variance(denoised.variance, sigma, sigma_next, first=jnp.ones_like(sigma))
        else:
            variance = large_variance(sigma, sigma_next)
        noisy = mean + jnp.sqrt(variance) * normal(keys, x)
        return jnp.where(sigma_next > 0, noisy, mean), carry

    def nfe(self, steps: int) -> int:
        return steps

"""DDIM; with it Euler, DDPM of small variance, ancestral Euler and jumps of flow maps."""

from dataclasses import dataclass

from jdiff.common.keys import normal
from jdiff.diffusion.samplers.ancestral import split
from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class DDIM(Sampler):
    """With x0 = D(x, s) and (s_down, s_up) the ancestral split of s -> s' (Song et al., arXiv 2010.02502, eq. 12, in
    sigma coordinates):

        x' = x0 + (s_down / s) (x - x0_dir) + s_up z

    eta = 0 is DDIM and the Euler step of the probability-flow ODE; eta = 1 is DDPM with the posterior ("small")
    variance and ancestral Euler. jumps: x0 = D(x, s, s_down), so that at eta = 0 the step ends where the flow does.

    >>> DDIM().random, DDIM(eta=1.0).random
    (False, True)
    """

    eta: float = 0.0
    jumps: bool = False

    order = 1

    @property
    def random(self) -> bool:
        return self.eta > 0

    def init(self, x, keys):
        return ()

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        sigma_down, sigma_up = split(sigma, sigma_next, self.eta)
        denoised = denoise(x, sigma, to=sigma_down if self.jumps else None)
        x_next = denoised.x0 + sigma_down / sigma * (x - denoised.x0_dir)
        if self.eta:
            x_next += sigma_up * normal(keys, x)
        return x_next, carry

    def nfe(self, steps: int) -> int:
        return steps

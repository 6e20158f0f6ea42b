"""A predictor-corrector sampler."""

from dataclasses import dataclass

import jax

from jdiff.common.keys import folded, named
from jdiff.diffusion.samplers.ddim import DDIM
from jdiff.diffusion.samplers.langevin import langevin_step
from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class PredictorCorrector(Sampler):
    """An ancestral step to the next rung, then Langevin steps there (Song et al., arXiv 2011.13456, appendix G,
    algorithm 1):

        x <- D + (s'/s)^2 (x - D) + s_up z                       predictor, DDIM at eta = 1
        x <- x + (r/2) (D(x, s') - x) + sqrt(r) s' z             corrector, `corrector_steps` times

    r is the paper's step size in units of s'^2, 4 snr^2 with its signal-to-noise ratio (0.16 gives r = 0.1). The last
    step, to sigma = 0, has no corrector: N rungs cost N + corrector_steps (N - 1) denoiser calls.
    """

    r: float = 0.1
    corrector_steps: int = 1

    order = 0
    random = True

    def init(self, x, keys):
        return ()

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        predicted, _ = DDIM(eta=1.0).step(denoise, (), x, sigma, sigma_next, keys)

        def correct(index, x):
            return langevin_step(denoise, x, sigma_next, self.r, folded(named(keys, "corrector"), index))

        return jax.lax.cond(
            sigma_next > 0, lambda: jax.lax.fori_loop(0, self.corrector_steps, correct, predicted), lambda: predicted
        ), carry

    def nfe(self, steps: int) -> int:
        return steps + self.corrector_steps * (steps - 1)

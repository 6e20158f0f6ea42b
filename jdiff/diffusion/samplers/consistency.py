"""The sampler of consistency models: to the end, and up again."""

from dataclasses import dataclass

from jdiff.common.keys import normal
from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class Consistency(Sampler):
    """From s to 0 in one jump, and back up to s' by fresh noise (Song et al., arXiv 2303.01469, algorithm 1):

        x' = D(x, s, 0) + s' z

    It asks for the flow's end alone, which all flow maps know.
    """

    order = 0
    random = True
    jumps = True
    lands = True

    def init(self, x, keys):
        return ()

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        return denoise(x, sigma, to=0.0 * sigma).x0 + sigma_next * normal(keys, x), carry

    def nfe(self, steps: int) -> int:
        return steps

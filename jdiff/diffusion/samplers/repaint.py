"""RePaint: inpainting with any sampler whose step stands alone (Lugmayr et al., arXiv 2201.09865)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jdiff.common.keys import folded, named, normal
from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True, eq=False)
class RePaint(Sampler):
    """Algorithm 1 of arXiv 2201.09865: each step is made `repeats` times,

        x'_known   = image + s' z
        x'_unknown = sampler's step from x
        x'         = mask x'_unknown + (1 - mask) x'_known
        x          = x' + sqrt(s^2 - s'^2) z                 before the step is made again

    so that known and unknown come to agree. image [B, ...]; mask, true where to paint, of a shape that broadcasts to
    the image's. ValueError for a sampler that remembers other steps or does not arrive at s'.
    """

    sampler: Sampler
    image: Float[Array, "b ..."]
    mask: Bool[Array, "..."]
    repeats: int = 1

    random = True

    def __post_init__(self):
        if self.sampler.remembers or not self.sampler.arrives:
            raise ValueError(f"{self.sampler} does not repaint: it must arrive at each rung and remember none")
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats} must be at least 1")

    @property
    def order(self) -> int:
        return self.sampler.order

    @property
    def jumps(self) -> bool:
        return self.sampler.jumps

    @property
    def lands(self) -> bool:
        return self.sampler.lands

    def init(self, x, keys):
        return self.sampler.init(x, keys)

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        def paint(x, keys):
            unknown, _ = self.sampler.step(denoise, carry, x, sigma, sigma_next, keys)
            known = self.image + sigma_next * normal(named(keys, "project"), x)
            return jnp.where(self.mask, unknown, known)

        def paint_again(x, number):
            again = folded(named(keys, "repeat"), number)
            back_up = jnp.sqrt(jnp.maximum(sigma**2 - sigma_next**2, 0.0))
            return paint(x + back_up * normal(named(again, "back up"), x), again), None

        x = paint(x, keys)
        if self.repeats > 1:
            x, _ = jax.lax.scan(paint_again, x, jnp.arange(self.repeats - 1))
        return x, carry

    def nfe(self, steps: int) -> int | None:
        calls = self.sampler.nfe(steps)
        return None if calls is None else self.repeats * calls

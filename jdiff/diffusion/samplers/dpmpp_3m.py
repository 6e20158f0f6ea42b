"""DPM-Solver++(3M)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class DPMpp3M(Sampler):
    """Three-step, third order (Lu et al., arXiv 2211.01095, appendix B, with D2's missing factor 2). With
    h = ln(s / s'), h_1 and h_2 the steps before, D, D_1 and D_2 the denoised images, the exact solution for a parabola
    through them is

        D'  = (D - D_1) / h_1 + h_1 / (h_1 + h_2) ((D - D_1) / h_1 - (D_1 - D_2) / h_2)
        D'' = 2 / (h_1 + h_2) ((D - D_1) / h_1 - (D_1 - D_2) / h_2)
        x'  = e^-h x + (1 - e^-h) D + (h - 1 + e^-h) D' + (h^2/2 - h + 1 - e^-h) D''

    as int_0^h e^-(h-t) {1, t, t^2/2} dt are these factors. An Euler step at the start would cost an order, so the first
    step is DPM-Solver++(2S), with one more denoiser call; the second is two-step; the last, to sigma = 0, is Euler's.
    """

    order = 3
    remembers = True

    def init(self, x, keys):
        none = jnp.full((), jnp.inf, x.dtype)  # no rung yet: an infinite step weighs nothing
        return (jnp.zeros_like(x), none), (jnp.zeros_like(x), none)

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        (x0_1, sigma_1), (x0_2, sigma_2) = carry
        x0 = denoise(x, sigma).x0
        ratio = sigma_next / sigma

        def single_step():
            sigma_mid = jnp.sqrt(sigma * sigma_next)
            x0_mid = denoise(x0 + sigma_mid / sigma * (x - x0), sigma_mid).x0
            return x0_mid + ratio * (x - x0_mid)

        def multi_step():
            h, h_1 = jnp.log(sigma / sigma_next), jnp.log(sigma_1 / sigma)
            h_2 = jnp.where(jnp.isfinite(sigma_2), jnp.log(sigma_2 / sigma_1), jnp.inf)
            slope, slope_1 = (x0 - x0_1) / h_1, (x0_1 - x0_2) / h_2
            # Without a third rung the parabola is a line.
            bend = (
                jnp.where(jnp.isfinite(h_2), 1.0, 0.0) * (slope - slope_1) / jnp.where(jnp.isfinite(h_2), h_1 + h_2, 1)
            )
            first, second = slope + h_1 * bend, 2 * bend
            return x0 + ratio * (x - x0) + (h + jnp.expm1(-h)) * first + (h**2 / 2 - h - jnp.expm1(-h)) * second

        case = jnp.where(sigma_next == 0, 0, jnp.where(jnp.isinf(sigma_1), 1, 2))
        x_next = jax.lax.switch(case, (lambda: x0, single_step, multi_step))
        return x_next, ((x0, sigma), (x0_1, sigma_1))

    def nfe(self, steps: int) -> int:
        return steps + (steps > 1)

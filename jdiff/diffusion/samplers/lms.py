"""Linear multistep."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class LMS(Sampler):
    """Adams and Bashforth's method on the probability-flow ODE dx/dsigma = d = (x - D) / sigma:

        x' = x + sum_j d_j int_s^s' l_j(tau) dtau,    l_j the Lagrange polynomials through the last `order` rungs

    (Liu et al., arXiv 2202.09778, use the same in other coordinates; k-diffusion's LMS.) The second and third steps
    have the order that their rungs allow; the first is Heun's, with one more denoiser call, as an Euler step there
    would hold the whole walk to order 2.
    """

    order: int = 4

    remembers = True

    def init(self, x, keys):
        # The last directions and their sigmas, newest first (inf: no rung yet).
        return jnp.zeros((self.order, *x.shape), x.dtype), jnp.full((self.order,), jnp.inf, x.dtype)

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        directions, sigmas = carry
        d = (x - denoise(x, sigma).x0) / sigma
        is_first = jnp.isinf(sigmas[0])
        directions = jnp.concatenate([d[None], directions[:-1]])
        sigmas = jnp.concatenate([sigma[None], sigmas[:-1]])
        x_next = x + jnp.tensordot(self.weights(sigmas, sigma_next), directions, axes=1)

        def correct():
            d_next = (x_next - denoise(x_next, sigma_next).x0) / sigma_next
            return x + (sigma_next - sigma) * (d + d_next) / 2

        return jax.lax.cond(is_first & (sigma_next > 0), correct, lambda: x_next), (directions, sigmas)

    def weights(self, sigmas, sigma_next):
        """int_s^s' l_j for each rung, 0 where there is none yet; s = sigmas[0]."""
        # Gauss and Legendre's rule with n nodes is exact for polynomials of degree 2n - 1 >= order - 1.
        nodes, weights = np.polynomial.legendre.leggauss((self.order + 1) // 2)
        half = (sigma_next - sigmas[0]) / 2
        tau = sigmas[0] + half * (1 + nodes)
        is_there = jnp.isfinite(sigmas)
        known = jnp.where(is_there, sigmas, 0.0)
        apart = known[:, None] - known[None, :]
        others = is_there[None, :] & ~np.eye(self.order, dtype=bool)
        factors = (tau[:, None, None] - known[None, None, :]) / jnp.where(others, apart, 1.0)
        lagrange = jnp.prod(jnp.where(others, factors, 1.0), axis=-1)  # [nodes, order]
        return jnp.where(is_there, half * (weights @ lagrange), 0.0)

    def nfe(self, steps: int) -> int:
        return steps + (steps > 1)

"""UniPC."""

from dataclasses import dataclass
from math import factorial

import jax.numpy as jnp

from jdiff.diffusion.samplers.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class UniPC(Sampler):
    """A predictor and a corrector that share their denoiser calls (Zhao et al., arXiv 2302.04867, algorithms 1-2, B_2,
    data prediction).

    A step goes from lambda to lambda + h, lambda = -ln sigma. With D at lambda, and D_m at lambda + r_m h for the
    `predictor_order` - 1 rungs before (r_m < 0) and, in the corrector, for the step's end (r = 1):

        x' = e^-h x + (1 - e^-h) D + (1 - e^-h) sum_m a_m (D_m - D) / r_m

        sum_m a_m r_m^(k-1) = b_k,    b_k = k! phi_(k+1)(-h) (-h) / (e^-h - 1)
        phi_1(z) = (e^z - 1) / z,     phi_(k+1)(z) = (phi_k(z) - 1/k!) / z

    with a = 1/2 where there is one D_m alone. The corrector comes at the head of the next step, when D at the rung is
    known: it redoes the step that led there with it, and raises the order by one at no further call. The first steps
    have the order that their rungs allow; the last, to sigma = 0, is Euler's.
    """

    predictor_order: int = 2
    corrector: bool = True

    remembers = True

    @property
    def order(self) -> int:
        return self.predictor_order + self.corrector

    def init(self, x, keys):
        # The rung before's x; the last rungs' denoised images and sigmas, newest first (inf: no rung yet).
        n = self.predictor_order
        return x, jnp.zeros((n, *x.shape), x.dtype), jnp.full((n,), jnp.inf, x.dtype)

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        x_1, x0s, sigmas = carry
        x0 = denoise(x, sigma).x0
        if self.corrector:
            x = jnp.where(jnp.isinf(sigmas[0]), x, self.solve(x_1, sigma, x0s, sigmas, x0))
        x0s, sigmas = jnp.concatenate([x0[None], x0s[:-1]]), jnp.concatenate([sigma[None], sigmas[:-1]])
        x_next = jnp.where(sigma_next > 0, self.solve(x, sigma_next, x0s, sigmas), x0)
        return x_next, (x, x0s, sigmas)

    def solve(self, x, sigma_next, x0s, sigmas, x0_next=None):
        """From sigmas[0] to sigma_next; x0_next, the denoised image there, makes it the corrector."""
        h = jnp.log(sigmas[0] / sigma_next)
        r = -jnp.log(sigmas[1:] / sigmas[0]) / h
        points = x0s[1:]
        if x0_next is not None:
            r, points = jnp.append(r, 1.0), jnp.concatenate([points, x0_next[None]])
        is_there = jnp.isfinite(r)
        a = coefficients(h, jnp.where(is_there, r, 1.0), is_there)
        differences = jnp.tensordot(a / jnp.where(is_there, r, 1.0), points - x0s[0], axes=1)
        return jnp.exp(-h) * x - jnp.expm1(-h) * (x0s[0] + differences)

    def nfe(self, steps: int) -> int:
        return steps


def phi(k, z):
    """phi_k(z); by its power series where z is small, as the recursion cancels there."""
    recursive = jnp.expm1(z) / z
    for j in range(1, k):
        recursive = (recursive - 1 / factorial(j)) / z
    series = sum(z**j * (1 / factorial(j + k)) for j in range(14))
    return jnp.where(jnp.abs(z) < 1, series, recursive)


def coefficients(h, r, is_there):
    """a_m for the points that are there, 0 for the others."""
    n = len(r)
    b = [factorial(k) * phi(k + 1, -h) * -h / jnp.expm1(-h) for k in range(1, n + 1)]
    # Equations k = 1 .. as many as there are points; a point that is not there has the equation a_m = 0.
    rank = jnp.cumsum(is_there) - is_there
    rows = jnp.where(is_there[:, None] & is_there[None, :], r[None, :] ** rank[:, None], jnp.eye(n, dtype=r.dtype))
    right = jnp.where(is_there, jnp.stack(b)[rank] if n else 0.0, 0.0)
    solved = jnp.linalg.solve(rows, right) if n else right
    return jnp.where(is_there.sum() == 1, jnp.where(is_there, 0.5, 0.0), solved)

"""Exact denoisers: for a mixture of Gaussians the denoiser, the density and every marginal are known."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jdiff.diffusion.denoiser import Denoised


@dataclass(frozen=True, eq=False)
class Mixture:
    """x0 ~ sum_k weight_k N(mean_k, diag(std_k^2)); means and stds [K, D]."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    def denoise(self, x, sigma, cond, to=None):
        """E[x0 | x] = sum_k p(k | x) (mean_k + std_k^2 / (std_k^2 + sigma^2) (x - mean_k))."""
        assert to is None
        means, variances = jnp.asarray(self.means, x.dtype), jnp.asarray(self.stds**2, x.dtype)
        spread = variances + jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])[:, None, None] ** 2
        share = jax.nn.softmax(self._log_parts(x, spread), axis=1)[:, :, None]
        x0 = jnp.sum(share * (means + variances / spread * (x[:, None] - means)), axis=1)
        return Denoised(x0=x0, x0_dir=x0)

    def log_density(self, x, sigma=0.0):
        """ln p(x) of x0 + sigma eps, in nats [B]."""
        spread = jnp.asarray(self.stds**2, x.dtype) + sigma**2
        return jax.nn.logsumexp(self._log_parts(x, spread[None]), axis=1) - x.shape[1] / 2 * np.log(2 * np.pi)

    def _log_parts(self, x, spread):
        distance = (x[:, None] - jnp.asarray(self.means, x.dtype)) ** 2 / spread
        return jnp.log(jnp.asarray(self.weights, x.dtype)) - 0.5 * jnp.sum(distance + jnp.log(spread), axis=2)

    def draw(self, key, count, sigma=0.0):
        """x0 + sigma eps [count, D]."""
        which, noise = jax.random.split(key)
        parts = jax.random.choice(which, len(self.weights), (count,), p=jnp.asarray(self.weights))
        std = jnp.sqrt(jnp.asarray(self.stds) ** 2 + sigma**2)
        return jnp.asarray(self.means)[parts] + std[parts] * jax.random.normal(noise, (count, self.means.shape[1]))

    def moments(self, sigma=0.0):
        """(mean [D], covariance [D, D]) of x0 + sigma eps."""
        mean = self.weights @ self.means
        apart = self.means - mean
        within = np.diag(self.weights @ self.stds**2 + sigma**2)
        return mean, within + (self.weights[:, None] * apart).T @ apart


def gaussian(dimensions=2):
    """One Gaussian with a standard deviation of its own in every direction."""
    spread = np.linspace(0.2, 0.6, dimensions)
    return Mixture(np.ones(1), np.linspace(0.3, -0.6, dimensions)[None], spread[None])


def mixture(dimensions=2):
    """Three Gaussians."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(3, dimensions)) * np.sqrt(2 / dimensions)
    stds = np.array([0.3, 0.5, 0.4])[:, None] * np.linspace(0.8, 1.2, dimensions)
    return Mixture(np.array([0.5, 0.3, 0.2]), means, stds)


PROBLEMS = {
    "gaussian, 2-D": gaussian(2),
    "gaussian, 16-D": gaussian(16),
    "mixture, 2-D": mixture(2),
    "mixture, 16-D": mixture(16),
}


def gaussian_flow(problem, x, sigma, sigma_next):
    """The probability-flow ODE's exact solution for one Gaussian: x - mean scales with sqrt(std^2 + sigma^2)."""
    mean, std = problem.means[0], problem.stds[0]
    return mean + (x - mean) * np.sqrt((std**2 + sigma_next**2) / (std**2 + sigma**2))


@dataclass(frozen=True, eq=False)
class GaussianFlowMap:
    """The exact D(x, sigma, s) of x0 ~ N(mean, diag(std^2)), whose flow ends at x_s = mean + k (x - mean):

        k = sqrt((std^2 + s^2) / (std^2 + sigma^2)),  r = s / sigma
        D = (x_s - r x) / (1 - r) = mean + (k - r) / (1 - r) (x - mean)
          = mean + std^2 (sigma + s) / (sigma (std^2 + sigma^2) (k + r)) (x - mean)

    the last by k^2 - r^2 = std^2 (sigma^2 - s^2) / (sigma^2 (std^2 + sigma^2)), which holds for s = sigma too.
    """

    mean: np.ndarray
    std: np.ndarray

    def denoise(self, x, sigma, cond, to=None):
        sigma, s = (
            jnp.broadcast_to(jnp.asarray(noise, x.dtype), x.shape[:1])[:, None]
            for noise in (sigma, sigma if to is None else to)
        )
        mean, variance = jnp.asarray(self.mean, x.dtype), jnp.asarray(self.std**2, x.dtype)
        k, r = jnp.sqrt((variance + s**2) / (variance + sigma**2)), s / sigma
        x0 = mean + variance * (sigma + s) / (sigma * (variance + sigma**2) * (k + r)) * (x - mean)
        return Denoised(x0=x0, x0_dir=x0)

    def flow(self, x, sigma, s):
        """Where the probability flow leads from x at sigma."""
        return self.mean + (x - self.mean) * np.sqrt((self.std**2 + s**2) / (self.std**2 + sigma**2))

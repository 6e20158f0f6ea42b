"""Exact denoisers: the data are Gaussian, so the denoiser, the ODE's solution and every marginal are known."""

import jax.numpy as jnp
import numpy as np

from jdiff.diffusion.denoiser import Denoised

MEAN = np.array([0.3, -0.6])
STD = np.array([0.5, 0.2])  # x0 ~ N(MEAN, diag(STD^2))


def gaussian_denoiser(x, sigma, cond):
    """E[x0 | x] = mean + std^2 / (std^2 + sigma^2) (x - mean)."""
    mean, std = jnp.asarray(MEAN, x.dtype), jnp.asarray(STD, x.dtype)
    sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])[:, None]
    x0 = mean + std**2 / (std**2 + sigma**2) * (x - mean)
    return Denoised(x0=x0, x0_dir=x0)


def gaussian_flow(x, sigma, sigma_next):
    """The probability-flow ODE's exact solution: (x - mean) scales with sqrt(std^2 + sigma^2)."""
    return MEAN + (x - MEAN) * np.sqrt((STD**2 + sigma_next**2) / (STD**2 + sigma**2))

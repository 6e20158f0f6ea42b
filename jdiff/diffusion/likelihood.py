"""Log-likelihood by the probability-flow ODE."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jdiff.common.arrays import per_image
from jdiff.diffusion.adaptive import integrate
from jdiff.diffusion.denoiser import Cond, Denoise


def log_likelihood(
    denoise: Denoise,
    x: Float[Array, "b ..."],
    sigma_min: Float[Array, ""],
    sigma_max: Float[Array, ""],
    prior_std: Float[Array, ""],
    cond: Cond,
    keys: Key[Array, " b"],
    *,
    exact: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Float[Array, " b"]:
    """ln p of each image in nats, the density of the data with noise of sigma_min on top (Song et al., arXiv
    2011.13456, section 4.3; Grathwohl et al., arXiv 1810.01367).

    Along dx/dsigma = d(x, sigma) = (x - D(x, sigma)) / sigma, from an image at sigma_min up to noise at sigma_max,

        ln p_min(x_min) = ln N(x_max; 0, prior_std^2) + int_min^max div d dsigma,   div d = (n - tr dD/dx) / sigma

    for n pixel values. exact: the trace itself, n Jacobian products a call; otherwise Hutchinson's estimate,
    v^T (dD/dx) v with v of random signs, one for each image from its key and fixed for the whole way.
    """
    images, n = x.shape[0], math.prod(x.shape[1:])
    if exact:
        probes = jnp.broadcast_to(jnp.eye(n, dtype=x.dtype).reshape(n, 1, *x.shape[1:]), (n, *x.shape))
    else:
        probes = jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(keys)[None]

    def field(state, sigma):
        def slope(x):
            return (x - denoise(x, sigma, cond).x0) / per_image(sigma, x)

        now = state[:, :n].reshape(x.shape)
        d, along = jax.linearize(slope, now)
        divergence = jax.lax.map(lambda probe: jnp.sum((probe * along(probe)).reshape(images, n), axis=1), probes)
        return jnp.concatenate([d.reshape(images, n), divergence.sum(0)[:, None]], axis=1)

    start = jnp.concatenate([x.reshape(images, n), jnp.zeros((images, 1), x.dtype)], axis=1)
    end, _ = integrate(field, start, sigma_min, sigma_max, rtol=rtol, atol=atol)
    noise = end[:, :n] / prior_std
    log_prior = -0.5 * jnp.sum(noise**2, axis=1) - n * (jnp.log(prior_std) + 0.5 * math.log(2 * math.pi))
    return log_prior + end[:, n]


def bits_per_dim(log_likelihood: Float[Array, " b"], values: int, half_level: float = 1 / 255) -> Float[Array, " b"]:
    """-ln p / (n ln 2) - log2(w) for n pixel values, of images spread evenly within levels of width w = 2 half_level:
    2/255 for 256 levels in [-1, 1].
    """
    return -log_likelihood / (values * math.log(2)) - math.log2(2 * half_level)

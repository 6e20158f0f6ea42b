"""The variational bound of a chain of sigmas, such as a DDPM table."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jdiff.common.arrays import per_image
from jdiff.common.keys import folded, normal
from jdiff.diffusion.denoiser import Cond, Denoise, Denoised

OF_256 = 1 / 255  # half the distance of two of 256 levels in [-1, 1]
NARROW = 1e-4  # standard deviations: a level so narrow has the mass of its middle, and differences would cancel


def small_variance(sigma: Float[Array, "*b"], sigma_next: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """s'^2 (s^2 - s'^2)/s^2, the posterior's: beta-tilde divided by alpha'^2 (Ho et al., arXiv 2006.11239, eq. 7)."""
    return sigma_next**2 * (1 - (sigma_next / sigma) ** 2)


def large_variance(sigma: Float[Array, "*b"], sigma_next: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """(1 + s'^2)/(1 + s^2) (s^2 - s'^2): beta divided by alpha'^2 (Ho et al., arXiv 2006.11239, section 3.2)."""
    return (1 + sigma_next**2) / (1 + sigma**2) * (sigma**2 - sigma_next**2)


def learned_variance(fraction: Array, sigma: Array, sigma_next: Array, first: Float[Array, ""]) -> Array:
    """exp(f ln large + (1 - f) ln small), per pixel (Nichol & Dhariwal, arXiv 2102.09672, eq. 15); `first` stands for
    small where s' = 0.
    """
    small = jnp.where(sigma_next > 0, small_variance(sigma, sigma_next), first)
    large = large_variance(sigma, sigma_next)
    return jnp.exp(
        fraction * per_image(jnp.log(large), fraction) + (1 - fraction) * per_image(jnp.log(small), fraction)
    )


def term(
    sigmas: Float[Array, " T"],
    x0: Float[Array, "b ..."],
    x: Float[Array, "b ..."],
    t: Int[Array, " b"],
    denoised: Denoised,
    half_level: float = OF_256,
) -> Float[Array, " b"]:
    """L_t of each image at its step t, in bits a pixel value; sigmas rise, x0 is of levels 2 half_level apart in
    [-1, 1] (Ho et al., arXiv 2006.11239, eq. 5; Nichol & Dhariwal, arXiv 2102.09672, eq. 4-7).

    In sigma coordinates, from one sigma s of the chain to the one before it, s' (0 before the first):

        q(x' | x, x0) = N(x0 + (s'/s)^2 (x - x0), small)
        p(x' | x)     = N(D  + (s'/s)^2 (x - D),  small or the learned variance)
        L_0 = -ln p(x0 | x_1),    L_t = KL(q || p)
    """
    sigma, sigma_next = sigmas[t], jnp.where(t > 0, sigmas[t - 1], 0.0)
    if denoised.variance is None:
        small = jnp.where(t > 0, small_variance(sigma, sigma_next), _first_variance(sigmas))
        log_variance = per_image(jnp.log(small), x)
    else:
        log_variance = jnp.log(learned_variance(denoised.variance, sigma, sigma_next, _first_variance(sigmas)))

    ratio2 = per_image((sigma_next / sigma) ** 2, x)
    mean = denoised.x0 + ratio2 * (x - denoised.x0)
    true_mean = x0 + ratio2 * (x - x0)
    true_log_variance = per_image(jnp.log(jnp.where(t > 0, small_variance(sigma, sigma_next), 1.0)), x)
    kl = gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    decoded = -discretized_gaussian(x0, mean, log_variance, half_level)
    nats = jnp.where(per_image(t, x) > 0, kl, decoded)
    return jnp.mean(nats, axis=tuple(range(1, x.ndim))) / math.log(2)


def bound(
    denoise: Denoise,
    sigmas: Float[Array, " T"],
    prior_std: Float[Array, ""],
    x0: Float[Array, "b ..."],
    cond: Cond,
    keys: Key[Array, " b"],
    half_level: float = OF_256,
) -> Float[Array, " b"]:
    """L_0 + ... + L_T of each image, in bits a pixel value, with L_T = KL(q(x_T | x0) || N(0, prior_std^2)): T denoiser
    calls, one noise for each step.
    """

    def add(total, t):
        x = x0 + sigmas[t] * normal(folded(keys, t), x0)
        denoised = denoise(x, sigmas[t], cond)
        return total + term(sigmas, x0, x, jnp.full(x0.shape[:1], t), denoised, half_level), None

    steps, _ = jax.lax.scan(add, jnp.zeros(x0.shape[:1], x0.dtype), jnp.arange(len(sigmas)))
    nats = gaussian_kl(x0, 2 * jnp.log(sigmas[-1]), 0.0, 2 * jnp.log(prior_std))
    return steps + jnp.mean(nats, axis=tuple(range(1, x0.ndim))) / math.log(2)


def gaussian_kl(mean, log_variance, other_mean, other_log_variance):
    """KL(N(mean, exp(log_variance)) || N(other...)), in nats an element."""
    difference = log_variance - other_log_variance
    distance = (mean - other_mean) ** 2 * jnp.exp(-other_log_variance)
    return 0.5 * (-1.0 - difference + jnp.exp(difference) + distance)


def discretized_gaussian(x0: Array, mean: Array, log_variance: Array, half_level: float = OF_256) -> Array:
    """ln of the Gaussian's mass on x0's level, the outer levels open-ended (2006.11239, eq. 13), in nats a value."""
    inverse_std = jnp.exp(-log_variance / 2)
    above, below = (x0 + half_level - mean) * inverse_std, (x0 - half_level - mean) * inverse_std
    # ln(Phi(a) - Phi(b)) through the tail that does not cancel: the mass is the same mirrored.
    mirrored = below > 0
    above, below = jnp.where(mirrored, -below, above), jnp.where(mirrored, -above, below)
    log_above, log_below = jax.scipy.stats.norm.logcdf(above), jax.scipy.stats.norm.logcdf(below)
    inner = log_above + jnp.log(-jnp.expm1(jnp.minimum(log_below - log_above, -1e-6)))
    width = 2 * half_level * inverse_std
    middle = jax.scipy.stats.norm.logpdf((x0 - mean) * inverse_std) + jnp.log(width)
    inner = jnp.where(width < NARROW, middle, inner)
    lowest = jax.scipy.stats.norm.logcdf((x0 + half_level - mean) * inverse_std)
    highest = jax.scipy.stats.norm.logcdf(-(x0 - half_level - mean) * inverse_std)
    return jnp.where(x0 < half_level - 1, lowest, jnp.where(x0 > 1 - half_level, highest, inner))


def _first_variance(sigmas: Float[Array, " T"]) -> Float[Array, ""]:
    """In place of the first step's small variance, which is 0: the second step's (2102.09672's code)."""
    if len(sigmas) < 2:
        return large_variance(sigmas[0], jnp.zeros_like(sigmas[0]))
    return small_variance(sigmas[1], sigmas[0])

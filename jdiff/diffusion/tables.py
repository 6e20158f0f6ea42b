"""DDPM's tables: a process in T steps, given by its betas."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jdiff.diffusion.schedules import LARGEST_SIGMA

LARGEST_BETA = 0.999


@dataclass(frozen=True)
class DDPMTable:
    """sigma(t) = sqrt((1 - abar_t) / abar_t), abar_t = prod_{i <= t} (1 - beta_i), t in 0 .. T-1, c_noise = t,
    prior_std = sqrt(1 + sigma_max^2) (Ho et al., arXiv 2006.11239).

    Between the steps ln sigma is interpolated linearly, so that a discrete model accepts any sigma between its first
    and its last; outside them it answers as at the nearest (Karras et al., arXiv 2206.00364, appendix C.3). A last step
    without signal (zero terminal SNR) has sigma LARGEST_SIGMA, or twice the one before it where that is more.
    """

    betas: tuple[float, ...]

    @cached_property
    def sigmas(self) -> Float[np.ndarray, " T"]:
        """The table's sigmas, rising, in float64."""
        alphas_bar = np.cumprod(1.0 - np.asarray(self.betas, np.float64))
        with np.errstate(divide="ignore"):
            sigmas = np.sqrt((1.0 - alphas_bar) / alphas_bar)
        if np.isinf(sigmas[-1]):
            sigmas[-1] = max(LARGEST_SIGMA, *2 * sigmas[-2:-1])
        return sigmas

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def sigma(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return jnp.exp(jnp.interp(t, np.arange(len(self.betas)), np.log(self.sigmas)))

    def time(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return jnp.interp(jnp.log(sigma), np.log(self.sigmas), np.arange(len(self.betas)))

    def c_noise(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return self.time(sigma)

    def prior_std(self, sigma_max: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.sqrt(1.0 + sigma_max**2)


def linear_betas(steps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> tuple[float, ...]:
    """beta = beta_start + u (beta_end - beta_start), u from 0 to 1 (Ho et al., arXiv 2006.11239, section 4).

    beta_start and beta_end belong to T = 1000, here and below; another T takes the betas times 1000 / T.
    """
    return _scaled(np.linspace(beta_start, beta_end, steps))


def scaled_linear_betas(steps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> tuple[float, ...]:
    """beta = (sqrt(beta_start) + u (sqrt(beta_end) - sqrt(beta_start)))^2, u from 0 to 1, also called quadratic
    (Rombach et al., arXiv 2112.10752, with 0.00085 and 0.012).
    """
    return _scaled(np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2)


def sigmoid_betas(steps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> tuple[float, ...]:
    """beta = beta_start + sigmoid(12 u - 6) (beta_end - beta_start), u from 0 to 1 (GeoDiff; Xu et al., arXiv
    2203.02923).
    """
    return _scaled(beta_start + _sigmoid(np.linspace(-6.0, 6.0, steps)) * (beta_end - beta_start))


def cosine_betas(steps: int, *, s: float = 0.008) -> tuple[float, ...]:
    """beta_t = min(1 - f(t+1)/f(t), 0.999), f(t) = cos^2((t/T + s)/(1 + s) pi/2) (Nichol & Dhariwal, 2102.09672)."""
    return _of_alpha_bar(lambda u: np.cos((u + s) / (1 + s) * np.pi / 2) ** 2, steps)


def sigmoid_alpha_bar_betas(
    steps: int, *, start: float = -3.0, end: float = 3.0, tau: float = 1.0
) -> tuple[float, ...]:
    """abar(u) = (sigmoid(end/tau) - sigmoid((start + u (end - start))/tau)) / (sigmoid(end/tau) - sigmoid(start/tau)),
    u = t/T, betas at most 0.999 (Jabri et al., arXiv 2212.11972; Chen, arXiv 2301.10972).
    """
    return _of_alpha_bar(lambda u: _sigmoid(end / tau) - _sigmoid((start + u * (end - start)) / tau), steps)


def zero_terminal_snr(betas: tuple[float, ...]) -> tuple[float, ...]:
    """The table with sqrt(abar) shifted and scaled so that the last step has no signal and the first is as it was
    (Lin et al., arXiv 2305.08891, algorithm 1). A table of one step has no such form: ValueError.
    """
    if len(betas) < 2:
        raise ValueError("a table of one step cannot end without signal and keep its first step")
    roots = np.sqrt(np.cumprod(1.0 - np.asarray(betas, np.float64)))
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    alphas_bar = roots**2
    return tuple((1.0 - np.append(alphas_bar[:1], alphas_bar[1:] / alphas_bar[:-1])).tolist())


def _scaled(betas_of_1000: np.ndarray) -> tuple[float, ...]:
    """Betas that belong to T = 1000 for a table of another length; at most 0.999 (matters below 21 steps)."""
    return tuple(np.minimum(betas_of_1000 * 1000 / len(betas_of_1000), LARGEST_BETA).tolist())


def _of_alpha_bar(alpha_bar: Callable[[np.ndarray], np.ndarray], steps: int) -> tuple[float, ...]:
    """Betas at most 0.999 whose products follow alpha_bar(u), u = t/T, as long as that allows."""
    values = alpha_bar(np.linspace(0.0, 1.0, steps + 1))
    return tuple(np.minimum(1.0 - values[1:] / values[:-1], LARGEST_BETA).tolist())


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))

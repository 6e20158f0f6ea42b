"""Schedules: which sigma belongs to which time, and back.

A forward process x_t = alpha_t x0 + sigma_t eps, divided by alpha_t, is x = x0 + sigma eps with
sigma = sigma_t / alpha_t. In these coordinates processes differ in three things only: how time maps to sigma, what the
network is told about sigma (c_noise), and the spread of x where a walk starts (prior_std).

    EDM         sigma(t) = t                              c_noise = ln(sigma) / 4       prior_std = sigma_max
    DDPM table  sigma(t) = sqrt((1 - abar_t) / abar_t)    c_noise = t in 0 .. T-1       prior_std = sqrt(1 +
    sigma_max^2)
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@runtime_checkable
class Schedule(Protocol):
    """What a schedule can tell; sigma_min and sigma_max bound the sigmas that it knows."""

    @property
    def sigma_min(self) -> float: ...
    @property
    def sigma_max(self) -> float: ...
    def sigma(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]: ...
    def time(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]: ...
    def c_noise(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]: ...
    def prior_std(self, sigma_max: Float[Array, ""]) -> Float[Array, ""]: ...


@dataclass(frozen=True, kw_only=True)
class EDM:
    """sigma(t) = t, c_noise = ln(sigma) / 4 (Karras et al., arXiv 2206.00364, table 1, "Ours")."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def sigma(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return t

    def time(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return sigma

    def c_noise(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return jnp.log(sigma) / 4

    def prior_std(self, sigma_max: Float[Array, ""]) -> Float[Array, ""]:
        return sigma_max


@dataclass(frozen=True)
class DDPMTable:
    """sigma(t) = sqrt((1 - abar_t) / abar_t), abar_t = prod_{i <= t} (1 - beta_i), t in 0 .. T-1.

    Between the steps ln sigma is interpolated linearly, so that a discrete model accepts any sigma between its first
    and its last; outside them it answers as at the nearest (Ho et al., arXiv 2006.11239; Karras et al., appendix C.3).
    """

    betas: tuple[float, ...]

    @cached_property
    def sigmas(self) -> Float[np.ndarray, " T"]:
        """The table's sigmas, rising, in float64."""
        alphas_bar = np.cumprod(1.0 - np.asarray(self.betas, np.float64))
        return np.sqrt((1.0 - alphas_bar) / alphas_bar)

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


def linear_betas(steps: int) -> tuple[float, ...]:
    """beta_t from 1e-4 to 0.02 in equal steps, both times 1000/T (Ho et al., arXiv 2006.11239, section 4).

    At most 0.999, which matters below 21 steps.
    """
    scale = 1000 / steps
    return tuple(np.minimum(np.linspace(scale * 1e-4, scale * 0.02, steps), 0.999).tolist())


def cosine_betas(steps: int, *, s: float = 0.008, largest: float = 0.999) -> tuple[float, ...]:
    """beta_t = min(1 - f(t+1)/f(t), largest), f(t) = cos^2((t/T + s)/(1 + s) pi/2) (Nichol & Dhariwal, 2102.09672)."""
    t = np.linspace(0.0, 1.0, steps + 1)
    f = np.cos((t + s) / (1 + s) * np.pi / 2) ** 2
    return tuple(np.minimum(1.0 - f[1:] / f[:-1], largest).tolist())

"""Schedules: which sigma belongs to which time, and back."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

LARGEST_SIGMA = 2.0**20
EARLIEST = 1e-3  # the least time of the processes over [0, 1], where sigma would be 0


@runtime_checkable
class Schedule(Protocol):
    """A forward process x_t = alpha_t x0 + sigma_t eps divided by alpha_t: x = x0 + sigma eps, sigma = sigma_t/alpha_t.

    In these coordinates processes differ in how time maps to sigma, in what the network is told about sigma (c_noise),
    and in the spread of x where a walk starts (prior_std). sigma_min and sigma_max bound the sigmas that it knows; an
    infinite one is cut at LARGEST_SIGMA, where the signal is a millionth of the noise.
    """

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
    """sigma(t) = t, c_noise = ln(sigma) / 4, prior_std = sigma_max (Karras et al., arXiv 2206.00364, table 1)."""

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


@dataclass(frozen=True, kw_only=True)
class VE:
    """sigma(t) = sigma_min (sigma_max / sigma_min)^t, t in [0, 1], c_noise = ln(sigma) / 4, prior_std = sigma_max (Song
    et al., arXiv 2011.13456, appendix C; Karras et al., arXiv 2206.00364, table 1).
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def sigma(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def time(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return jnp.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)

    def c_noise(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return jnp.log(sigma) / 4

    def prior_std(self, sigma_max: Float[Array, ""]) -> Float[Array, ""]:
        return sigma_max


@dataclass(frozen=True, kw_only=True)
class VP:
    """sigma(t) = sqrt(exp(beta_min t + beta_d t^2 / 2) - 1), t in [0, 1], c_noise = 1000 t, prior_std =
    sqrt(1 + sigma_max^2).

    The continuous DDPM, beta(t) = beta_min + beta_d t with beta_d = beta_max - beta_min (Song et al., arXiv 2011.13456,
    eq. 32-33; Karras et al., arXiv 2206.00364, table 1).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    @property
    def sigma_min(self) -> float:
        return math.sqrt(math.expm1(self.beta_min * EARLIEST + (self.beta_max - self.beta_min) * EARLIEST**2 / 2))

    @property
    def sigma_max(self) -> float:
        return math.sqrt(math.expm1((self.beta_min + self.beta_max) / 2))

    def sigma(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return jnp.sqrt(jnp.expm1(self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2))

    def time(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        # The root of beta_d t^2 / 2 + beta_min t = ln(1 + sigma^2), in the form that does not cancel near 0.
        log = jnp.log1p(sigma**2)
        root = jnp.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * log)
        return 2 * log / (root + self.beta_min)

    def c_noise(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return 1000 * self.time(sigma)

    def prior_std(self, sigma_max: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.sqrt(1 + sigma_max**2)


@dataclass(frozen=True)
class Cosine:
    """sigma(t) = tan(pi t / 2), t in [0, 1], c_noise = 1000 t, prior_std = sqrt(1 + sigma_max^2): alpha_t = cos(pi t/2)
    (Salimans & Ho, arXiv 2202.00512, section 2).
    """

    @property
    def sigma_min(self) -> float:
        return math.tan(math.pi / 2 * EARLIEST)

    @property
    def sigma_max(self) -> float:
        return LARGEST_SIGMA

    def sigma(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        # tan(pi t / 2) = cot(pi (1 - t) / 2), which is exact to the last bit near t = 1 and never negative.
        late = 1 / jnp.tan(jnp.pi / 2 * jnp.maximum(1 - t, 1e-7))
        return jnp.minimum(jnp.where(t < 0.5, jnp.tan(jnp.pi / 2 * t), late), LARGEST_SIGMA)

    def time(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return 2 / jnp.pi * jnp.arctan(sigma)

    def c_noise(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return 1000 * self.time(sigma)

    def prior_std(self, sigma_max: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.sqrt(1 + sigma_max**2)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """sigma(t) = shift t / (1 - t), t in [0, 1], c_noise = 1000 sigma / (1 + sigma), prior_std = sigma_max.

    x_t = (1 - t) x0 + t eps (Liu et al., arXiv 2209.03003; Lipman et al., 2210.02747); shift moves the times (Esser et
    al., arXiv 2403.03206, eq. 23, in sigma coordinates). c_noise is 1000 times the share of noise in what the network
    sees, whatever the shift.
    """

    shift: float = 1.0

    @property
    def sigma_min(self) -> float:
        return self.shift * EARLIEST / (1 - EARLIEST)

    @property
    def sigma_max(self) -> float:
        return LARGEST_SIGMA

    def sigma(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return jnp.minimum(self.shift * t / (1 - t), LARGEST_SIGMA)

    def time(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return sigma / (self.shift + sigma)

    def c_noise(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return 1000 * sigma / (1 + sigma)

    def prior_std(self, sigma_max: Float[Array, ""]) -> Float[Array, ""]:
        return sigma_max

"""Parameterizations: four functions of sigma that turn a raw network F into a denoiser."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.common.arrays import per_image
from jdiff.diffusion.schedules import Schedule


class Coefficients(NamedTuple):
    """The four coefficients at each sigma, each of sigma's shape."""

    c_skip: Float[Array, "*b"]
    c_out: Float[Array, "*b"]
    c_in: Float[Array, "*b"]
    c_noise: Float[Array, "*b"]


@runtime_checkable
class Parameterization(Protocol):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise), so that the network's target is F* = (x0 - c_skip x) / c_out.

    It holds its schedule, which says what c_noise is. One model's answers as another prediction follow through D:
    `target` is F*.
    """

    @property
    def schedule(self) -> Schedule: ...
    def __call__(self, sigma: Float[Array, "*b"]) -> Coefficients: ...


def target(
    parameterization: Parameterization, x0: Float[Array, "b ..."], x: Float[Array, "b ..."], sigma: Float[Array, "*b"]
) -> Float[Array, "b ..."]:
    """F* = (x0 - c_skip x) / c_out: what a network must answer at x for the denoiser to answer x0."""
    c_skip, c_out, _, _ = parameterization(sigma)
    return (x0 - per_image(c_skip, x) * x) / per_image(c_out, x)


@dataclass(frozen=True)
class Eps:
    """F* = eps: c_skip = 1, c_out = -sigma, c_in = 1/sqrt(1 + sigma^2) (Ho et al., arXiv 2006.11239)."""

    schedule: Schedule

    def __call__(self, sigma: Float[Array, "*b"]) -> Coefficients:
        return Coefficients(
            c_skip=jnp.ones_like(sigma), c_out=-sigma, c_in=_alpha(sigma), c_noise=self.schedule.c_noise(sigma)
        )


@dataclass(frozen=True)
class X0:
    """F* = x0: c_skip = 0, c_out = 1, c_in = 1/sqrt(1 + sigma^2) (Salimans & Ho, arXiv 2202.00512, section 4)."""

    schedule: Schedule

    def __call__(self, sigma: Float[Array, "*b"]) -> Coefficients:
        return Coefficients(
            c_skip=jnp.zeros_like(sigma),
            c_out=jnp.ones_like(sigma),
            c_in=_alpha(sigma),
            c_noise=self.schedule.c_noise(sigma),
        )


@dataclass(frozen=True)
class V:
    """F* = v = alpha eps - sigma_t x0, sigma_t = sigma alpha: c_skip = alpha^2, c_out = -sigma alpha, c_in = alpha =
    1/sqrt(1 + sigma^2) (Salimans & Ho, arXiv 2202.00512, section 4).
    """

    schedule: Schedule

    def __call__(self, sigma: Float[Array, "*b"]) -> Coefficients:
        alpha = _alpha(sigma)
        return Coefficients(c_skip=alpha**2, c_out=-sigma * alpha, c_in=alpha, c_noise=self.schedule.c_noise(sigma))


@dataclass(frozen=True)
class Edm:
    """c_skip = s^2/(s^2 + sigma^2), c_out = sigma s/sqrt(s^2 + sigma^2), c_in = 1/sqrt(s^2 + sigma^2), s = sigma_data:
    the network's input and target have unit variance at every sigma (Karras et al., arXiv 2206.00364, table 1).
    """

    schedule: Schedule
    sigma_data: float = 0.5

    def __call__(self, sigma: Float[Array, "*b"]) -> Coefficients:
        variance = sigma**2 + self.sigma_data**2
        return Coefficients(
            c_skip=self.sigma_data**2 / variance,
            c_out=sigma * self.sigma_data / jnp.sqrt(variance),
            c_in=1 / jnp.sqrt(variance),
            c_noise=self.schedule.c_noise(sigma),
        )


@dataclass(frozen=True)
class Flow:
    """F* = eps - x0, the velocity of x_t = (1 - t) x0 + t eps: c_skip = c_in = 1/(1 + sigma), c_out =
    -sigma/(1 + sigma) (Liu et al., arXiv 2209.03003).
    """

    schedule: Schedule

    def __call__(self, sigma: Float[Array, "*b"]) -> Coefficients:
        return Coefficients(
            c_skip=1 / (1 + sigma),
            c_out=-sigma / (1 + sigma),
            c_in=1 / (1 + sigma),
            c_noise=self.schedule.c_noise(sigma),
        )


def _alpha(sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
    return 1 / jnp.sqrt(1 + sigma**2)

"""Parameterizations: four functions of sigma that turn a raw network F into a denoiser.

    D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)

A parameterization holds its schedule, which says what c_noise is.

    name      c_skip               c_out                        c_in
    edm       s^2/(s^2+sigma^2)    sigma s/sqrt(s^2+sigma^2)    1/sqrt(s^2+sigma^2), s = sigma_data
    eps (VP)  1                    -sigma                       1/sqrt(1+sigma^2)
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.diffusion.schedules import Schedule


class Coefficients(NamedTuple):
    """The four coefficients at each sigma, each of sigma's shape."""

    c_skip: Float[Array, "*b"]
    c_out: Float[Array, "*b"]
    c_in: Float[Array, "*b"]
    c_noise: Float[Array, "*b"]


@runtime_checkable
class Parameterization(Protocol):
    @property
    def schedule(self) -> Schedule: ...
    def __call__(self, sigma: Float[Array, "*b"]) -> Coefficients: ...


@dataclass(frozen=True)
class Edm:
    """EDM's preconditioning: the network's input and target have unit variance at every sigma (2206.00364, table 1)."""

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
class Eps:
    """The network predicts eps from x_t = alpha_t x, alpha_t = 1/sqrt(1 + sigma^2) (Ho et al., 2006.11239)."""

    schedule: Schedule

    def __call__(self, sigma: Float[Array, "*b"]) -> Coefficients:
        return Coefficients(
            c_skip=jnp.ones_like(sigma),
            c_out=-sigma,
            c_in=1 / jnp.sqrt(1 + sigma**2),
            c_noise=self.schedule.c_noise(sigma),
        )

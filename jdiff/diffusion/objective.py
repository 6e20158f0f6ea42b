"""Objectives: how training draws sigma, and what the loss weighs there.

    loss = E_{sigma ~ draw} weight(sigma) |D(x0 + sigma eps, sigma) - x0|^2

A weight on |D - x0|^2 is the weight on the raw network's |F - F*|^2 divided by c_out^2.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jdiff.diffusion.parameterization import Parameterization
from jdiff.diffusion.schedules import DDPMTable


@runtime_checkable
class Draw(Protocol):
    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]: ...


@runtime_checkable
class Weight(Protocol):
    def __call__(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]: ...


@dataclass(frozen=True)
class Objective:
    draw: Draw
    weight: Weight


@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(mean, std^2) (Karras et al., arXiv 2206.00364, table 1: -1.2, 1.2)."""

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return jnp.exp(self.mean + self.std * jax.random.normal(key, shape))


@dataclass(frozen=True)
class UniformSteps:
    """A table's steps 0 .. T-1 with equal chances (Ho et al., arXiv 2006.11239, algorithm 1)."""

    table: DDPMTable

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        steps = jax.random.randint(key, shape, 0, len(self.table.betas))
        return jnp.asarray(self.table.sigmas, jnp.float32)[steps]


@dataclass(frozen=True)
class Simple:
    """Weight 1 on |F - F*|^2: "L_simple", so 1 / c_out^2 here (Ho et al., arXiv 2006.11239, eq. 14).

    With EDM's parameterization this is EDM's weight, (sigma^2 + s^2) / (sigma s)^2 (2206.00364, table 1).
    """

    parameterization: Parameterization

    def __call__(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return 1 / self.parameterization(sigma).c_out ** 2

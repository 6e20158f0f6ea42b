"""Draws: how training chooses sigma."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jdiff.diffusion.schedules import Schedule
from jdiff.diffusion.tables import DDPMTable


@runtime_checkable
class Draw(Protocol):
    """A draw's quantile function: u in (0, 1) -> sigma, so that draws can be independent or stratified over a batch."""

    def __call__(self, u: Float[Array, "*b"]) -> Float[Array, "*b"]: ...


def uniform(key: Key[Array, ""], count: int) -> Float[Array, " count"]:
    """Independent numbers in (0, 1)."""
    return jax.random.uniform(key, (count,), minval=2.0**-24, maxval=1.0)


def stratified(key: Key[Array, ""], count: int) -> Float[Array, " count"]:
    """u_i = (i + v)/count with one v for all: as even as can be, which lowers the loss's variance (Kingma et al., arXiv
    2107.00630, appendix I.1).
    """
    v = jax.random.uniform(key, minval=2.0**-12, maxval=1 - 2.0**-12)
    return (jnp.arange(count) + v) / count


@dataclass(frozen=True)
class LogNormal:
    """sigma = exp(mean + std Phi^-1(u)), so ln sigma ~ N(mean, std^2) (Karras et al., arXiv 2206.00364, table 1: -1.2,
    1.2).

    SD3's logit-normal, t = sigmoid(mean + std z) with sigma = shift t/(1 - t), is this with mean + ln(shift).
    """

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, u: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return jnp.exp(self.mean + self.std * jax.scipy.special.ndtri(u))


@dataclass(frozen=True)
class LogUniform:
    """sigma = sigma_min (sigma_max / sigma_min)^u, the ends the schedule's."""

    schedule: Schedule

    def __call__(self, u: Float[Array, "*b"]) -> Float[Array, "*b"]:
        low, high = math.log(self.schedule.sigma_min), math.log(self.schedule.sigma_max)
        return jnp.exp(low + u * (high - low))


@dataclass(frozen=True)
class Uniform:
    """sigma = sigma(t), t uniform between the times of the schedule's ends (Song et al., arXiv 2011.13456, eq. 7; for
    flows Lipman et al., arXiv 2210.02747).
    """

    schedule: Schedule

    def __call__(self, u: Float[Array, "*b"]) -> Float[Array, "*b"]:
        first, last = (
            self.schedule.time(jnp.asarray(end, u.dtype)) for end in (self.schedule.sigma_min, self.schedule.sigma_max)
        )
        return self.schedule.sigma(first + u * (last - first))


@dataclass(frozen=True)
class Steps:
    """sigma = sigma_t, t = floor(u T): a table's steps 0 .. T-1, equally likely (Ho et al., arXiv 2006.11239,
    algorithm 1).
    """

    table: DDPMTable

    def __call__(self, u: Float[Array, "*b"]) -> Float[Array, "*b"]:
        T = len(self.table.betas)
        return jnp.asarray(self.table.sigmas, u.dtype)[jnp.minimum(jnp.floor(u * T).astype(int), T - 1)]

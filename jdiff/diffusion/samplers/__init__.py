"""Samplers: one solver a file, each a step down a ladder of sigmas.

A sampler is a frozen dataclass with

    init(x) -> carry                                               what it remembers between steps
    step(denoise, carry, x, sigma, sigma_next, keys) -> x, carry   from one rung to the next
    nfe(steps) -> int                                              denoiser calls over a ladder of `steps` rungs

where denoise(x, sigma) -> Denoised has its condition already, sigma and sigma_next are scalars with
sigma > sigma_next >= 0, and keys [B] holds one random key per image for this step.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Float, Key

from jdiff.diffusion.denoiser import Denoised
from jdiff.diffusion.samplers.ddim import DDIM
from jdiff.diffusion.samplers.heun import Heun

Carry: TypeAlias = Any  # a pytree


@runtime_checkable
class Sampler(Protocol):
    def init(self, x: Float[Array, "b ..."]) -> Carry: ...

    def step(
        self,
        denoise: Callable[[Array, Array], Denoised],
        carry: Carry,
        x: Float[Array, "b ..."],
        sigma: Float[Array, ""],
        sigma_next: Float[Array, ""],
        keys: Key[Array, " b"],
    ) -> tuple[Float[Array, "b ..."], Carry]: ...

    def nfe(self, steps: int) -> int: ...


__all__ = ["DDIM", "Carry", "Heun", "Sampler"]

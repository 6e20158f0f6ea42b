"""Samplers: one solver a file, each a step down a ladder of sigmas.

A sampler is a frozen dataclass with

    init(x, keys) -> carry                                         what it remembers between steps
    step(denoise, carry, x, sigma, sigma_next, keys) -> x, carry   from one rung to the next
    nfe(steps) -> int | None                                       denoiser calls over a ladder of `steps` rungs;
                                                                   None: the carry counts them

where denoise(x, sigma) -> Denoised has its condition already and sigma and sigma_next are scalars with
sigma > sigma_next >= 0 (a sampler without noise also goes upwards). The keys [B] hold one random key per image: init's
are the images' own, step's are of that step.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Float, Key

from jdiff.diffusion.denoiser import Denoised
from jdiff.diffusion.samplers.ddim import DDIM
from jdiff.diffusion.samplers.ddpm import DDPM
from jdiff.diffusion.samplers.dpm2 import DPM2
from jdiff.diffusion.samplers.dpmpp_2m import DPMpp2M
from jdiff.diffusion.samplers.dpmpp_2m_sde import DPMpp2MSDE
from jdiff.diffusion.samplers.dpmpp_2s_ancestral import DPMpp2SAncestral
from jdiff.diffusion.samplers.dpmpp_3m import DPMpp3M
from jdiff.diffusion.samplers.dpmpp_sde import DPMppSDE
from jdiff.diffusion.samplers.heun import Heun
from jdiff.diffusion.samplers.langevin import Langevin
from jdiff.diffusion.samplers.lms import LMS
from jdiff.diffusion.samplers.ode import ODE
from jdiff.diffusion.samplers.predictor_corrector import PredictorCorrector
from jdiff.diffusion.samplers.unipc import UniPC

Carry: TypeAlias = Any  # a pytree


@runtime_checkable
class Sampler(Protocol):
    def init(self, x: Float[Array, "b ..."], keys: Key[Array, " b"]) -> Carry: ...

    def step(
        self,
        denoise: Callable[[Array, Array], Denoised],
        carry: Carry,
        x: Float[Array, "b ..."],
        sigma: Float[Array, ""],
        sigma_next: Float[Array, ""],
        keys: Key[Array, " b"],
    ) -> tuple[Float[Array, "b ..."], Carry]: ...

    def nfe(self, steps: int) -> int | None: ...


__all__ = [
    "DDIM",
    "DDPM",
    "DPM2",
    "LMS",
    "ODE",
    "Carry",
    "DPMpp2M",
    "DPMpp2MSDE",
    "DPMpp2SAncestral",
    "DPMpp3M",
    "DPMppSDE",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "Sampler",
    "UniPC",
]

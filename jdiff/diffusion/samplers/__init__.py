"""Samplers: one solver a file, each a step down a ladder of sigmas."""

from jdiff.diffusion.samplers.consistency import Consistency
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
from jdiff.diffusion.samplers.repaint import RePaint
from jdiff.diffusion.samplers.sampler import Carry, Conditioned, Sampler
from jdiff.diffusion.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DPM2",
    "LMS",
    "ODE",
    "Carry",
    "Conditioned",
    "Consistency",
    "DPMpp2M",
    "DPMpp2MSDE",
    "DPMpp2SAncestral",
    "DPMpp3M",
    "DPMppSDE",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "RePaint",
    "Sampler",
    "UniPC",
]

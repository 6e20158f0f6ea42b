"""Weights: what |D - x0|^2 counts at each sigma."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.diffusion.parameterization import Parameterization


@runtime_checkable
class Weight(Protocol):
    """sigma -> the weight on |D - x0|^2, which is that on the raw network's |F - F*|^2 divided by c_out^2."""

    def __call__(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]: ...


@dataclass(frozen=True)
class Simple:
    """1 / c_out^2, so 1 on |F - F*|^2: "L_simple" (Ho et al., arXiv 2006.11239, eq. 14).

    With EDM's parameterization this is EDM's weight.
    """

    parameterization: Parameterization

    def __call__(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return 1 / self.parameterization(sigma).c_out ** 2


@dataclass(frozen=True)
class Edm:
    """(sigma^2 + s^2) / (sigma s)^2, s = sigma_data (Karras et al., arXiv 2206.00364, table 1)."""

    sigma_data: float = 0.5

    def __call__(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


@dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma), SNR = 1/sigma^2 (Hang et al., arXiv 2303.09556, eq. 8)."""

    gamma: float = 5.0

    def __call__(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return jnp.minimum(1 / sigma**2, self.gamma)


@dataclass(frozen=True)
class SoftMinSNR:
    """gamma SNR / (SNR + gamma), SNR = 1/sigma^2: min-SNR, smooth (Crowson et al., arXiv 2401.11605, section 3)."""

    gamma: float = 5.0

    def __call__(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return self.gamma / (1 + self.gamma * sigma**2)


@dataclass(frozen=True)
class P2:
    """SNR / (1 + SNR)^gamma, SNR = 1/sigma^2, so 1/(1 + SNR)^gamma on eps (Choi et al., arXiv 2204.00227, eq. 8 with
    k = 1).
    """

    gamma: float = 1.0

    def __call__(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        snr = 1 / sigma**2
        return snr / (1 + snr) ** self.gamma


@dataclass(frozen=True)
class VUniform:
    """1 + SNR, SNR = 1/sigma^2, so 1 on v (Salimans & Ho, arXiv 2202.00512, section 4)."""

    def __call__(self, sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return 1 + 1 / sigma**2

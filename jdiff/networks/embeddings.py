"""Embeddings of scalars, above all of the noise level."""

import math
from pathlib import Path
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jdiff.networks.layers import Dense, Dtype

# 2 pi w_k of `fourier`, [512] float32. A file, not a draw: trained weights are worth nothing with other numbers.
FOURIER_FREQUENCIES: Float[np.ndarray, " k"] = np.load(Path(__file__).with_name("fourier_frequencies.npy"))


def sinusoidal(
    values: Float[Array, " b"], features: int, *, longest: float = 10_000.0, offset: int = 0
) -> Float[Array, "b f"]:
    """[cos(v w_k), sin(v w_k)], w_k = longest^(-k / (features/2 - offset)) (Vaswani et al., arXiv 1706.03762, section
    3.5; with offset 1 the slowest frequency is 1/longest itself, as in DDPM's code).
    """
    half = features // 2
    frequencies = jnp.exp(-math.log(longest) * jnp.arange(half) / (half - offset))
    angles = values.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def fourier(values: Float[Array, " b"], features: int) -> Float[Array, "b f"]:
    """[cos(2 pi w_k v), sin(2 pi w_k v)], w_k ~ N(0, 16^2), always the same draw (Tancik et al., arXiv 2006.10739; Song
    et al., 2011.13456, appendix C). Raises ValueError for more than 1,024 features.
    """
    half = features // 2
    if half > len(FOURIER_FREQUENCIES):
        raise ValueError(f"{features} Fourier features; at most {2 * len(FOURIER_FREQUENCIES)}")
    angles = values.astype(jnp.float32)[:, None] * FOURIER_FREQUENCIES[:half]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def positions(rows: int, columns: int, features: int, *, grid_size: int = 0) -> Float[Array, "h w f"]:
    """[sin(j w_k), cos(j w_k), sin(i w_k), cos(i w_k)] of the patch in row i, column j; w_k = 10000^(-4 k / features)
    (Vaswani et al., arXiv 1706.03762, section 3.5, on two axes). With grid_size g, g i / rows and g j / columns are in
    the places of i and j.
    """
    quarter, rest = divmod(features, 4)
    if rest:
        raise ValueError(f"{features} features do not divide by 4, as sines and cosines of rows and columns must")

    def waves(places: int) -> np.ndarray:
        # Constants of the program, so in float64, which late patches' fast waves need.
        values = np.arange(places) * ((grid_size or places) / places)
        angles = values[:, None] * 10_000.0 ** (-np.arange(quarter) / quarter)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)

    across, down = jnp.asarray(waves(columns))[None], jnp.asarray(waves(rows))[:, None]
    sides = (rows, columns, 2 * quarter)
    return jnp.concatenate([jnp.broadcast_to(across, sides), jnp.broadcast_to(down, sides)], axis=-1)


class NoiseEmbedding(nn.Module):
    """W_1 SiLU(W_0 waves(c_noise)), [B] -> [B, features]: what the network knows of the noise level.

    kind: "sinusoidal" or "fourier" waves, `waves` of them. offset: see `sinusoidal`.
    """

    features: int
    waves: int
    kind: Literal["sinusoidal", "fourier"] = "sinusoidal"
    offset: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, c_noise: Float[Array, " b"]) -> Float[Array, "b f"]:
        if self.kind == "fourier":
            h = fourier(c_noise, self.waves)
        else:
            h = sinusoidal(c_noise, self.waves, offset=self.offset)
        h = nn.silu(Dense(self.features, dtype=self.dtype, name="dense_0")(h))
        return Dense(self.features, dtype=self.dtype, name="dense_1")(h)

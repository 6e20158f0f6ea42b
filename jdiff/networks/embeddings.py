"""Embeddings of scalars (the noise level, above all) and of positions."""

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
    values: Float[Array, " b"], features: int, *, max_period: float = 10_000.0, freq_shift: int = 0
) -> Float[Array, "b f"]:
    """[cos(w_k v), sin(w_k v)], w_k = max_period^(-k / (features/2 - freq_shift)) (Vaswani et al., arXiv 1706.03762,
    section 3.5). With freq_shift 1 the lowest frequency is 1/max_period itself, as in DDPM's code.
    """
    half = features // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half) / (half - freq_shift))
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
    """[sin(j w_k), cos(j w_k), sin(i w_k), cos(i w_k)] for the patch in row i, column j, w_k = 10000^(-4 k / features):
    the position embedding of Vaswani et al. (arXiv 1706.03762, section 3.5) on each axis. grid_size g > 0 replaces i
    and j by g i / rows and g j / columns. Raises ValueError where 4 does not divide `features`.
    """
    quarter, rest = divmod(features, 4)
    if rest:
        raise ValueError(f"{features} features do not divide by 4, as sines and cosines of rows and columns must")

    def one_axis(count: int) -> np.ndarray:
        # In float64: at large positions the high frequencies lose their phase in float32.
        values = np.arange(count) * ((grid_size or count) / count)
        angles = values[:, None] * 10_000.0 ** (-np.arange(quarter) / quarter)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)

    across, down = jnp.asarray(one_axis(columns))[None], jnp.asarray(one_axis(rows))[:, None]
    sides = (rows, columns, 2 * quarter)
    return jnp.concatenate([jnp.broadcast_to(across, sides), jnp.broadcast_to(down, sides)], axis=-1)


class NoiseEmbedding(nn.Module):
    """The embedding of the noise level, W_1 SiLU(W_0 e(c_noise)), [B] -> [B, features], with e the `sinusoidal` or
    `fourier` features of c_noise, `channels` of them.
    """

    features: int
    channels: int
    kind: Literal["sinusoidal", "fourier"] = "sinusoidal"
    freq_shift: int = 0  # of `sinusoidal`
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, c_noise: Float[Array, " b"]) -> Float[Array, "b f"]:
        if self.kind == "fourier":
            h = fourier(c_noise, self.channels)
        else:
            h = sinusoidal(c_noise, self.channels, freq_shift=self.freq_shift)
        h = nn.silu(Dense(self.features, dtype=self.dtype, name="dense_0")(h))
        return Dense(self.features, dtype=self.dtype, name="dense_1")(h)

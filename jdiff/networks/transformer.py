"""The diffusion transformer, DiT (Peebles & Xie, arXiv 2212.09748): attention over patches, without a UNet's levels."""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jdiff.networks.attention import MultiHead, head_count
from jdiff.networks.conditioning import Conditioner, Embedded
from jdiff.networks.embeddings import NoiseEmbedding, positions
from jdiff.networks.layers import Dense, Dtype


class Patches(nn.Module):
    """The patch embedding, W patch + b for each patch of size x size pixels."""

    features: int
    size: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        batch, height, width, channels = x.shape
        # The fan-in of this linear layer is the whole patch: three axes.
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=(0, 1, 2))
        kernel = self.param("kernel", init, (self.size, self.size, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        patches = x.reshape(batch, height // self.size, self.size, width // self.size, self.size, channels)
        return jnp.einsum("bhpwqc,pqcf->bhwf", patches, kernel) + bias


class Block(nn.Module):
    """A transformer layer with adaLN-Zero, [B, t, d] -> [B, t, d] (Peebles & Xie, arXiv 2212.09748, section 3.2).

    shift, scale, gate, shift', scale', gate' = W c,   W = 0 at initialisation
    h += gate attention(norm(h) (1 + scale) + shift)
    h += attention(norm(h), tokens)                        with tokens of conditions (Chen et al., arXiv 2310.00426)
    h += gate' mlp(norm(h) (1 + scale') + shift')

    c: SiLU of the embedding of noise level and conditions. The mlp has one hidden layer of mlp_ratio * d units.
    """

    heads: int
    mlp_ratio: int = 4
    dropout: float = 0.0
    qkv_bias: bool = True
    mlp_norm_eps: float = 1e-6
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "b t d"],
        c: Float[Array, "b e"],
        tokens: Float[Array, "b s k"] | None,
        mask: Bool[Array, "b s"] | None,
        train: bool,
    ) -> Float[Array, "b t d"]:
        features = h.shape[-1]

        def dropout(h: Array) -> Array:
            return nn.Dropout(self.dropout, deterministic=not train)(h)

        def multi_head(name: str, *, zero_init: bool) -> MultiHead:
            return MultiHead(self.heads, self.qkv_bias, zero_init, self.dtype, name=name)

        modulation = Dense(6 * features, zero_init=True, dtype=self.dtype, name="modulation")(c)[:, None]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = jnp.split(modulation, 6, axis=-1)

        mixed = multi_head("attention", zero_init=False)(layer_norm(h, dtype=self.dtype) * (1 + scale) + shift)
        h += gate * dropout(mixed)
        if tokens is not None:
            normed = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="cross_norm")(h)
            h += dropout(multi_head("cross", zero_init=True)(normed, tokens, mask))
        normed = layer_norm(h, epsilon=self.mlp_norm_eps, dtype=self.dtype) * (1 + mlp_scale) + mlp_shift
        wide = Dense(self.mlp_ratio * features, dtype=self.dtype, name="wide")(normed)
        return h + mlp_gate * Dense(features, dtype=self.dtype, name="narrow")(dropout(nn.gelu(wide, approximate=True)))


class DiT(nn.Module):
    """F(x, c_noise, cond) -> [B, H, W, out_channels] float32, the raw network of a denoiser: transformer blocks over
    patches of patch_size x patch_size pixels.

    Parameters and the norms' statistics are float32; `dtype` is that of the computation. Published networks are choices
    of the fields (configs/networks.py).

    grid_size: the positions of the patches span grid_size along either axis, so that other image sizes are seen as
    finer or coarser; 0: neighbouring patches are 1 apart. embedder: one embedding of noise level and conditions for all
    blocks, "shared" (the paper), or one for each block, the first one's also for the last layer, "per_block"
    (diffusers), with which conditions can only be vectors. mlp_norm_eps: epsilon of the norm before the mlp. remat:
    recomputes blocks in the backward pass, for less memory and about a third more time.

    Raises ValueError where patch_size does not divide a side, and where `heads` or 4 does not divide `features`.
    """

    out_channels: int
    features: int = 384
    depth: int = 12
    heads: int = 6
    patch_size: int = 2
    mlp_ratio: int = 4
    dropout: float = 0.0
    grid_size: int = 0
    embedder: Literal["shared", "per_block"] = "shared"
    freq_shift: int = 0
    qkv_bias: bool = True
    mlp_norm_eps: float = 1e-6
    conditioner: Conditioner | None = None
    dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        c_noise: Float[Array, " b"],
        cond: Mapping[str, Any],
        *,
        train: bool = False,
    ) -> Float[Array, "b h w o"]:
        check_patches(x.shape[1], x.shape[2], patch_size=self.patch_size)
        heads = head_count(self.features, self.heads, 0)
        conditions, embeddings = self._embeddings(c_noise, cond)

        h = Patches(self.features, self.patch_size, self.dtype, name="patches")(conditions.concat_to(x))
        batch, rows, columns, _ = h.shape
        h += positions(rows, columns, self.features, grid_size=self.grid_size).astype(self.dtype)
        h = h.reshape(batch, rows * columns, self.features)

        block_type = nn.remat(Block, static_argnums=(5,)) if self.remat else Block
        for index, c in enumerate(embeddings):
            block = block_type(
                heads, self.mlp_ratio, self.dropout, self.qkv_bias, self.mlp_norm_eps, self.dtype, name=f"block_{index}"
            )
            h = block(h, c, conditions.tokens, conditions.mask, train)

        modulation = Dense(2 * self.features, zero_init=True, dtype=self.dtype, name="last_modulation")(embeddings[0])
        shift, scale = jnp.split(modulation[:, None], 2, axis=-1)
        h = layer_norm(h, dtype=self.dtype) * (1 + scale) + shift
        side = self.patch_size
        h = Dense(side * side * self.out_channels, zero_init=True, dtype=self.dtype, name="last")(h)
        pixels = h.reshape(batch, rows, columns, side, side, self.out_channels).swapaxes(2, 3)
        return pixels.reshape(*x.shape[:3], self.out_channels).astype(jnp.float32)

    def _embeddings(self, c_noise: Array, cond: Mapping[str, Any]) -> tuple[Embedded, list[Array]]:
        """The conditions' embedding, and for each block SiLU of the embedding of noise level and conditions."""

        def embedded(conditioner: Conditioner | None, name: str) -> tuple[Embedded, Array]:
            conditions = conditioner(cond) if conditioner else Embedded()
            noise = NoiseEmbedding(self.features, 256, freq_shift=self.freq_shift, dtype=self.dtype, name=name)
            return conditions, nn.silu(conditions.add_to(noise(c_noise)))

        if self.embedder == "shared":
            conditions, embedding = embedded(self.conditioner, "noise")
            return conditions, [embedding] * self.depth
        per_block = [
            embedded(self.conditioner and self.conditioner.copy(name=f"conditioner_{index}"), f"noise_{index}")
            for index in range(self.depth)
        ]
        conditions = per_block[0][0]
        if conditions.tokens is not None or conditions.channels is not None:
            raise ValueError("embedder='per_block' takes conditions as vectors only, not as tokens or channels")
        return conditions, [embedding for _, embedding in per_block]


def layer_norm(h: Float[Array, "b t d"], *, dtype: Dtype, epsilon: float = 1e-6) -> Float[Array, "b t d"]:
    """(h - mean) / std over the features of a token: a layer norm without learned scale and shift."""
    return nn.LayerNorm(epsilon=epsilon, use_bias=False, use_scale=False, dtype=dtype)(h)


def check_patches(height: int, width: int, *, patch_size: int) -> None:
    """Raises ValueError where patch_size does not divide a side."""
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"images of {height}x{width} do not divide into patches of {patch_size}x{patch_size}: sides must be "
            f"multiples of {patch_size}"
        )

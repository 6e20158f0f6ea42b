"""The diffusion transformer, DiT (Peebles & Xie, arXiv 2212.09748): attention over patches, without a UNet's levels.

c = noise level + conditions;  shift, scale, gate (twice) = W SiLU(c)           adaLN-Zero: W = 0 at first
h += gate attention(norm(h) (1 + scale) + shift)
h += W attention(norm(h), tokens)                 where conditions are tokens (Chen et al., arXiv 2310.00426)
h += gate mlp(norm(h) (1 + scale) + shift)
"""

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
    """W patch + b, for each patch of `size` x `size` pixels."""

    features: int
    size: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        batch, height, width, channels = x.shape
        # A linear layer on the whole patch, so all three axes of it are the fan in.
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=(0, 1, 2))
        kernel = self.param("kernel", init, (self.size, self.size, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        patches = x.reshape(batch, height // self.size, self.size, width // self.size, self.size, channels)
        return jnp.einsum("bhpwqc,pqcf->bhwf", patches, kernel) + bias


class Block(nn.Module):
    """One layer, [B, t, d] -> [B, t, d]: self-attention, cross-attention where there are tokens, and a two-layer
    perceptron (`mlp_ratio` times as wide), each on a norm and added to h. c: SiLU of the embedding.
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

        mixed = multi_head("attention", zero_init=False)(plain_norm(h, dtype=self.dtype) * (1 + scale) + shift)
        h += gate * dropout(mixed)
        if tokens is not None:
            normed = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="cross_norm")(h)
            h += dropout(multi_head("cross", zero_init=True)(normed, tokens, mask))
        normed = plain_norm(h, epsilon=self.mlp_norm_eps, dtype=self.dtype) * (1 + mlp_scale) + mlp_shift
        wide = Dense(self.mlp_ratio * features, dtype=self.dtype, name="wide")(normed)
        return h + mlp_gate * Dense(features, dtype=self.dtype, name="narrow")(dropout(nn.gelu(wide, approximate=True)))


class DiT(nn.Module):
    """F(x, c_noise, cond): an image of x's sides with `out_channels` channels, float32.

    Sides must divide by `patch_size`. Parameters, norms' statistics and the output are float32; `dtype` is what the
    layers compute in. configs/networks.py has the published ones.

    grid_size: positions span so many patches either way, whatever the image's sides, so that a model made for one size
    sees others as finer or coarser; 0: neighbouring patches are always 1 apart.
    embedder: one embedding of noise level and conditions for all blocks, "shared" (the paper), or one for each block,
    the first one's also for the last layer, "per_block" (diffusers); then conditions can only be vectors.
    wave_offset: see `sinusoidal`. mlp_norm_eps: epsilon of the norm before the perceptron.
    remat: each block is computed again in the backward pass: less memory, about a third more time.

    Raises ValueError for sides that the patch does not divide, and for features that the heads, or 4, do not divide.
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
    wave_offset: int = 0
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
        given, embeddings = self._embeddings(c_noise, cond)

        h = Patches(self.features, self.patch_size, self.dtype, name="patches")(given.beside(x))
        batch, rows, columns, _ = h.shape
        h += positions(rows, columns, self.features, grid_size=self.grid_size).astype(self.dtype)
        h = h.reshape(batch, rows * columns, self.features)

        block_type = nn.remat(Block, static_argnums=(5,)) if self.remat else Block
        for index, c in enumerate(embeddings):
            block = block_type(
                heads, self.mlp_ratio, self.dropout, self.qkv_bias, self.mlp_norm_eps, self.dtype, name=f"block_{index}"
            )
            h = block(h, c, given.tokens, given.mask, train)

        modulation = Dense(2 * self.features, zero_init=True, dtype=self.dtype, name="last_modulation")(embeddings[0])
        shift, scale = jnp.split(modulation[:, None], 2, axis=-1)
        h = plain_norm(h, dtype=self.dtype) * (1 + scale) + shift
        side = self.patch_size
        h = Dense(side * side * self.out_channels, zero_init=True, dtype=self.dtype, name="last")(h)
        pixels = h.reshape(batch, rows, columns, side, side, self.out_channels).swapaxes(2, 3)
        return pixels.reshape(*x.shape[:3], self.out_channels).astype(jnp.float32)

    def _embeddings(self, c_noise: Array, cond: Mapping[str, Any]) -> tuple[Embedded, list[Array]]:
        """What is known of the conditions, and for each block SiLU of its embedding of noise level and conditions."""

        def embedded(conditioner: Conditioner | None, name: str) -> tuple[Embedded, Array]:
            given = conditioner(cond) if conditioner else Embedded()
            noise = NoiseEmbedding(self.features, 256, offset=self.wave_offset, dtype=self.dtype, name=name)
            return given, nn.silu(given.added(noise(c_noise)))

        if self.embedder == "shared":
            given, embedding = embedded(self.conditioner, "noise")
            return given, [embedding] * self.depth
        answers = [
            embedded(self.conditioner and self.conditioner.copy(name=f"conditioner_{index}"), f"noise_{index}")
            for index in range(self.depth)
        ]
        given = answers[0][0]
        if given.tokens is not None or given.planes is not None:
            raise ValueError("embedder='per_block' takes conditions as vectors only, not as tokens or planes")
        return given, [embedding for _, embedding in answers]


def plain_norm(h: Float[Array, "b t d"], *, dtype: Dtype, epsilon: float = 1e-6) -> Float[Array, "b t d"]:
    """(h - mean) / std over the features of a token: a layer norm whose scale and shift come from elsewhere."""
    return nn.LayerNorm(epsilon=epsilon, use_bias=False, use_scale=False, dtype=dtype)(h)


def check_patches(height: int, width: int, *, patch_size: int) -> None:
    """Raises ValueError where a side does not divide by the patch's."""
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"images of {height}x{width} do not divide into patches of {patch_size}x{patch_size}: sides must be "
            f"multiples of {patch_size}"
        )

"""The UNet of diffusion models (Ho et al., arXiv 2006.11239; Song et al., arXiv 2011.13456; Karras et al., 2206.00364).

Level i works at side / 2^i. Going down, every block's output is kept; going up, each block takes one of them back.
Published layouts are choices of its fields; configs/networks.py has them by name.
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.attention import CrossAttention, SelfAttention, SpatialTransformer, head_count
from jdiff.networks.blocks import DenseBlock, InceptionBlock, ResBlock, VGGBlock
from jdiff.networks.conditioning import Conditioner, Embedded
from jdiff.networks.embeddings import NoiseEmbedding
from jdiff.networks.layers import Conv, Norm, Style
from jdiff.networks.resample import Downsample, Resample, Upsample
from jdiff.networks.resample import resample as resampled

BLOCKS: dict[str, type[nn.Module]] = {
    "residual": ResBlock,
    "vgg": VGGBlock,
    "dense": DenseBlock,
    "inception": InceptionBlock,
}


class UNet(nn.Module):
    """F(x, c_noise, cond): an image of x's sides with `out_channels` channels, float32.

    Sides must divide by 2^(levels - 1). Parameters, norms' statistics and the output are float32; `style.dtype` is what
    the layers compute in.

    attention: "self", "cross" (to the conditions' tokens) or "transformer" (both and a feed-forward layer), at
    `attention_levels` and in the middle; attention_heads: for all levels, or one a level; head_channels: instead, so
    many channels a head. up_attention: after "every" block on the way up, or the "last" of a level.
    resample: "conv", "residual" (blocks that halve and double) or "pool" (without parameters).
    input_skip: the image itself, halved and convolved, is added at every level (NCSN++'s residual encoder).
    waves: features of the noise level's embedding (0: `channels`), of `noise_embedding`'s kind.
    remat: each block is computed again in the backward pass: less memory, about a third more time.
    """

    out_channels: int
    channels: int = 128
    channel_mults: tuple[int, ...] = (1, 2, 2, 2)
    blocks_per_level: int = 2
    block: Literal["residual", "vgg", "dense", "inception"] = "residual"
    attention: Literal["self", "cross", "transformer"] = "self"
    attention_levels: tuple[int, ...] = (1,)
    attention_heads: int | tuple[int, ...] = 1
    head_channels: int = 0
    transformer_depth: int | tuple[int, ...] = 1
    middle_attention: bool = True
    up_attention: Literal["every", "last"] = "every"
    resample: Literal["conv", "residual", "pool"] = "conv"
    down_padding: tuple[int, int] | None = None  # of the strided convolution; None: one zero on either side
    input_skip: bool = False
    noise_embedding: Literal["sinusoidal", "fourier"] = "sinusoidal"
    waves: int = 0
    wave_offset: int = 0
    style: Style = Style()
    conditioner: Conditioner | None = None
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
        check_sides(x.shape[1], x.shape[2], levels=len(self.channel_mults))
        style = self.style
        given = self.conditioner(cond) if self.conditioner else Embedded()
        noise = NoiseEmbedding(
            4 * self.channels,
            self.waves or self.channels,
            self.noise_embedding,
            self.wave_offset,
            style.dtype,
            name="noise",
        )
        embedding = nn.silu(given.added(noise(c_noise)))
        block_type = BLOCKS[self.block]
        if self.remat:
            block_type = nn.remat(block_type, static_argnums=(3,))

        def block(x: Array, features: int, name: str, resample: Resample = "none") -> Array:
            return block_type(features, style, resample=resample, name=name)(x, embedding, train)

        levels = [(level, mult * self.channels) for level, mult in enumerate(self.channel_mults)]
        image = given.beside(x)

        h = Conv(self.channels, dtype=style.dtype, name="first")(image.astype(style.dtype))
        skips = [h]
        for level, features in levels:
            if level > 0:
                if self.resample == "residual":
                    h = block(h, h.shape[-1], f"down{level}", "down")
                else:
                    h = Downsample(self.resample, style, self.down_padding, name=f"down{level}")(h)
                if self.input_skip:
                    h, image = self._with_input(h, image, level)
                skips.append(h)
            for index in range(self.blocks_per_level):
                name = f"down{level}_{index}"
                h = block(h, features, name)
                if level in self.attention_levels:
                    h = self._attend(h, given, level, name)
                skips.append(h)

        last, features = levels[-1]
        h = block(h, features, "middle_0")
        if self.middle_attention:
            h = self._attend(h, given, last, "middle")
        h = block(h, features, "middle_1")

        for level, features in reversed(levels):
            for index in range(self.blocks_per_level + 1):
                name = f"up{level}_{index}"
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), features, name)
                attends = self.up_attention == "every" or index == self.blocks_per_level
                if level in self.attention_levels and attends:
                    h = self._attend(h, given, level, name)
            if level > 0:
                if self.resample == "residual":
                    h = block(h, features, f"up{level}", "up")
                else:
                    h = Upsample(self.resample, style, name=f"up{level}")(h)

        h = nn.silu(Norm(style, name="last_norm")(h))
        return Conv(self.out_channels, zero_init=True, dtype=style.dtype, name="last")(h).astype(jnp.float32)

    def _attend(self, h: Array, given: Embedded, level: int, name: str) -> Array:
        def at_level(values: int | tuple[int, ...]) -> int:
            return values if isinstance(values, int) else values[level]

        heads = head_count(h.shape[-1], at_level(self.attention_heads), self.head_channels)
        remat = nn.remat if self.remat else (lambda layer: layer)
        name = f"{name}_attention"
        if self.attention == "self":
            return remat(SelfAttention)(self.style, heads, name=name)(h)
        if self.attention == "cross":
            assert given.tokens is not None, "cross-attention needs a condition of tokens"
            return remat(CrossAttention)(self.style, heads, name=name)(h, given.tokens, given.mask)
        depth = at_level(self.transformer_depth)
        return remat(SpatialTransformer)(self.style, heads, depth, name=name)(h, given.tokens, given.mask)

    def _with_input(self, h: Array, image: Array, level: int) -> tuple[Array, Array]:
        """(h with the image added, the image as it goes on down) (Song et al., arXiv 2011.13456, appendix H)."""
        halved = resampled(image, "down", self.style.resample_filter)
        image = Conv(h.shape[-1], dtype=self.style.dtype, name=f"input{level}")(halved)
        h = (h + image) * self.style.skip_scale
        return h, h


def check_sides(height: int, width: int, *, levels: int) -> None:
    """Raises ValueError where a side does not divide by the total stride, 2^(levels - 1)."""
    stride = 2 ** (levels - 1)
    if height % stride or width % stride:
        raise ValueError(
            f"images of {height}x{width} do not fit a UNet of {levels} levels: sides must be multiples of {stride}"
        )

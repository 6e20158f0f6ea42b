"""The UNet of diffusion models (Ho et al., arXiv 2006.11239; Song et al., arXiv 2011.13456; Karras et al., 2206.00364).

Level i has sides / 2^i. A skip connection leads from every block of the encoder to one of the decoder.
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
    """F(x, c_noise, cond) -> [B, H, W, out_channels] float32, the raw network of a denoiser.

    Parameters and the norms' statistics are float32; `style.dtype` is that of the computation. Published networks are
    choices of the fields (configs/networks.py).

    attention: "self", "cross" (to the conditions' tokens) or "transformer" (both and a feed-forward network), at
    `attention_levels` and in the middle. attention_heads: of all levels, or of each. head_channels: the channels of a
    head, which then says how many heads there are. up_attention: after "every" block of the decoder's level, or the
    "last". resample: "conv", "residual" (in a residual block) or "pool" (without parameters). input_skip: the
    downsampled image is added at every level of the encoder (Song et al., arXiv 2011.13456, the residual encoder of
    NCSN++). noise_channels: features of the noise level before its two layers; 0: `channels`. remat: recomputes blocks
    in the backward pass, for less memory and about a third more time. adapter: gives what is added to the skip
    connections and to the middle's output (networks/adapter.py); joints: whether this is the way down of an adapter,
    which ends there; hint: added to the first convolution's output.

    Raises ValueError where 2^(levels - 1) does not divide a side.
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
    noise_channels: int = 0
    freq_shift: int = 0
    style: Style = Style()
    conditioner: Conditioner | None = None
    remat: bool = False
    adapter: nn.Module | None = None
    joints: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        c_noise: Float[Array, " b"],
        cond: Mapping[str, Any],
        *,
        train: bool = False,
        hint: Float[Array, "b h w f"] | None = None,
    ) -> Float[Array, "b h w o"] | list[Array]:
        check_sides(x.shape[1], x.shape[2], levels=len(self.channel_mults))
        style = self.style
        conditions = self.conditioner(cond) if self.conditioner else Embedded()
        noise = NoiseEmbedding(
            4 * self.channels,
            self.noise_channels or self.channels,
            self.noise_embedding,
            self.freq_shift,
            style.dtype,
            name="noise",
        )
        embedding = nn.silu(conditions.add_to(noise(c_noise)))
        block_type = BLOCKS[self.block]
        if self.remat:
            block_type = nn.remat(block_type, static_argnums=(3,))

        def block(x: Array, features: int, name: str, resample: Resample = "none") -> Array:
            return block_type(features, style, resample=resample, name=name)(x, embedding, train)

        levels = [(level, mult * self.channels) for level, mult in enumerate(self.channel_mults)]
        image = conditions.concat_to(x)

        h = Conv(self.channels, dtype=style.dtype, name="first")(image.astype(style.dtype))
        h = h if hint is None else h + hint
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
                    h = self._attend(h, conditions, level, name)
                skips.append(h)

        last, features = levels[-1]
        h = block(h, features, "middle_0")
        if self.middle_attention:
            h = self._attend(h, conditions, last, "middle")
        h = block(h, features, "middle_1")
        if self.joints:
            return [
                Conv(each.shape[-1], 1, zero_init=True, dtype=style.dtype, name=f"joint_{index}")(each)
                for index, each in enumerate([*skips, h])
            ]
        if self.adapter:
            *added, last_added = self.adapter(x, c_noise, cond, train=train)
            skips = [skip + joint for skip, joint in zip(skips, added, strict=True)]
            h = h + last_added

        for level, features in reversed(levels):
            for index in range(self.blocks_per_level + 1):
                name = f"up{level}_{index}"
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), features, name)
                attends = self.up_attention == "every" or index == self.blocks_per_level
                if level in self.attention_levels and attends:
                    h = self._attend(h, conditions, level, name)
            if level > 0:
                if self.resample == "residual":
                    h = block(h, features, f"up{level}", "up")
                else:
                    h = Upsample(self.resample, style, name=f"up{level}")(h)

        h = nn.silu(Norm(style, name="last_norm")(h))
        return Conv(self.out_channels, zero_init=True, dtype=style.dtype, name="last")(h).astype(jnp.float32)

    def _attend(self, h: Array, conditions: Embedded, level: int, name: str) -> Array:
        def at_level(values: int | tuple[int, ...]) -> int:
            return values if isinstance(values, int) else values[level]

        heads = head_count(h.shape[-1], at_level(self.attention_heads), self.head_channels)
        remat = nn.remat if self.remat else (lambda layer: layer)
        name = f"{name}_attention"
        if self.attention == "self":
            return remat(SelfAttention)(self.style, heads, name=name)(h)
        if self.attention == "cross":
            assert conditions.tokens is not None, "cross-attention needs the tokens of a condition"
            return remat(CrossAttention)(self.style, heads, name=name)(h, conditions.tokens, conditions.mask)
        depth = at_level(self.transformer_depth)
        return remat(SpatialTransformer)(self.style, heads, depth, name=name)(h, conditions.tokens, conditions.mask)

    def _with_input(self, h: Array, image: Array, level: int) -> tuple[Array, Array]:
        """(h + conv(down(image)), the image of the next level) (Song et al., arXiv 2011.13456, appendix H)."""
        halved = resampled(image, "down", self.style.resample_filter)
        image = Conv(h.shape[-1], dtype=self.style.dtype, name=f"input{level}")(halved)
        h = (h + image) * self.style.skip_scale
        return h, h


def check_sides(height: int, width: int, *, levels: int) -> None:
    """Raises ValueError where the total stride, 2^(levels - 1), does not divide a side."""
    stride = 2 ** (levels - 1)
    if height % stride or width % stride:
        raise ValueError(
            f"images of {height}x{width} do not fit a UNet of {levels} levels: sides must be multiples of {stride}"
        )

"""The autoencoders of latent diffusion (Rombach et al., arXiv 2112.10752; Esser et al., 2012.09841). Images are NHWC.

    KLAutoencoder   x -> (mean, log variance) of a Gaussian over latents;   latents -> x
    VQAutoencoder   x -> latents;   their nearest codes -> x

Latents' sides are the image's, divided by 2^(levels - 1). A latent is as the network makes it: the factor that brings
it to variance 1 for diffusion is not applied here.
"""

from dataclasses import dataclass, field

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jdiff.common.errors import UserError
from jdiff.networks.attention import SelfAttention
from jdiff.networks.blocks import ResBlock
from jdiff.networks.layers import Conv, Norm, Style
from jdiff.networks.quantizer import Codebook
from jdiff.networks.resample import Downsample, Upsample

ZEROS_AFTER_ONLY = (0, 1)  # how the published encoders pad before a strided convolution
LOG_VARIANCES = (-30.0, 20.0)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What an encoder and its decoder have in common: level i has channels * channel_mults[i] channels and works at
    side / 2^i. blocks_per_level: the encoder's; the decoder has one more. Attention (with one head) follows every
    block of `attention_levels`.
    """

    channels: int = 128
    channel_mults: tuple[int, ...] = (1, 2, 4, 4)
    blocks_per_level: int = 2
    attention_levels: tuple[int, ...] = ()
    middle_attention: bool = True
    style: Style = field(default_factory=Style)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(mult * self.channels for mult in self.channel_mults)

    @property
    def stride(self) -> int:
        return 2 ** (len(self.channel_mults) - 1)


class Encoder(nn.Module):
    """x -> features of sides / 2^(levels - 1), float32. Raises UserError for sides that do not divide by it."""

    out_channels: int
    layout: Layout

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h2 w2 o"]:
        layout, style = self.layout, self.layout.style
        height, width = x.shape[1:3]
        if height % layout.stride or width % layout.stride:
            raise UserError(
                f"images of {height}x{width} do not fit an autoencoder of {len(layout.widths)} levels: "
                f"sides must be multiples of {layout.stride}"
            )
        h = Conv(layout.channels, dtype=style.dtype, name="first")(x)
        for level in range(len(layout.widths)):
            if level > 0:
                h = Downsample("conv", style, ZEROS_AFTER_ONLY, name=f"down{level}")(h)
            h = _level(layout, h, level, "down", layout.blocks_per_level, train)
        return _last(layout, _middle(layout, h, train), self.out_channels)


class Decoder(nn.Module):
    """Features -> an image of sides * 2^(levels - 1), float32."""

    out_channels: int
    layout: Layout

    @nn.compact
    def __call__(self, z: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h2 w2 o"]:
        layout, style = self.layout, self.layout.style
        h = Conv(layout.widths[-1], dtype=style.dtype, name="first")(z)
        h = _middle(layout, h, train)
        for level in reversed(range(len(layout.widths))):
            h = _level(layout, h, level, "up", layout.blocks_per_level + 1, train)
            if level > 0:
                h = Upsample("conv", style, name=f"up{level}")(h)
        return _last(layout, h, self.out_channels)


class KLAutoencoder(nn.Module):
    """p(z | x) = N(mean, exp(log_variance)) and x = decode(z); called, decode(mean).

    quant_conv, post_quant_conv: a 1x1 convolution of the moments, and one of what is decoded (as published).
    """

    latent_channels: int = 4
    out_channels: int = 3
    layout: Layout = Layout()
    quant_conv: bool = True
    post_quant_conv: bool = True

    def setup(self) -> None:
        self.encoder = Encoder(2 * self.latent_channels, self.layout)
        self.decoder = Decoder(self.out_channels, self.layout)
        # In float32 whatever the layers compute in: they are small, and what they make is kept.
        if self.quant_conv:
            self.quant = Conv(2 * self.latent_channels, size=1)
        if self.post_quant_conv:
            self.post_quant = Conv(self.latent_channels, size=1)

    def encode(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b h2 w2 z"], Float[Array, "b h2 w2 z"]]:
        """(mean, log_variance), the latter kept within [-30, 20]."""
        moments = self.encoder(x, train=train)
        if self.quant_conv:
            moments = self.quant(moments)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCES)

    def decode(self, z: Float[Array, "b h w z"], *, train: bool = False) -> Float[Array, "b h2 w2 c"]:
        return self.decoder(self.post_quant(z) if self.post_quant_conv else z, train=train)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w o"]:
        mean, _ = self.encode(x, train=train)
        return self.decode(mean, train=train)


class VQAutoencoder(nn.Module):
    """z = encode(x) and x = decode(the codes nearest to z); called, the one after the other.

    codes: how many; code_width: channels of a code and of z. latent_channels: what the encoder makes and the decoder
    takes, before and after the 1x1 convolutions from and to the code's width.
    """

    codes: int = 8192
    code_width: int = 3
    latent_channels: int = 3
    out_channels: int = 3
    layout: Layout = Layout()

    def setup(self) -> None:
        self.encoder = Encoder(self.latent_channels, self.layout)
        self.decoder = Decoder(self.out_channels, self.layout)
        self.quant = Conv(self.code_width, size=1)
        self.post_quant = Conv(self.latent_channels, size=1)
        self.codebook = Codebook(self.codes, self.code_width)

    def encode(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h2 w2 d"]:
        """Latents before quantisation."""
        return self.quant(self.encoder(x, train=train))

    def quantize(self, z: Float[Array, "b h w d"]) -> tuple[Float[Array, "b h w d"], Int[Array, "b h w"]]:
        """(nearest codes, their indices); the gradient goes straight through (`quantizer.nearest`)."""
        return self.codebook(z)

    def lookup(self, indices: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """The codes of these indices, to be decoded without quantising again."""
        return self.codebook.lookup(indices)

    def decode(
        self, z: Float[Array, "b h w d"], *, quantize: bool = True, train: bool = False
    ) -> Float[Array, "b h2 w2 c"]:
        """The image of the codes nearest to z, or, without `quantize`, of z itself."""
        if quantize:
            z, _ = self.quantize(z)
        return self.decoder(self.post_quant(z), train=train)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w o"]:
        return self.decode(self.encode(x, train=train), train=train)


def _level(layout: Layout, h: Array, level: int, way: str, blocks: int, train: bool) -> Array:
    for index in range(blocks):
        name = f"{way}{level}_{index}"
        h = ResBlock(layout.widths[level], layout.style, name=name)(h, None, train)
        if level in layout.attention_levels:
            h = SelfAttention(layout.style, name=f"{name}_attention")(h)
    return h


def _middle(layout: Layout, h: Array, train: bool) -> Array:
    h = ResBlock(layout.widths[-1], layout.style, name="middle_0")(h, None, train)
    if layout.middle_attention:
        h = SelfAttention(layout.style, name="middle_attention")(h)
    return ResBlock(layout.widths[-1], layout.style, name="middle_1")(h, None, train)


def _last(layout: Layout, h: Array, out_channels: int) -> Array:
    h = nn.silu(Norm(layout.style, name="last_norm")(h))
    return Conv(out_channels, dtype=layout.style.dtype, name="last")(h).astype(jnp.float32)

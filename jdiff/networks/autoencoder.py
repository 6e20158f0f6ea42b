"""The autoencoder of latent diffusion (Rombach et al., arXiv 2112.10752; Esser et al., 2012.09841).

Latents have the image's sides divided by 2^(levels - 1). They are not scaled to unit variance here.
"""

from dataclasses import dataclass, field

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.common.errors import UserError
from jdiff.networks.attention import SelfAttention
from jdiff.networks.blocks import ResBlock
from jdiff.networks.layers import Conv, Norm, Style
from jdiff.networks.resample import Downsample, Upsample

ASYMMETRIC_PADDING = (0, 1)  # of the published encoders' strided convolutions


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The hyperparameters that an encoder and its decoder share. Level i has channels * channel_mults[i] channels and
    sides / 2^i. blocks_per_level: in the encoder; the decoder has one more. attention_levels: levels whose blocks are
    each followed by attention with one head.
    """

    channels: int = 128
    channel_mults: tuple[int, ...] = (1, 2, 4, 4)
    blocks_per_level: int = 2
    attention_levels: tuple[int, ...] = ()
    middle_attention: bool = True
    style: Style = field(default_factory=Style)

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of each level."""
        return tuple(mult * self.channels for mult in self.channel_mults)

    @property
    def stride(self) -> int:
        """An image's side over its latent's."""
        return 2 ** (len(self.channel_mults) - 1)


class Encoder(nn.Module):
    """An image [B, H, W, C] -> float32 features [B, H/s, W/s, out_channels], s = 2^(levels - 1).

    Raises UserError where s does not divide a side.
    """

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
                h = Downsample("conv", style, ASYMMETRIC_PADDING, name=f"down{level}")(h)
            h = _level(layout, h, level, "down", layout.blocks_per_level, train)
        return _last(layout, _middle(layout, h, train), self.out_channels)


class Decoder(nn.Module):
    """Features [B, h, w, c] -> a float32 image [B, s h, s w, out_channels], s = 2^(levels - 1)."""

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


class Autoencoder(nn.Module):
    """An image [B, H, W, C] -> features [B, h, w, features], latents [B, h, w, latent_channels] -> an image; what lies
    between them is a bottleneck (bottlenecks.py). A call decodes the first latent_channels features: the means of a
    Gaussian, all features otherwise.

    encoder_channels: of the encoder, from which a 1x1 convolution leads to the features; None: the encoder gives the
    features. decoder_channels: of what the decoder takes, to which a 1x1 convolution leads from latents; None: latents.
    """

    features: int = 8
    latent_channels: int = 4
    out_channels: int = 3
    layout: Layout = Layout()
    encoder_channels: int | None = None
    decoder_channels: int | None = None

    def setup(self) -> None:
        self.encoder = Encoder(self.encoder_channels or self.features, self.layout)
        self.decoder = Decoder(self.out_channels, self.layout)
        # In float32 whatever the layers compute in: they are small, and they round the latents.
        if self.encoder_channels is not None:
            self.quant = Conv(self.features, size=1)
        if self.decoder_channels is not None:
            self.post_quant = Conv(self.decoder_channels, size=1)

    def encode(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h2 w2 f"]:
        """The features of images in [-1, 1]."""
        h = self.encoder(x, train=train)
        return h if self.encoder_channels is None else self.quant(h)

    def decode(self, z: Float[Array, "b h w z"], *, train: bool = False) -> Float[Array, "b h2 w2 o"]:
        """The images of latents."""
        return self.decoder(z if self.decoder_channels is None else self.post_quant(z), train=train)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w o"]:
        return self.decode(self.encode(x, train=train)[..., : self.latent_channels], train=train)


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

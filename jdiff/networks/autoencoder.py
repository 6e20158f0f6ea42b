"""The autoencoders of latent diffusion (Rombach et al., arXiv 2112.10752; Esser et al., 2012.09841).

Latents have the image's sides divided by 2^(levels - 1). They are not scaled to unit variance here.
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

ASYMMETRIC_PADDING = (0, 1)  # of the published encoders' strided convolutions
LOG_VARIANCE_RANGE = (-30.0, 20.0)


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


class KLAutoencoder(nn.Module):
    """q(z | x) = N(mean, exp(log_variance)), x = decode(z) (Rombach et al., arXiv 2112.10752); a call is decode(mean).

    quant_conv, post_quant_conv: whether a 1x1 convolution follows the encoder, and one precedes the decoder.
    """

    latent_channels: int = 4
    out_channels: int = 3
    layout: Layout = Layout()
    quant_conv: bool = True
    post_quant_conv: bool = True

    def setup(self) -> None:
        self.encoder = Encoder(2 * self.latent_channels, self.layout)
        self.decoder = Decoder(self.out_channels, self.layout)
        # In float32 whatever the layers compute in: they are small, and they round the latents.
        if self.quant_conv:
            self.quant = Conv(2 * self.latent_channels, size=1)
        if self.post_quant_conv:
            self.post_quant = Conv(self.latent_channels, size=1)

    def encode(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b h2 w2 z"], Float[Array, "b h2 w2 z"]]:
        """(mean, log_variance) of q(z | x), the latter clipped to [-30, 20]."""
        moments = self.encoder(x, train=train)
        if self.quant_conv:
            moments = self.quant(moments)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)

    def decode(self, z: Float[Array, "b h w z"], *, train: bool = False) -> Float[Array, "b h2 w2 c"]:
        """The image of latents z."""
        return self.decoder(self.post_quant(z) if self.post_quant_conv else z, train=train)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w o"]:
        mean, _ = self.encode(x, train=train)
        return self.decode(mean, train=train)


class VQAutoencoder(nn.Module):
    """z = encode(x), x = decode(z) through the code nearest to each z (Esser et al., arXiv 2012.09841); a call is
    decode(encode(x)).

    codebook_size, code_dim: the codebook is [codebook_size, code_dim]; z has code_dim channels. latent_channels: of the
    encoder's output and the decoder's input; 1x1 convolutions lead from there to z and back.
    """

    codebook_size: int = 8192
    code_dim: int = 3
    latent_channels: int = 3
    out_channels: int = 3
    layout: Layout = Layout()

    def setup(self) -> None:
        self.encoder = Encoder(self.latent_channels, self.layout)
        self.decoder = Decoder(self.out_channels, self.layout)
        self.quant = Conv(self.code_dim, size=1)
        self.post_quant = Conv(self.latent_channels, size=1)
        self.codebook = Codebook(self.codebook_size, self.code_dim)

    def encode(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h2 w2 d"]:
        """Latents before quantisation."""
        return self.quant(self.encoder(x, train=train))

    def quantize(self, z: Float[Array, "b h w d"]) -> tuple[Float[Array, "b h w d"], Int[Array, "b h w"]]:
        """(the nearest codes, their indices), with the straight-through gradient (`quantizer.nearest`)."""
        return self.codebook(z)

    def lookup(self, indices: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """The codes of these indices, for decode(..., quantize=False)."""
        return self.codebook.lookup(indices)

    def decode(
        self, z: Float[Array, "b h w d"], *, quantize: bool = True, train: bool = False
    ) -> Float[Array, "b h2 w2 c"]:
        """The image of the codes nearest to z, or of z itself where `quantize` is false."""
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

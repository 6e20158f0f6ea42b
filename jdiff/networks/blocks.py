"""The UNet's blocks: (x [B, H, W, C], embedding [B, e], train) -> [B, H', W', features].

In every block the embedding of noise level and conditions enters through `Modulation`, before the last layer, and
`resample` "down" or "up" halves or doubles the sides.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.layers import Conv, Dense, Norm, Style
from jdiff.networks.resample import Resample, resample


class Modulation(nn.Module):
    """dropout(SiLU(norm(h) (1 + scale) + shift)), or dropout(SiLU(norm(h + shift))) without `Style.scale_shift`, with
    scale and shift linear in the embedding; dropout(SiLU(norm(h))) without an embedding.

    An instance norm would cancel the shift of its input, so that its output is shifted.
    """

    style: Style

    @nn.compact
    def __call__(self, h: Float[Array, "b h w c"], embedding: Float[Array, "b e"] | None, train: bool) -> Array:
        style, features, norm = self.style, h.shape[-1], Norm(self.style, name="norm")
        if embedding is None:
            h = norm(h)
        else:
            outputs = 2 * features if style.scale_shift else features
            shift = Dense(outputs, dtype=style.dtype, name="embedding")(embedding)[:, None, None, :]
            if style.scale_shift:
                scale, shift = jnp.split(shift, 2, axis=-1)
                h = norm(h) * (1 + scale) + shift
            else:
                h = norm(h) + shift if style.norm == "instance" else norm(h + shift)
        return nn.Dropout(style.dropout, deterministic=not train)(nn.silu(h))


class ResBlock(nn.Module):
    """skip(x) + conv(modulation(conv(SiLU(norm(x))))) (Ho et al., arXiv 2006.11239, appendix B).

    `resample` acts on both branches inside the block (Dhariwal & Nichol, arXiv 2105.05233, after BigGAN).
    """

    features: int
    style: Style
    resample: Resample = "none"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"] | None, train: bool
    ) -> Float[Array, "b h2 w2 f"]:
        style = self.style
        h = resample(nn.silu(Norm(style, name="norm_0")(x)), self.resample, style.resample_filter)
        h = Conv(self.features, dtype=style.dtype, name="conv_0")(h)
        h = Modulation(style, name="modulation")(h, embedding, train)
        h = Conv(self.features, zero_init=True, dtype=style.dtype, name="conv_1")(h)

        skip = resample(x, self.resample, style.resample_filter)
        if x.shape[-1] != self.features or (self.resample != "none" and style.project_resampled):
            skip = Conv(self.features, size=1, dtype=style.dtype, name="skip")(skip)
        return (skip + h) * style.skip_scale


class VGGBlock(nn.Module):
    """SiLU(norm(conv(modulation(conv(x))))), without a skip branch: VGG (Simonyan & Zisserman, arXiv 1409.1556) with
    norms.
    """

    features: int
    style: Style
    resample: Resample = "none"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"] | None, train: bool
    ) -> Float[Array, "b h2 w2 f"]:
        style = self.style
        h = Conv(self.features, dtype=style.dtype, name="conv_0")(resample(x, self.resample, style.resample_filter))
        h = Modulation(style, name="modulation")(h, embedding, train)
        h = Conv(self.features, dtype=style.dtype, name="conv_1")(h)
        return nn.silu(Norm(style, name="norm_1")(h))


class DenseBlock(nn.Module):
    """x_{i+1} = [x_i, conv(SiLU(norm(x_i)))] with features / 2 channels a layer, then modulation and a 1x1 convolution
    (Huang et al., arXiv 1608.06993).
    """

    features: int
    style: Style
    resample: Resample = "none"
    layers: int = 3

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"] | None, train: bool
    ) -> Float[Array, "b h2 w2 f"]:
        style, growth = self.style, max(1, self.features // 2)
        h = resample(x, self.resample, style.resample_filter)
        for layer in range(self.layers):
            grown = nn.silu(Norm(style, name=f"norm_{layer}")(h))
            grown = Conv(growth, dtype=style.dtype, name=f"conv_{layer}")(grown)
            h = jnp.concatenate([h, grown], axis=-1)
        h = Modulation(style, name="modulation")(h, embedding, train)
        return Conv(self.features, size=1, dtype=style.dtype, name="transition")(h)


class InceptionBlock(nn.Module):
    """skip(x) + conv(modulation(branches(SiLU(norm(x))))), the concatenation of four branches: 1x1; 1x1, 3x3; 1x1, 3x3,
    3x3; 3x3 mean, 1x1 (Szegedy et al., arXiv 1602.07261, figure 16).
    """

    features: int
    style: Style
    resample: Resample = "none"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"] | None, train: bool
    ) -> Float[Array, "b h2 w2 f"]:
        style, width = self.style, max(1, self.features // 4)

        def conv(h: Array, size: int, name: str) -> Array:
            return Conv(width, size=size, dtype=style.dtype, name=name)(h)

        x = resample(x, self.resample, style.resample_filter)
        h = nn.silu(Norm(style, name="norm_0")(x))
        branches = [conv(h, 1, "point")]
        branches.append(conv(nn.silu(conv(h, 1, "near_0")), 3, "near_1"))
        branches.append(conv(nn.silu(conv(nn.silu(conv(h, 1, "far_0")), 3, "far_1")), 3, "far_2"))
        branches.append(conv(nn.avg_pool(h, (3, 3), padding="SAME", count_include_pad=False), 1, "mean"))
        h = Modulation(style, name="modulation")(jnp.concatenate(branches, axis=-1), embedding, train)
        h = Conv(self.features, size=1, zero_init=True, dtype=style.dtype, name="join")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, size=1, dtype=style.dtype, name="skip")(x)
        return (x + h) * style.skip_scale

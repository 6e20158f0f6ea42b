"""The UNet of diffusion models (Ho et al., arXiv 2006.11239; Song et al., arXiv 2011.13456; Karras et al., 2206.00364).

Level i works at side / 2^i. Going down, every block's output is kept; going up, each block takes one of them back. Two
published layouts differ in how a level is left and where attention stands on the way up:

    DDPM    resample "conv": a convolution of stride 2 down, nearest and a convolution up; attention after each up block
    DDPM++  resample "residual": residual blocks that halve or double; attention after a level's last up block
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.attention import SelfAttention
from jdiff.networks.blocks import Conv, Dtype, Norm, Resample, ResBlock, fan_avg, upsample
from jdiff.networks.embeddings import LabelEmbedding, sinusoidal


class UNet(nn.Module):
    """F(x, c_noise, cond): an image of x's sides with `out_channels` channels, float32.

    Sides must divide by 2^(levels - 1). `cond` may hold "label" [B], used where num_classes > 0, and "drop" (see
    jdiff.diffusion.denoiser). Parameters, norms' statistics and the output are float32; `dtype` is what the layers
    compute in. `remat` recomputes each block in the backward pass: less memory, about a third more time.
    """

    out_channels: int
    channels: int = 128
    channel_mults: tuple[int, ...] = (1, 2, 2, 2)
    blocks_per_level: int = 2
    attention_levels: tuple[int, ...] = (1,)
    attention_heads: int = 1
    up_attention: Literal["every", "last"] = "every"
    resample: Literal["conv", "residual"] = "conv"
    scale_shift: bool = True
    skip_scale: float = 1.0
    dropout: float = 0.0
    num_classes: int = 0
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
        check_sides(x.shape[1], x.shape[2], levels=len(self.channel_mults))
        block_type = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock

        def block(x: Array, features: int, name: str, resample: Resample = "none") -> Array:
            return block_type(
                features,
                dropout=self.dropout,
                scale_shift=self.scale_shift,
                skip_scale=self.skip_scale,
                resample=resample,
                dtype=self.dtype,
                name=name,
            )(x, embedding, train)

        def attend(x: Array, name: str) -> Array:
            return SelfAttention(self.attention_heads, self.skip_scale, self.dtype, name=f"{name}_attention")(x)

        embedding = self._embedding(c_noise, cond)
        levels = [(level, mult * self.channels) for level, mult in enumerate(self.channel_mults)]

        h = Conv(self.channels, dtype=self.dtype, name="first")(x.astype(self.dtype))
        skips = [h]
        for level, features in levels:
            if level > 0:
                if self.resample == "residual":
                    h = block(h, features, f"down{level}", "down")
                else:
                    h = Conv(h.shape[-1], stride=2, dtype=self.dtype, name=f"down{level}")(h)
                skips.append(h)
            for index in range(self.blocks_per_level):
                name = f"down{level}_{index}"
                h = block(h, features, name)
                if level in self.attention_levels:
                    h = attend(h, name)
                skips.append(h)

        h = block(h, levels[-1][1], "middle_0")
        h = attend(h, "middle")
        h = block(h, levels[-1][1], "middle_1")

        for level, features in reversed(levels):
            for index in range(self.blocks_per_level + 1):
                name = f"up{level}_{index}"
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), features, name)
                last = index == self.blocks_per_level
                if level in self.attention_levels and (last or self.up_attention == "every"):
                    h = attend(h, name)
            if level > 0:
                if self.resample == "residual":
                    h = block(h, levels[level - 1][1], f"up{level}", "up")
                else:
                    h = Conv(features, dtype=self.dtype, name=f"up{level}")(upsample(h))

        h = nn.silu(Norm(self.dtype, name="last_norm")(h))
        return Conv(self.out_channels, zero_init=True, dtype=self.dtype, name="last")(h).astype(jnp.float32)

    def _embedding(self, c_noise: Float[Array, " b"], cond: Mapping[str, Any]) -> Float[Array, "b e"]:
        """The vector that every block sees: time and label, through two layers."""
        embedding = sinusoidal(c_noise, self.channels)
        if self.num_classes:
            drop = cond.get("drop", {}).get("label")
            embedding += LabelEmbedding(self.num_classes, self.channels, name="label")(cond["label"], drop)
        for index in range(2):
            layer = nn.Dense(4 * self.channels, kernel_init=fan_avg, dtype=self.dtype, name=f"embedding_{index}")
            embedding = nn.silu(layer(embedding))
        return embedding


def check_sides(height: int, width: int, *, levels: int) -> None:
    """Raises ValueError where a side does not divide by the total stride, 2^(levels - 1)."""
    stride = 2 ** (levels - 1)
    if height % stride or width % stride:
        raise ValueError(
            f"images of {height}x{width} do not fit a UNet of {levels} levels: sides must be multiples of {stride}"
        )

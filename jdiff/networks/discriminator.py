"""A discriminator of patches (Isola et al., arXiv 1611.07004)."""

from dataclasses import field

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.layers import Conv, Norm, Style

WIDEST = 8  # times `channels`


class PatchDiscriminator(nn.Module):
    """An image [B, H, W, C] -> a logit for each patch [B, h, w, 1], float32; positive: a real one.

    Convolutions of 4x4: `layers` of stride 2, whose widths double from `channels` up to 8 channels, one of stride 1,
    and the last. Group norm in place of the paper's batch norm, so that an image's logits do not depend on the others.
    Sides are at least 2^layers.
    """

    channels: int = 64
    layers: int = 3
    style: Style = field(default_factory=Style)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 1"]:
        style, h = self.style, x
        for layer in range(self.layers + 1):
            width, stride = self.channels * min(2**layer, WIDEST), 2 if layer < self.layers else 1
            # Stride 1 with 4x4 taps: (1, 2) keeps the sides, which would vanish for small images.
            padding = (1, 1) if stride == 2 else (1, 2)
            h = Conv(width, 4, stride=stride, padding=padding, dtype=style.dtype, name=f"conv_{layer}")(h)
            if layer:
                h = Norm(style, name=f"norm_{layer}")(h)
            h = nn.leaky_relu(h, 0.2)
        return Conv(1, 4, padding=(1, 2), dtype=style.dtype, name="last")(h).astype(jnp.float32)

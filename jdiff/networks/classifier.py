"""A small convolutional classifier, which is also a feature network for metrics."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.layers import Conv, Dtype, Norm, Style
from jdiff.networks.resample import resample


class Classifier(nn.Module):
    """An image -> (logits [B, num_classes], features [B, F]), float32.

    Stage i has two layers SiLU(norm(conv(h))) of channels * channel_mults[i] channels at side / 2^i. The features are
    the last stage's mean over pixels; the logits are linear in them.
    """

    num_classes: int
    channels: int = 32
    channel_mults: tuple[int, ...] = (1, 2)
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b n"], Float[Array, "b f"]]:
        h = x.astype(self.dtype)
        for stage, mult in enumerate(self.channel_mults):
            if stage > 0:
                h = resample(h, "down")
            for _ in range(2):
                h = nn.silu(Norm(Style(dtype=self.dtype))(Conv(mult * self.channels, dtype=self.dtype)(h)))
        features = h.mean(axis=(1, 2)).astype(jnp.float32)
        logits = nn.Dense(self.num_classes)(nn.Dropout(self.dropout, deterministic=not train)(features))
        return logits, features

"""Latents: x is an autoencoder's latent, normalised (Rombach et al., arXiv 2112.10752)."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PyTree

from jdiff.common.arrays import microbatches
from jdiff.common.ranges import Range
from jdiff.common.weights import Weights
from jdiff.networks.bottlenecks import Gaussian
from jdiff.spaces.first_stage import FirstStage

AUTOENCODER = "autoencoder"  # the part of a model's state that holds the first stage's weights, and its folder


@dataclass(frozen=True, kw_only=True, eq=False)
class Latents:
    """x = (z - mean) / std a channel, z a latent of `first_stage`, whose weights lie in the model's state.

    mean, std: [c], over the training set, so that x has mean 0 and deviation 1. sampled: encode draws z from
    q(z | image) where it is given a key; else z is its mean. Features are rounded to float16, as prepared ones are
    stored.
    """

    first_stage: FirstStage
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sampled: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.first_stage.shape

    @property
    def values(self) -> Range:
        return self.first_stage.pixels.values

    def encode(self, weights: PyTree, images: Num[Array, "b ..."], key: Any) -> Float[Array, "b h w c"]:
        """images: [B, H, W, C] in the data's dtype, or what `features` gives of them: then weights are not needed."""
        prepared = images.dtype == jnp.float16
        moments = images if prepared else self.features(weights, images)
        z = self.first_stage.latents(moments.astype(jnp.float32), key if self.sampled else None)
        return (z - jnp.asarray(self.mean)) / jnp.asarray(self.std)

    def features(
        self, weights: PyTree, images: Num[Array, "b h w c"], *, rows: int = 0, parts: int = 1
    ) -> Float[Array, "b h2 w2 f"]:
        """What the encoder says of images, in float16: all that a latent is drawn from. rows: computed in a batch of so
        many, filled up, since a convolution's last digits depend on the batch; 0: as many as there are. parts: of the
        batch, one after the other, for the memory of one.
        """
        count, encode = len(images), lambda part: self.first_stage.features(_own(weights), part).astype(jnp.float16)
        filled = jnp.pad(images, [(0, max(0, rows - count)), *[(0, 0)] * 3])
        if parts == 1:
            return encode(filled)[:count]
        said = jax.lax.map(encode, microbatches(filled, parts)).swapaxes(0, 1)
        return said.reshape(-1, *said.shape[2:])[:count]

    def mean_and_variance(self, moments: Float[Array, "b h w f"]) -> tuple[Array, Array]:
        """Of z, [B, h, w, c] each, as it is drawn where `sampled`."""
        mean, between = self.first_stage.latents(moments, None), self.first_stage.bottleneck
        if not (self.sampled and isinstance(between, Gaussian)):
            return mean, jnp.zeros_like(mean)
        return mean, jnp.exp(between.moments(moments)[1])

    def decode(self, weights: PyTree, x: Float[Array, "*b h w c"]) -> Num[Array, "*b H W C"]:
        z = x * jnp.asarray(self.std) + jnp.asarray(self.mean)
        return self.values.from_model(self.first_stage.decode(_own(weights), z))

    def mask(self, mask: Any) -> Any:
        """A latent is painted where any pixel that it stands for is."""
        stride = self.first_stage.stride
        batch, height, width, _ = mask.shape
        parts = mask.reshape(batch, height // stride, stride, width // stride, stride, 1)
        return parts.any(axis=(2, 4))


DECODING = ("decoder", "post_quant")  # parameters that do not say what latents are


def meaning(own: PyTree) -> PyTree:
    """What says what latents are, of the part of a model's state that holds the first stage's weights: all but the
    decoder and its error.
    """
    params, state = own[AUTOENCODER]["params"]["autoencoder"], own[AUTOENCODER]["state"]
    return [{name: part for name, part in of.items() if name not in (*DECODING, "mse")} for of in (params, state)]


def decoding(own: PyTree) -> PyTree:
    """The parameters that latents are decoded by, of the same part."""
    params = own[AUTOENCODER]["params"]["autoencoder"]
    return {name: params[name] for name in DECODING if name in params}


def as_state(own: Weights) -> PyTree:
    """The part of a model's state that holds the first stage's weights."""
    return {AUTOENCODER: {"params": own.params, "state": own.state}}


def _own(weights: Weights) -> Weights:
    """The first stage's weights, of a model's."""
    return Weights(**weights.state[AUTOENCODER])

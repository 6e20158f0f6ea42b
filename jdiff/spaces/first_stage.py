"""The first stage of latent diffusion: an autoencoder with its bottleneck, from pictures to latents and back."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jdiff.common.keys import named
from jdiff.common.weights import Weights
from jdiff.networks.bottlenecks import Bottleneck
from jdiff.networks.norm_statistics import norm_statistics, with_norm_statistics
from jdiff.spaces.pixels import Pixels
from jdiff.spaces.tiles import in_tiles

OVERLAP = 4  # a tile's side over the width in which it is blended with the next


@dataclass(frozen=True)
class FirstStage:
    """features = encode(pixels(images)), z = bottleneck.latents(features), x = decode(bottleneck.quantized(z)).

    tile: the side in pixels of the tiles that larger images are decoded in; 0: whole. Its weights: params
    {"autoencoder": ...}, state the bottleneck's; others beside them are passed over.
    """

    network: Any  # an Autoencoder, or a module with its methods and layout
    bottleneck: Bottleneck
    pixels: Pixels
    tile: int = 0

    @property
    def stride(self) -> int:
        """An image's side over its latent's."""
        return self.network.layout.stride

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c) of the latents of pictures of `pixels.shape`."""
        height, width, _ = self.pixels.shape
        return height // self.stride, width // self.stride, self.bottleneck.channels

    def init(self, key: Array) -> Weights:
        """Random weights. Raises UserError where the stride does not divide the pictures' sides."""
        params = self.network.init(key, jnp.zeros((1, *self.pixels.shape)))["params"]
        return Weights({"autoencoder": params}, self.bottleneck.init(named(key, "bottleneck")))

    def features(
        self, weights: Weights, images: Num[Array, "b ih iw ic"], dropout: Array | None = None
    ) -> Float[Array, "b h w f"]:
        """The encoder's features of images in the data's dtype. dropout: its key, in training."""
        return self._apply(weights, self.pixels.encode(weights, images, None), "encode", dropout)

    def latents(self, features: Float[Array, "b h w f"], key: Array | None) -> Float[Array, "b h w z"]:
        """z, drawn with the key where the bottleneck is random, its mean where the key is None."""
        return self.bottleneck.latents(features, key)

    def decode(self, weights: Weights, z: Float[Array, "*b h w z"]) -> Float[Array, "*b ih iw ic"]:
        """Images, float32 in [-1, 1] units, of latents with any leading axes."""
        z_q = self.bottleneck.quantized(weights.state, z).reshape(-1, *z.shape[-3:])
        decode: Callable[[Array], Array] = partial(self.decode_quantized, weights)
        side, longest = self.tile // self.stride, max(z.shape[-3:-1])
        if 0 < side < longest:
            # All tiles are normalised alike, as the whole image is that is made as small as a tile by leaving out
            # latents: their averages would have another variance.
            each = -(-longest // side)
            decode = with_norm_statistics(decode, norm_statistics(decode, z_q[:, ::each, ::each]))
            images = in_tiles(decode, z_q, side=side, overlap=side // OVERLAP, scale=self.stride)
        else:
            images = decode(z_q)
        return images.reshape(*z.shape[:-3], *images.shape[1:])

    def decode_quantized(
        self, weights: Weights, z_q: Float[Array, "b h w z"], dropout: Array | None = None
    ) -> Float[Array, "b ih iw ic"]:
        """The decoder's images of what the bottleneck gives it. dropout: its key, in training."""
        return self._apply(weights, z_q, "decode", dropout)

    def _apply(self, weights: Weights, x: Array, method: str, dropout: Array | None) -> Array:
        rngs = {} if dropout is None else {"dropout": dropout}
        variables = {"params": weights.params["autoencoder"]}
        return self.network.apply(variables, x, train=bool(rngs), method=method, rngs=rngs)

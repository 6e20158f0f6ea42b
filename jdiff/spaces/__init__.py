"""Spaces: what x lives in. A task owns one; programs encode at their head and decode at their end.

pixels   x is the picture, its values brought to [-1, 1]
latents  x is an autoencoder's latent, normalised
masks    x is a code of the class of each pixel
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Num, PyTree

from jdiff.common.ranges import Range
from jdiff.spaces.latents import AUTOENCODER, Latents, as_state, decoding, meaning
from jdiff.spaces.masks import Masks
from jdiff.spaces.pixels import Pixels


@runtime_checkable
class Space(Protocol):
    """shape: (h, w, c) of x. values: the pictures' dtype and range.

    weights: a task's, which hold a space's own, if any. key: None where nothing is random.

    encode(weights, images [B, ...], key) -> x [B, h, w, c] float32
    decode(weights, x [..., h, w, c]) -> images in the pictures' dtype and range, with the same leading axes
    mask(mask [B, H, W, 1] bool) -> the mask in x's sides
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def values(self) -> Range: ...
    def encode(self, weights: PyTree, images: Num[Array, "b ..."], key: Any) -> Float[Array, "b h w c"]: ...
    def decode(self, weights: PyTree, x: Float[Array, "*b h w c"]) -> Num[Array, "..."]: ...
    def mask(self, mask: Any) -> Any: ...


__all__ = ["AUTOENCODER", "Latents", "Masks", "Pixels", "Space", "as_state", "decoding", "meaning"]

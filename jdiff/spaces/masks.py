"""Masks: x is a code of the class of each pixel."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PyTree

from jdiff.common.ranges import SCREEN, Range

Code = Literal["bits", "one_hot"]


@dataclass(frozen=True, kw_only=True)
class Masks:
    """x = scale (2 c - 1), c the bits of a pixel's class (analog bits; Chen et al., arXiv 2208.04202), the lowest
    first, or its one-hot vector. decode takes the likeliest class.

    sides: (h, w). classes: the masks' values, of at least two classes. scale: b; below 1 a mask drowns in less noise,
    which is a harder schedule (Chen, arXiv 2301.10972; for masks arXiv 2504.05977).
    """

    sides: tuple[int, int]
    classes: tuple[int, ...]
    code: Code = "bits"
    scale: float = 1.0
    values: Range = SCREEN

    @property
    def shape(self) -> tuple[int, int, int]:
        return *self.sides, self.codes.shape[1]

    @cached_property
    def codes(self) -> Int[np.ndarray, "classes c"]:
        """c of each class, of zeros and ones."""
        count = len(self.classes)
        if self.code == "one_hot":
            return np.eye(count, dtype=np.int32)
        bits = max(1, math.ceil(math.log2(count)))
        return (np.arange(count)[:, None] >> np.arange(bits) & 1).astype(np.int32)

    def numbers(self, masks: Num[Array, "*b h w 1"]) -> Int[Array, "*b h w"]:
        """The number of each pixel's class, the nearest value's."""
        classes = jnp.asarray(self.classes, jnp.float32)
        return jnp.argmin(jnp.abs(masks.astype(jnp.float32) - classes), axis=-1)

    def encode(self, weights: PyTree, images: Num[Array, "b h w 1"], key: Any) -> Float[Array, "b h w c"]:
        return self.scale * (2.0 * jnp.asarray(self.codes)[self.numbers(images)] - 1.0)

    def decode(self, weights: PyTree, x: Float[Array, "*b h w c"]) -> Num[Array, "*b h w 1"]:
        likeliest = jnp.argmax(self.probabilities(x), axis=-1)
        return jnp.asarray(self.classes, self.values.dtype)[likeliest][..., None]

    def mask(self, mask: Any) -> Any:
        return mask

    def probabilities(self, x: Float[Array, "*b h w c"]) -> Float[Array, "*b h w classes"]:
        """The classes' of a denoised x: where D is the mean of all masks that an image may have, E[c] = (x / b + 1) / 2
        is the probability of each 1, and bits are taken to be independent. They add up to 1.
        """
        ones = jnp.clip((x / self.scale + 1) / 2, 1e-6, 1 - 1e-6)
        if self.code == "one_hot":
            return ones / ones.sum(axis=-1, keepdims=True)
        return jax.nn.softmax(self._of_bits(jnp.log(ones), jnp.log1p(-ones)))

    def of_logits(self, logits: Float[Array, "*b h w c"]) -> Float[Array, "*b h w classes"]:
        """The classes' ln probabilities, of a network that answers with c logits a pixel."""
        if self.code == "one_hot":
            return jax.nn.log_softmax(logits)
        return jax.nn.log_softmax(self._of_bits(jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)))

    def _of_bits(self, ones: Float[Array, "*b c"], zeros: Float[Array, "*b c"]) -> Float[Array, "*b classes"]:
        """The classes' ln probabilities, up to a constant, of each bit's ln probability to be 1 and to be 0."""
        codes = jnp.asarray(self.codes, ones.dtype)
        return ones @ codes.T + zeros @ (1 - codes).T

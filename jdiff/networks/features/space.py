"""What a vector of features is, and how an image becomes the input of its network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, UInt8

from jdiff.networks.features.resize import RESIZES

Resize = Literal["tf1", "torch", "clean", "pil_bicubic", "torch_bicubic"]
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Input:
    """How a protocol makes a network's input of images: (resize(image) - offset) / scale, a channel at a time.

    Images are quantised: uint8. size: of the side of the input, in pixels. crop: the square in the middle first.
    floored: the resized image is cut to whole numbers. offset, scale: in units of uint8.
    """

    resize: Resize
    size: int
    offset: Triple
    scale: Triple
    crop: bool = False
    floored: bool = False

    @property
    def range(self) -> tuple[Triple, Triple]:
        """The input's values of black and of white."""
        return self._of(0), self._of(255)

    def _of(self, value: float) -> Triple:
        red, green, blue = ((value - o) / s for o, s in zip(self.offset, self.scale, strict=True))
        return red, green, blue

    def __call__(self, images: UInt8[Array, "b h w c"]) -> Float[Array, "b s s 3"]:
        """The network's input. Grey images become three equal channels. Raises ValueError unless c is 1 or 3."""
        if images.shape[-1] not in (1, 3):
            raise ValueError(f"feature networks read 1 or 3 channels, not {images.shape[-1]}")
        resized = RESIZES[self.resize](_middle(images) if self.crop else images, self.size)
        resized = jnp.floor(resized) if self.floored else resized
        offset, scale = (jnp.asarray(values, jnp.float32) for values in (self.offset, self.scale))
        return (jnp.broadcast_to(resized, (*resized.shape[:-1], 3)) - offset) / scale


@dataclass(frozen=True, kw_only=True)
class Plain:
    """How a network for the data's own images sees them: of their channels, in [-1, 1], and where their sides are
    others than `sides`, (height, width), resized bilinearly, with antialiasing.
    """

    sides: tuple[int, int]
    channels: int

    def __call__(self, images: UInt8[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """The network's input. Raises ValueError for other channels."""
        if images.shape[-1] != self.channels:
            raise ValueError(f"these features read {self.channels} channels, not {images.shape[-1]}")
        x = images.astype(jnp.float32) / 127.5 - 1
        shape = (len(x), *self.sides, self.channels)
        return x if x.shape == shape else jax.image.resize(x, shape, "linear")


@dataclass(frozen=True, kw_only=True)
class FeatureSpace:
    """Where distances are measured: features are comparable where all of this is equal.

    name: of the network and the layer. weights: sha256 of the network's parameters, whatever the file they came in.
    """

    name: str
    dimension: int
    input: Input | Plain
    weights: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Extractor:
    """A feature network with its weights: `apply(params, input)` are the features by layer, float32 [B, dimension].

    `apply` is pure, and its input is `input(images)`, so that both are jitted together; a program that returns one
    layer computes no further. params are an argument, since constants would be compiled in.
    """

    spaces: Mapping[str, FeatureSpace]
    input: Input | Plain
    params: PyTree
    apply: Callable[[PyTree, Float[Array, "b h w c"]], Mapping[str, Float[Array, "b d"]]]


def _middle(images: Array) -> Array:
    height, width = images.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, top : top + side, left : left + side]


def of_unit_range(mean: Triple, std: Triple) -> tuple[Triple, Triple]:
    """(offset, scale) for a mean and standard deviation of images of [0, 1]."""
    return _times_255(mean), _times_255(std)


def _times_255(values: Triple) -> Triple:
    red, green, blue = values
    return 255 * red, 255 * green, 255 * blue


IMAGENET = of_unit_range((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

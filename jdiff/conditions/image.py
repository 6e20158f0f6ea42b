"""Another image as a condition."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Num

from jdiff.common.errors import UserError
from jdiff.common.pictures import checked
from jdiff.conditions import Condition
from jdiff.data.sources import Picture
from jdiff.data.views import Make


@dataclass(frozen=True, kw_only=True)
class Image(Condition):
    """A record's picture `of`, or what `make` computes from it, such as a sketch: [n, h, w, c] in the data's dtype.

    picture: the picture's channels, dtype and range. into: "concat" concatenates it to the noisy image, patch x patch
    of its pixels, as channels, to one of x's; "cross_attention" encodes it into tokens of `width` features, its sides
    halved `downsamples` times; "adapter" gives it to the network's adapter alone. A caller gives images as the network
    sees them, after `make`.
    """

    name = "image"
    argument = "cond_images"
    words = "condition images"
    of: str
    picture: Picture
    sides: tuple[int, int]
    make: Make | None = None
    patch: int = 1
    into: Literal["concat", "cross_attention", "adapter"] = "concat"
    width: int = 128
    downsamples: int = 2
    drop_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.token_width % 4:
            raise UserError(f"condition.image.width={self.width} must be a multiple of 4, as positions are")

    @property
    def token_width(self) -> int:
        return self.width if self.into == "cross_attention" else 0

    @property
    def only_tokens(self) -> str:
        return "condition.image.into='cross_attention'" if self.token_width else ""

    @property
    def pictures(self) -> Mapping[str, Picture]:
        return {self.of: self.picture}

    @property
    def seen(self) -> Picture:
        """The picture that the network is given."""
        return self.make.made(self.picture) if self.make else self.picture

    def of_record(self, record: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> Num[np.ndarray, "h w c"]:
        image = pictures[self.of]
        return self.make(image) if self.make else image

    def of_caller(self, values: Any) -> Num[np.ndarray, "n h w c"]:
        return checked(values, (*self.sides, self.seen.channels), self.words, self.seen.range)

    def example(self, rows: int, sides: tuple[int, int]) -> Num[np.ndarray, "n h w c"]:
        return np.zeros((rows, *sides, self.seen.channels), self.seen.dtype)

    def encode(self, values: Any) -> Any:
        image = self.seen.range.to_model(values)
        if self.patch == 1 or self.token_width:
            return image
        batch, height, width, channels = image.shape
        parts = image.reshape(batch, height // self.patch, self.patch, width // self.patch, self.patch, channels)
        return parts.swapaxes(2, 3).reshape(batch, *parts.shape[1:4:2], -1)

    def embedder(self, vector_features: int, dtype: Any) -> Any:
        from jdiff.networks.conditioning import ImageChannels, ImageTokens

        if self.into == "adapter":
            return None
        return ImageTokens(self.width, self.downsamples, dtype) if self.token_width else ImageChannels()

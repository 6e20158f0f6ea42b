"""Views: record -> {"x0", "cond"}. Picklable and free of JAX, for worker processes."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Num

from jdiff.data.augment import CONDITION_SIZE, NonLeaky, Turn
from jdiff.data.resize import Resize
from jdiff.data.sources import Picture
from jdiff.data.transforms import to_channels


@runtime_checkable
class Make(Protocol):
    """An image-to-image function [h, w, c] -> [h, w, c2], such as a sketch of a photo."""

    def __call__(self, image: np.ndarray, /) -> np.ndarray: ...

    def made(self, of: Picture, /) -> Picture:
        """The description of its output for inputs described by `of`."""
        ...


@dataclass(frozen=True)
class Given:
    """The conditioning image: the record's picture named `of`, converted to the channels of `picture`, then passed
    through `make` if there is one.
    """

    of: str
    picture: Picture
    make: Make | None = None

    @property
    def seen(self) -> Picture:
        """The description of the image that the network sees."""
        return self.make.made(self.picture) if self.make else self.picture


@dataclass(frozen=True, kw_only=True)
class View:
    """record -> {"x0": [h, w, c], "cond": {...}}: the picture named `target` is modelled, given the rest.

        image -> x0                            plain generation
        mask -> x0, image -> cond["image"]     segmentation
        photo -> x0, sketch -> cond["image"]   sketch to photo

    Pictures are uint8 where 0 is black and 255 white, and are turned into [-1, 1] on the device; any others are float32
    in [-1, 1] here, by their `Picture`'s low and high.

    picture: describes x0. resize, turn, augment: applied to all pictures alike; augment also gives cond["augment"]
    float32 [9]. labels: labels per record, cond["label"] int32 [] or [labels]; 0: none. given: cond["image"]. text:
    (length, width) of record["text"] from sources.captioned.encode, ids where width is 0, else features; cond["text"].
    scalars: names of numbers, cond["scalars"] float32 [k].
    """

    picture: Picture
    resize: Resize
    target: str = "image"
    turn: Turn | None = None
    augment: NonLeaky | None = None
    labels: int = 0
    given: Given | None = None
    text: tuple[int, int] | None = None
    scalars: tuple[str, ...] = ()

    @property
    def is_random(self) -> bool:
        """Whether a flip, a rotation, an augmentation or a random crop is drawn for each row."""
        turns = self.turn is not None and (self.turn.horizontal or self.turn.vertical or self.turn.quarters)
        return turns or self.augment is not None or self.resize.rule == "random_crop"

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """rng: None if the view is not random."""
        given, cond = self.given, {}
        pictures = {self.target: to_channels(record[self.target], self.picture.channels)}
        if given and given.of != self.target:
            pictures[given.of] = to_channels(record[given.of], given.picture.channels)
        pictures = self.resize(pictures, rng)
        if self.turn and rng:
            pictures = self.turn(pictures, rng)
        if self.augment and rng:
            pictures, cond["augment"] = self.augment(pictures, rng)
        if self.labels:
            cond["label"] = np.asarray(record["label"], np.int32)
        if given:
            image = pictures[given.of]
            cond["image"] = ranged(given.make(image) if given.make else image, given.seen)
        if self.text:
            cond["text"] = record["text"]
        if self.scalars:
            cond["scalars"] = np.array([record[name] for name in self.scalars], np.float32)
        return {"x0": ranged(pictures[self.target], self.picture), "cond": cond}

    def example(self, rows: int) -> dict[str, Any]:
        """A batch of `rows` zero examples with this view's shapes and dtypes."""
        sides = (rows, self.resize.height, self.resize.width)
        cond: dict[str, Any] = {}
        if self.augment:
            cond["augment"] = np.zeros((rows, CONDITION_SIZE), np.float32)
        if self.labels:
            cond["label"] = np.zeros((rows, self.labels) if self.labels > 1 else rows, np.int32)
        if self.given:
            cond["image"] = np.zeros((*sides, self.given.seen.channels), _dtype(self.given.seen))
        if self.text:
            length, features = self.text
            ids = np.ones((rows, length), np.int32)
            values = {"features": np.zeros((rows, length, features), np.float32), "mask": ids > 0}
            cond["text"] = values if features else ids
        if self.scalars:
            cond["scalars"] = np.zeros((rows, len(self.scalars)), np.float32)
        return {"x0": np.zeros((*sides, self.picture.channels), _dtype(self.picture)), "cond": cond}


def ranged(array: Num[np.ndarray, "h w c"], picture: Picture) -> Num[np.ndarray, "h w c"]:
    """uint8 of 0 to 255 as they are; others as float32, low and high becoming -1 and 1."""
    return array if picture.range.is_plain else picture.range.to_model(array)


def _dtype(picture: Picture) -> type:
    return np.uint8 if picture.range.is_plain else np.float32

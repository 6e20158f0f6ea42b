"""Views: record -> {"x0", "cond"}. Picklable and free of JAX, for worker processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

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


@runtime_checkable
class Condition(Protocol):
    """The part of a condition that a view needs; see jdiff.conditions."""

    @property
    def name(self) -> str: ...
    @property
    def pictures(self) -> Mapping[str, Picture]: ...
    def of_record(self, record: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> Any: ...
    def example(self, rows: int, sides: tuple[int, int]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class View:
    """record -> {"x0": [h, w, c], "cond": {...}}: the picture named `target` is modelled, given the rest.

        image -> x0                            plain generation
        mask -> x0, image -> cond["image"]     segmentation
        photo -> x0, sketch -> cond["image"]   sketch to photo

    Pictures keep their dtype and values. picture: describes x0. resize, turn, augment: applied to all pictures alike;
    augment also gives cond["augment"] float32 [9]. conditions: each gives cond[its name].
    """

    picture: Picture
    resize: Resize
    target: str = "image"
    turn: Turn | None = None
    augment: NonLeaky | None = None
    conditions: tuple[Condition, ...] = ()

    @property
    def is_random(self) -> bool:
        """Whether a flip, a rotation, an augmentation or a random crop is drawn for each row."""
        turns = self.turn is not None and (self.turn.horizontal or self.turn.vertical or self.turn.quarters)
        return turns or self.augment is not None or self.resize.rule == "random_crop"

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """rng: None if the view is not random."""
        cond: dict[str, Any] = {}
        wanted = {self.target: self.picture}  # first: it says how all are resized
        for condition in self.conditions:
            wanted |= {name: one for name, one in condition.pictures.items() if name not in wanted}
        pictures = {name: to_channels(record[name], one.channels) for name, one in wanted.items()}
        pictures = self.resize(pictures, rng)
        if self.turn and rng:
            pictures = self.turn(pictures, rng)
        if self.augment and rng:
            pictures, cond["augment"] = self.augment(pictures, rng)
        cond |= {condition.name: condition.of_record(record, pictures) for condition in self.conditions}
        return {"x0": pictures[self.target], "cond": cond}

    def example(self, rows: int) -> dict[str, Any]:
        """A batch of `rows` zero examples with this view's shapes and dtypes."""
        sides = (self.resize.height, self.resize.width)
        cond = {condition.name: condition.example(rows, sides) for condition in self.conditions}
        if self.augment:
            cond["augment"] = np.zeros((rows, CONDITION_SIZE), np.float32)
        return {"x0": np.zeros((rows, *sides, self.picture.channels), self.picture.dtype), "cond": cond}

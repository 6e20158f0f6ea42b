"""Views: record -> {"x0", "cond"}. Picklable and free of JAX, for worker processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jdiff.data import buckets
from jdiff.data.augment import CONDITION_SIZE, NonLeaky, Turn
from jdiff.data.resize import Resize, Size
from jdiff.data.sources import Picture
from jdiff.data.transforms import channels_after, to_channels


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


@runtime_checkable
class Drawn(Protocol):
    """A value of which each example draws its own; without a generator always the same."""

    def draw(self, rng: np.random.Generator | None) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class View:
    """record -> {"x0": [h, w, c], "cond": {...}}: the picture named `target` is modelled, given the rest.

        image -> x0                            plain generation
        mask -> x0, image -> cond["image"]     segmentation
        photo -> x0, sketch -> cond["image"]   sketch to photo

    Pictures keep their dtype and values. picture: describes x0. resize, turn, augment: applied to all pictures alike;
    augment also gives cond["augment"] float32 [9]. conditions: each gives cond[its name]. raters: names of masks with a
    channel a rater, of which training draws one and held-out examples show the first. texts_vary: training draws one of
    a record's captions, or their tags. beside: pictures that `shrunk` keeps though no example needs them. shapes: where
    there are several, a record goes to the one nearest in aspect (see jdiff.data.buckets), and `resize` says how, and
    which is the usual. mirrored: the picture to take for the target mirrored left and right, where this is no mirror
    image of it, as with latents; training draws one of the two. all_raters: an example has the masks of all raters.
    """

    picture: Picture
    resize: Resize
    target: str = "image"
    turn: Turn | None = None
    augment: NonLeaky | None = None
    conditions: tuple[Condition, ...] = ()
    raters: frozenset[str] = frozenset()
    texts_vary: bool = False
    beside: Mapping[str, Picture] = field(default_factory=dict)
    shapes: buckets.Shapes = ()
    mirrored: str = ""
    all_raters: bool = False

    @property
    def wanted(self) -> dict[str, Picture]:
        """The pictures that examples are made of, the target first: it says how all are resized."""
        wanted = {self.target: self.picture}
        for condition in self.conditions:
            wanted |= {name: one for name, one in condition.pictures.items() if name not in wanted}
        wanted |= {self.mirrored: self.picture} if self.mirrored else {}
        return wanted | {name: one for name, one in self.beside.items() if name not in wanted}

    @property
    def is_random(self) -> bool:
        """Whether a flip, a rotation, an augmentation or a random crop is drawn for each row."""
        turns = self.turn is not None and (self.turn.horizontal or self.turn.vertical or self.turn.quarters)
        varies = bool(self.augment or self.raters or self.texts_vary or self.mirrored)
        return turns or varies or self.resize.rule == "random_crop"

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """rng: None if the view is not random."""
        cond: dict[str, Any] = {}
        pictures = self._pictures(record)
        pictures = self._resize(self._shape_of(pictures))(pictures, rng)
        for name in self.raters & pictures.keys() if not self.all_raters else ():
            chosen = int(rng.integers(pictures[name].shape[-1])) if rng and self.turn else 0
            pictures[name] = pictures[name][..., chosen : chosen + 1]
        if self.turn and rng:
            pictures = self.turn(pictures, rng)
        if self.mirrored and rng and rng.random() < 0.5:  # as `turn` draws it
            pictures[self.target] = pictures[self.mirrored]
        if self.augment and rng:
            pictures, cond["augment"] = self.augment(pictures, rng)
        if isinstance(text := record.get("text"), Drawn):
            record = {**record, "text": text.draw(rng)}
        cond |= {condition.name: condition.of_record(record, pictures) for condition in self.conditions}
        return {"x0": pictures[self.target], "cond": cond}

    def shrunk(self, record: dict[str, Any], shape: Size | None = None) -> dict[str, Any]:
        """The record with what no chance decides done to its pictures, and without those that are not wanted: of it the
        view makes the same example as of the whole record. shape: which of several it is brought to.
        """
        pictures = self._pictures(record)
        kept = {name: value for name, value in record.items() if name not in pictures and not _is_picture(value)}
        return {**self._resize(shape or self._shape_of(pictures)).without_chance(pictures), **kept}

    def shrunk_pictures(self, pictures: Mapping[str, Picture]) -> dict[str, Picture]:
        """The descriptions of `shrunk` records' pictures, given those of records."""
        vary = self.resize.rule == "random_crop" or len(self.shapes) > 1
        sides = (None, None) if vary else (self.resize.height, self.resize.width)
        return {
            name: replace(of, shape=(*sides, to := self._channels(name, of.channels, one)), alpha=of.alpha and to == 4)
            for name, one in self.wanted.items()
            for of in (pictures[name],)
        }

    def _pictures(self, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The pictures that are wanted, of the channels that are wanted; of several raters all."""
        return {
            name: record[name] if name in self.raters else to_channels(record[name], one.channels)
            for name, one in self.wanted.items()
        }

    def _channels(self, name: str, channels: int, wanted: Picture) -> int:
        """The channels of `_pictures`."""
        return channels if name in self.raters else channels_after(channels, wanted.channels)

    def _shape_of(self, pictures: Mapping[str, np.ndarray]) -> Size:
        """The shape that a record goes to."""
        if not self.shapes:
            return self.resize.height, self.resize.width
        size = np.array([pictures[self.target].shape[:2]])
        return self.shapes[int(buckets.nearest(size, self.shapes)[0])]

    def _resize(self, shape: Size) -> Resize:
        return replace(self.resize, height=shape[0], width=shape[1]) if self.shapes else self.resize

    def example(self, rows: int) -> dict[str, Any]:
        """A batch of `rows` zero examples with this view's shapes and dtypes."""
        sides = (self.resize.height, self.resize.width)
        cond = {condition.name: condition.example(rows, sides) for condition in self.conditions}
        if self.augment:
            cond["augment"] = np.zeros((rows, CONDITION_SIZE), np.float32)
        return {"x0": np.zeros((rows, *sides, self.picture.channels), self.picture.dtype), "cond": cond}


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 3

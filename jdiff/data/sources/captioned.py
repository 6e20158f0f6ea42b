"""Sources with encoded captions: one a record, or several, of which each example draws one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jdiff.common.errors import UserError
from jdiff.data.sources import Source
from jdiff.data.sources.wrapped import Wrapped

Encoding = np.ndarray | dict[str, np.ndarray]  # a row per text
SEPARATOR = ","  # of tags


@dataclass(frozen=True)
class OneOf:
    """The encoded captions of a record: an example draws one, or takes the first without a generator."""

    values: tuple[Encoding, ...]

    def draw(self, rng: np.random.Generator | None) -> Encoding:
        return self.values[int(rng.integers(len(self.values))) if rng else 0]


@dataclass(frozen=True)
class Tags:
    """How captions that are lists of tags vary: each is left out with probability `drop`, and their order is shuffled;
    without a generator they stay.
    """

    encoder: Callable[[Sequence[str]], Encoding]
    shuffle: bool
    drop: float

    def of(self, caption: str) -> "Tagged":
        """The captions of a record, one a line."""
        return Tagged(tuple(caption.split("\n")), self)


@dataclass(frozen=True)
class Tagged:
    """The captions of a record as text, encoded once their tags are drawn."""

    captions: tuple[str, ...]
    tags: Tags

    def draw(self, rng: np.random.Generator | None) -> Encoding:
        caption = self.captions[int(rng.integers(len(self.captions))) if rng else 0]
        if rng:
            tags = [tag for tag in map(str.strip, caption.split(SEPARATOR)) if rng.random() >= self.tags.drop]
            order = rng.permutation(len(tags)) if self.tags.shuffle else range(len(tags))
            caption = f"{SEPARATOR} ".join(tags[i] for i in order)
        return _row_of(self.tags.encoder([caption]), 0)


def lines_of(captions: Sequence[str]) -> tuple[str, ...]:
    """All captions, where images have several, one a line."""
    return tuple(line for caption in captions for line in caption.split("\n"))


def encode(
    sources: Sequence[Source], text: Callable[[Sequence[str]], Encoding], tags: Tags | None = None
) -> list["Encoded"]:
    """`sources` with each record["text"] replaced by its row of text(captions), floats as float32; where it has several
    captions, by OneOf them; with `tags`, by Tagged.

    text: texts -> an array or a dict of arrays with a row per text: a BytePairEncoder (ids int32 [length]), or
    FrozenEncoder.features or `cached` ({"features": float32 [length, width], "mask": bool [length]}). It is called
    once, with all distinct captions. Raises UserError if a source has no captions.
    """
    if not all(source.captions for source in sources):
        raise UserError("these data have no captions, which text as a condition needs")
    number: dict[str, int] = {}
    rows = [
        [tuple(number.setdefault(line, len(number)) for line in caption.split("\n")) for caption in source.captions]
        for source in sources
    ]
    encoding = text(tuple(number))
    return [Encoded(source, own, encoding, tags) for source, own in zip(sources, rows, strict=True)]


class Encoded(Wrapped):
    """`source` with rows rows[i] of `encoding` as record i's "text". Memory-mapped arrays stay in their files, in
    worker processes too.
    """

    def __init__(self, source: Source, rows: list[tuple[int, ...]], encoding: Encoding, tags: Tags | None = None):
        super().__init__(source)
        self._rows, self._encoding, self._tags = rows, encoding, tags

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        records = self._source.__getitems__(indices)
        return [
            {**record, "text": self._text(record["text"], self._rows[index])}
            for record, index in zip(records, indices, strict=True)
        ]

    def _text(self, caption: str, rows: tuple[int, ...]) -> Encoding | OneOf | Tagged:
        if self._tags:
            return self._tags.of(caption)
        values = tuple(_row_of(self._encoding, row) for row in rows)
        return values[0] if len(values) == 1 else OneOf(values)

    def __getstate__(self) -> dict[str, Any]:
        """Memory-mapped arrays are pickled as file names, so that no worker holds a copy."""
        state = dict(self.__dict__)
        if isinstance(self._encoding, dict):
            state["_encoding"] = {
                name: Path(array.filename) if isinstance(array, np.memmap) and array.filename else array
                for name, array in self._encoding.items()
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self._encoding, dict):
            self._encoding = {
                name: np.load(array, mmap_mode="r") if isinstance(array, Path) else array
                for name, array in self._encoding.items()
            }


def _row_of(encoding: Encoding, row: int) -> Encoding:
    if isinstance(encoding, dict):
        return {name: _row(array, row) for name, array in encoding.items()}
    return _row(encoding, row)


def _row(array: np.ndarray, row: int) -> np.ndarray:
    """One row, copied into memory."""
    floats = np.issubdtype(array.dtype, np.floating)
    return np.array(array[row], dtype=np.float32 if floats else array.dtype)

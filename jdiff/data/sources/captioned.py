"""Sources with encoded captions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdiff.common.errors import UserError
from jdiff.data.sources import Source
from jdiff.data.sources.wrapped import Wrapped

Encoding = np.ndarray | dict[str, np.ndarray]  # a row per text


def encode(sources: Sequence[Source], text: Callable[[Sequence[str]], Encoding]) -> list["Encoded"]:
    """`sources` with each record["text"] replaced by its row of text(captions), floats as float32.

    text: texts -> an array or a dict of arrays with a row per text: a BytePairEncoder (ids int32 [length]), or
    FrozenEncoder.features or `cached` ({"features": float32 [length, width], "mask": bool [length]}). It is called
    once, with all distinct captions. Raises UserError if a source has no captions.
    """
    if not all(source.captions for source in sources):
        raise UserError("these data have no captions, which text as a condition needs")
    number: dict[str, int] = {}
    rows = [[number.setdefault(caption, len(number)) for caption in source.captions] for source in sources]
    encoding = text(tuple(number))
    return [Encoded(source, own, encoding) for source, own in zip(sources, rows, strict=True)]


class Encoded(Wrapped):
    """`source` with row rows[i] of `encoding` as record i's "text". Memory-mapped arrays stay in their files, in worker
    processes too.
    """

    def __init__(self, source: Source, rows: list[int], encoding: Encoding):
        super().__init__(source)
        self._rows, self._encoding = rows, encoding

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        records = self._source.__getitems__(indices)
        return [
            {**record, "text": self._text(self._rows[index])} for record, index in zip(records, indices, strict=True)
        ]

    def _text(self, row: int) -> Encoding:
        if isinstance(self._encoding, dict):
            return {name: _row(array, row) for name, array in self._encoding.items()}
        return _row(self._encoding, row)

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


def _row(array: np.ndarray, row: int) -> np.ndarray:
    """One row, copied into memory."""
    floats = np.issubdtype(array.dtype, np.floating)
    return np.array(array[row], dtype=np.float32 if floats else array.dtype)

"""Pictures in a column of a `datasets` table: encoded, as paths of files, or as arrays of numbers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BufferedIOBase, BytesIO
from time import time_ns
from typing import Any

import numpy as np
from jaxtyping import Num, UInt8, UInt16
from PIL import Image

from jdiff.data.decode import Facts, to_array
from jdiff.data.masks import MaskSummary, to_mask_values
from jdiff.data.sources import HIGHEST
from jdiff.data.trees import Stamp, open_file

AT_ONCE = 1000  # rows whose kind is asked for together
GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue, as Pillow weighs them


@dataclass(frozen=True)
class Cells:
    """A column, as a jdiff.data.trees.Tree whose files are pictures named by their rows.

    where: an address of the column. data: the split in arrow format. column: its name. folder: the data set's own, ""
    without. stored: size and time of the split's files (time 0: it lies in memory).

    A path in a column of strings starts from `folder` and stays below it.
    """

    where: str
    data: Any
    column: str
    folder: str
    stored: Stamp
    left_out: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(map(str, range(len(self.data))))

    @property
    def folders(self) -> tuple[str, ...]:
        return ()

    @contextmanager
    def open(self, name: str) -> Iterator[BufferedIOBase]:
        """The stream of an encoded picture. Raises OSError or ValueError."""
        (cell,) = self._cell(name).to_pylist()
        bound = isinstance(cell, str)
        content, path = (None, cell) if bound or not cell else (cell["bytes"], cell["path"])
        if content:
            yield BytesIO(content)
        elif path:
            with open_file(os.path.join(self.folder, self._checked(path, bound))) as stream:
                yield stream
        else:
            raise ValueError("there is no picture")

    def numbers(self, name: str) -> Num[np.ndarray, "..."]:
        """The array of numbers of a row. Raises ValueError if there is none, or one that is ragged."""
        return _nested(self._cell(name).combine_chunks())

    def stamp(self, name: str) -> Stamp:
        """Of the file that a cell names, or of the split's files."""
        if found := self._paths.get(int(name)):
            path = self._checked(*found)
            try:
                status = os.stat(os.path.join(self.folder, path))
            except OSError as error:
                raise ValueError(f"{path!r}: {error.strerror}") from error
            return Stamp(status.st_size, status.st_mtime_ns)
        # What lies in memory has no time of change, and may be another thing in each run.
        return self.stored if self.stored.time else Stamp(self.stored.size, time_ns())

    def _cell(self, name: str) -> Any:
        """The column of a row alone."""
        return self.data[int(name)].column(self.column)

    def _checked(self, path: str, bound: bool) -> str:
        """A path; one that is bound to the folder does not lead out of it but by a symbolic link in it."""
        if not bound:
            return path
        if "://" in path:
            raise ValueError(f"{path!r} is an address, and no picture is downloaded")
        whole, top = os.path.join(self.folder, path), os.path.join(self.folder, "")
        if not self.folder or not any(form(whole).startswith(top) for form in (os.path.normpath, os.path.realpath)):
            raise ValueError(f"the path {path!r} does not lie in the data set's folder")
        return path

    @cached_property
    def _paths(self) -> dict[int, tuple[str, bool]]:
        """Row -> the path in it, of rows that hold no bytes, and whether it is bound to the folder: the library itself
        names files anywhere.
        """
        import pyarrow
        import pyarrow.compute

        found: dict[int, tuple[str, bool]] = {}
        for start in range(0, len(self.data), AT_ONCE):
            cells = self.data[start : start + AT_ONCE].column(self.column)
            bound = not pyarrow.types.is_struct(cells.type)
            if not bound:
                content = pyarrow.compute.struct_field(cells, "bytes")
                paths = pyarrow.compute.struct_field(cells, "path")
                cells = pyarrow.compute.if_else(content.is_null(), paths, None) if content.null_count else None
            elif not _is_text(cells.type):
                return {}
            named = enumerate(cells.to_pylist() if cells is not None else (), start)
            found |= {row: (path, bound) for row, path in named if path}
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_paths"}


def _is_text(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _nested(cell: Any) -> Num[np.ndarray, "..."]:
    """Nested lists of arrow, one row, as an array."""
    import pyarrow
    import pyarrow.compute

    cell = getattr(cell, "storage", cell)
    shape = []
    while hasattr(cell.type, "value_type") and hasattr(cell, "flatten"):
        if cell.null_count:
            raise ValueError("there is no picture, or a row of it is missing")
        lengths = set(pyarrow.compute.list_value_length(cell).to_pylist())
        if len(lengths) != 1:
            raise ValueError("its rows differ in length")
        shape.append(lengths.pop())
        cell = cell.flatten()
    if cell.null_count:
        raise ValueError("a number in it is missing")
    return cell.to_numpy(zero_copy_only=False).reshape(shape)


@dataclass(frozen=True)
class Numbers:
    """Arrays of whole numbers [h, w] or [h, w, c] -> pictures as jdiff.data.decode.Reader makes them of image files: of
    8 bits (0 to 255), with bits=16 of 16, where bytes are multiplied by 257. mask: class numbers, as they are.

    Raises ValueError for other shapes, floats, and numbers outside the range.
    """

    channels: int = 3
    bits: int = 8
    mask: bool = False

    @property
    def finds(self) -> str:
        """What decides of `look` beside the numbers."""
        return repr(self)

    def __call__(self, values: Num[np.ndarray, "..."]) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"]:
        values = _checked(values)
        if self.mask:
            if values.shape[-1] != 1:
                raise ValueError(f"it has {values.shape[-1]} channels, and a mask has one")
            return to_mask_values(values)
        if self.bits == 8 or values.dtype == np.uint8:
            if not (values.min() >= 0 and values.max() <= 255):
                more = ": data.bits=16 keeps up to 65535" if values.min() >= 0 and values.max() <= 65535 else ""
                raise ValueError(f"it holds numbers from {values.min()} to {values.max()}, not from 0 to 255{more}")
            small = values.astype(np.uint8)
            return to_array(Image.fromarray(small[..., 0] if small.shape[-1] == 1 else small), self.channels, self.bits)
        return self._deep(values)

    def _deep(self, values: Num[np.ndarray, "h w c"]) -> UInt16[np.ndarray, "h w c"]:
        """Of 16 bits."""
        if not (values.min() >= 0 and values.max() <= HIGHEST["uint16"]):
            raise ValueError(f"it holds numbers from {values.min()} to {values.max()}, not from 0 to 65535")
        if values.shape[-1] in (2, 4):
            raise ValueError(f"it has {values.shape[-1]} channels, and of 16 bits 1 or 3 are read")
        if values.shape[-1] == 3 and self.channels == 1:
            values = np.rint(values @ GREY)[..., None]
        return np.broadcast_to(values, (*values.shape[:2], self.channels)).astype(np.uint16)

    def look(self, values: Num[np.ndarray, "..."]) -> Facts:
        """What an image file of these numbers would tell."""
        picture = self(values)
        height, width = picture.shape[:2]
        if self.mask:
            seen = MaskSummary.of(picture)
            return Facts(height, width, values=tuple(sorted(seen.values)), binary=seen.binary)
        deep = self.bits == 16 and values.dtype not in (np.uint8, np.bool_)
        colour = values.ndim == 3 and values.shape[-1] > 2
        low, high = (float(values.min()), float(values.max())) if deep else (0.0, 255.0)
        return Facts(height, width, bits=16 if deep else 8, colour=colour, low=low, high=high)


def _checked(values: Num[np.ndarray, "..."]) -> Num[np.ndarray, "h w c"]:
    """Whole numbers [h, w, c]; of truth values, 0 and 255."""
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[-1] not in (1, 2, 3, 4)) or not values.size:
        shape = ", ".join(map(str, values.shape))
        raise ValueError(f"it is [{shape}], and pictures are [h, w] or [h, w, c] of 1 to 4 channels")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iu":
        raise ValueError("it holds numbers that are not whole: data.name=arrays takes any")
    return values if values.ndim == 3 else values[..., None]

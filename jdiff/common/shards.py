"""Arrays on disk as they come: shards beside what was asked for, and at the end one file of all."""

import contextlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jdiff.common.errors import UserError
from jdiff.common.files import replace_file, write_whole

SHARD, SHARDS = "{:09d}.npz", "[0-9]" * 9 + ".npz"  # by the number of its first row
REQUEST = "request.json"
BLOCK = 2**26  # bytes read at a time


@dataclass(frozen=True)
class Shards:
    """Rows 0, 1, ... of what a request asks for, each a function of the request and its number:

        folder/shards/request.json  what is asked for
        folder/shards/N.npz         the rows from number N on
        folder/NAME.npz             all rows, once they are there, in place of the shards
        folder/NAME.json            what they were asked for: it is there only where it is of that file

    Every file is written whole or not at all, so that a killed process leaves what it had finished. For one process at
    a time. Raises OSError where the folder cannot be written.
    """

    folder: Path
    name: str

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.npz"

    @property
    def index(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def parts(self) -> Path:
        return self.folder / "shards"

    def told(self) -> dict[str, Any]:
        """What stands beside the file of all rows; {} where nothing does."""
        return _read(self.index)

    def tell(self, request: Mapping[str, Any]) -> None:
        """Write beside the file of all rows what it holds."""
        replace_file(self.index, _json(request))

    def finished(self, request: Mapping[str, Any], rows: int) -> bool:
        """Whether the file of all rows, so many, is there and whole, and of this request."""
        wanted, told = _as_read(request), self.told()
        return {key: told.get(key) for key in wanted} == wanted and _rows(self.file) == rows

    def begin(self, request: Mapping[str, Any]) -> tuple[int, list[str]]:
        """(how many rows of this request are in shards, the keys in which the shards there were of another one). Shards
        of another request, damaged ones and those that follow a gap are deleted.
        """
        self.parts.mkdir(parents=True, exist_ok=True)
        wanted, before = _as_read(request), _read(self.parts / REQUEST)
        shards = sorted(self.parts.glob(SHARDS))
        other = [key for key in wanted if before.get(key) != wanted[key]] if shards else []
        rows = 0
        for shard in shards:
            held = 0 if other or shard.name != SHARD.format(rows) else _rows(shard)
            if not held:
                shard.unlink()
            rows += held
        for torn in self.parts.glob(f".{SHARDS}.tmp"):
            torn.unlink()
        replace_file(self.parts / REQUEST, _json(request))
        return rows, other

    def write(self, first: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the rows from number `first` on; every shard's arrays are of the same dtypes."""
        rows = len(next(iter(arrays.values())))
        write_whole(self.parts / SHARD.format(first), lambda fresh: _save(fresh, lambda: iter([arrays]), rows))

    def finish(self, request: Mapping[str, Any], rows: int) -> None:
        """Put the file of all rows, so many, in place of the shards, in the memory of one. Ended at any moment, it is
        taken up where it is begun again. Raises UserError where the shards hold other than so many.
        """
        held = sum(map(_length, self._shards()))
        if held != rows:
            raise UserError(
                f"{self.parts} holds {held} rows instead of {rows}: files were put there or deleted meanwhile; the "
                "same command draws what is missing"
            )
        self.index.unlink(missing_ok=True)
        write_whole(self.file, lambda fresh: _save(fresh, self.arrays, rows))
        self.tell(request)
        self.discard()

    def arrays(self) -> Iterator[Mapping[str, np.ndarray]]:
        """The arrays of one shard after the other, each read when it is asked for."""
        for shard in self._shards():
            with np.load(shard, allow_pickle=False) as arrays:
                yield arrays

    def discard(self) -> None:
        """Delete the shards: what they are for has been written elsewhere."""
        for shard in self._shards():
            shard.unlink()
        (self.parts / REQUEST).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # files of others are there
            self.parts.rmdir()

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """The rows of an array of the file of all rows, some at a time."""
        with zipfile.ZipFile(self.file) as archive, archive.open(f"{name}.npy") as member:
            (rows, *shape), dtype = _header(member)
            each = dtype.itemsize * math.prod(shape)
            for at in range(0, rows, several := max(1, BLOCK // each)):
                count = min(several, rows - at)
                yield np.frombuffer(member.read(count * each), dtype).reshape(count, *shape)

    def _shards(self) -> list[Path]:
        return sorted(self.parts.glob(SHARDS))


def _json(request: Mapping[str, Any]) -> str:
    return json.dumps(request, indent=2) + "\n"


def _as_read(request: Mapping[str, Any]) -> dict[str, Any]:
    """With lists for tuples."""
    return dict(json.loads(_json(request)))


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _rows(file: Path) -> int:
    """How many rows a file holds; 0 where it is damaged or missing."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _length(file) if archive.testzip() is None else 0
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return 0


def _length(file: Path) -> int:
    """How many rows a file's arrays have, by their headers; 0 where they differ."""
    lengths = set()
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                lengths.add(_header(member)[0][0])
    return lengths.pop() if len(lengths) == 1 else 0


def _header(member: Any) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of an array that begins here."""
    np.lib.format.read_magic(member)
    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    return shape, dtype


def _save(file: Path, parts: Callable[[], Iterator[Mapping[str, np.ndarray]]], rows: int) -> None:
    """As np.savez of the parts' arrays, `rows` in all: once through the parts for each array."""
    names = list(next(parts()))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                for number, part in enumerate(parts()):
                    array = part[name]
                    if not number:
                        form = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False}
                        np.lib.format.write_array_header_1_0(member, {**form, "shape": (rows, *array.shape[1:])})
                    member.write(array.tobytes())

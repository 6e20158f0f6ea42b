"""Arrays on disk as they come: shards beside an index that says what was asked for, and at the end one file of all."""

import contextlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jdiff.common.files import write_whole

SHARD, SHARDS = "{:09d}.npz", "[0-9]" * 9 + ".npz"  # by the number of its first row


@dataclass(frozen=True)
class Shards:
    """Rows 0, 1, ... of what a request asks for, each a function of the request and its number:

        folder/NAME.json        the index: the request
        folder/NAME.npz         all rows, once they are there
        folder/shards/N.npz     until then, the rows from number N on

    Every file is written whole or not at all, so that a killed process leaves what it had finished. Raises OSError
    where the folder cannot be written.
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

    def begin(self, request: Mapping[str, Any]) -> tuple[int, list[str]]:
        """(how many rows of this request there are, the keys in which the shards there were of another one). Shards of
        another request, damaged ones and those that follow a gap are deleted.
        """
        self.parts.mkdir(parents=True, exist_ok=True)
        wanted, before = json.loads(json.dumps(request)), self._request()
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
        text = json.dumps(request, indent=2) + "\n"
        write_whole(self.index, lambda fresh: fresh.write_text(text, encoding="utf-8"))
        return rows, other

    def write(self, first: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the rows from number `first` on; every shard's arrays are of the same dtypes."""
        rows = len(next(iter(arrays.values())))
        write_whole(self.parts / SHARD.format(first), lambda fresh: _save(fresh, lambda: iter([arrays]), rows))

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        """The arrays of one shard after the other, each read when it is asked for."""
        for shard in sorted(self.parts.glob(SHARDS)):
            with np.load(shard, allow_pickle=False) as arrays:
                yield arrays

    def finish(self, rows: int) -> None:
        """Write the file of all rows, so many, in the memory of one shard."""
        write_whole(self.file, lambda fresh: _save(fresh, self.__iter__, rows))

    def clear(self) -> None:
        """Delete the shards."""
        for shard in self.parts.glob(SHARDS):
            shard.unlink()
        with contextlib.suppress(OSError):  # files of others are there
            self.parts.rmdir()

    def _request(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.index.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return {}


def _rows(shard: Path) -> int:
    """How many rows a shard holds; 0 where it is damaged."""
    try:
        with zipfile.ZipFile(shard) as archive:
            if archive.testzip() is not None:
                return 0
        with np.load(shard, allow_pickle=False) as arrays:
            lengths = {len(arrays[name]) for name in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return 0
    return lengths.pop() if len(lengths) == 1 else 0


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

"""Packed records: any source's records, decoded once and stored in array_record files for fast random access."""

import contextlib
import importlib
import json
import os
import shutil
import struct
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jdiff.common.errors import UserError, first_line
from jdiff.common.paths import expanded
from jdiff.data.sources import Picture, Shape, Source, SplitMissingError
from jdiff.data.sources.files import Progress, ahead, no_progress
from jdiff.data.sources.in_parts import MOST_BYTES, decoded_bytes

INDEX = "index.json"
FORMAT = "jdiff packed records"
VERSION = 1
DTYPES = {"float32": "<f4", "float16": "<f2", "uint16": "<u2", "uint8": "|u1"}  # the widest first, for alignment
READ_TOGETHER = 32  # records per read in packing
SHARD_BYTES = 1 << 30


def pack(
    sources: Mapping[str, Source],
    folder: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    together: int = READ_TOGETHER,
    progress: Progress = no_progress,
) -> None:
    """Writes {"train": source, "test": source}, or the first alone, to `folder`: completely or not at all.

        folder/index.json                              captions, the source's description and the files, for each split
        folder/train-00000-of-00008.array_record ...   records in the source's order (see Layout); test-... likewise

    shard_bytes: size at which a new file begins. together: most records per read. progress: wraps the iterable of all
    records to show a bar. An empty test set is omitted. Raises UserError if `folder` is not empty or not writable, and
    ValueError if a record differs from its source's description.
    """
    target = expanded(folder).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{folder} exists already: remove it, or pack into another folder")
    partial = target.with_name(f".{target.name}.partial")
    splits: dict[str, Any] = {}

    def records() -> Iterator[None]:
        for split, source in sources.items():
            if len(source):
                files = yield from _write(source, split, partial, shard_bytes, together)
                splits[split] = {"files": files, **_said(source)}

    try:
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            partial.mkdir()
        for _ in progress(records(), sum(map(len, sources.values()))):
            pass
        if "train" not in splits:
            raise ValueError("there are no training records to pack")
        index = {"format": FORMAT, "version": VERSION, "splits": splits}
        with _writing(target):
            (partial / INDEX).write_text(json.dumps(index, indent=1))
            os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Errors of writing (a full disk, permissions) become UserErrors that name `folder`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record raises the latter
        why = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"cannot write to {folder}: {why}; make room, or give another folder with --out") from error


class Packed:
    """The records of `split` ("train" or "test") in a folder written by `pack`, equal to the source's to the bit.

    Nothing is decoded: pictures are read-only views of the record's bytes. Raises SplitMissingError if the split is
    missing, and UserError with the file's name if `folder` was not packed or is damaged.
    """

    def __init__(self, folder: str, split: str):
        top = expanded(folder)
        if not folder or not top.is_dir():
            raise UserError(f"data.dir={folder!r} is not a folder; --mode=prepare packs one")
        splits = _index(top)
        if split not in splits:
            raise SplitMissingError(f"{top} has no split {split!r}; it has {', '.join(splits)}")
        said = splits[split]
        try:
            self._files = [str(top / file["name"]) for file in said["files"]]
            sizes = [int(file["bytes"]) for file in said["files"]]
            self._ends = np.cumsum([int(file["records"]) for file in said["files"]])
            pictures = {name: _picture(**picture) for name, picture in said["pictures"].items()}
            self.class_names: tuple[str, ...] = tuple(said["class_names"])
            self.class_counts = tuple(map(int, said.get("class_counts", ())))
            self.labels_per_image: int = said["labels_per_image"]
            self.captions: tuple[str, ...] = tuple(said["captions"])
            self.scalar_names: tuple[str, ...] = tuple(said["scalar_names"])
            self.notes: tuple[str, ...] = tuple(said["notes"])
            self.sizes = np.array(said["sizes"], np.int32).reshape(-1, 2) if said.get("sizes") else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{top / INDEX} is damaged ({error!r}): pack the data again") from error
        self._layout = Layout(pictures, self.labels_per_image if self.class_names else 0, self.scalar_names)
        for file, size in zip(self._files, sizes, strict=True):
            there = os.path.getsize(file) if os.path.exists(file) else None
            if there != size:
                what = "is missing" if there is None else f"has {there} bytes and should have {size}"
                raise UserError(f"{file} {what}: copy or pack the data again")
        try:
            self._records = _array_record("array_record_data_source").ArrayRecordDataSource(self._files)
        except Exception as error:
            raise UserError(f"{top} is damaged ({first_line(error)}): copy or pack the data again") from error
        count = int(self._ends[-1])
        texts = len(self.captions) or count
        if len(self._records) != count or texts != count:
            raise UserError(
                f"{top} holds {len(self._records)} records and {texts} texts of {split}, not {count}: pack again"
            )

    @property
    def pictures(self) -> dict[str, Picture]:
        return self._layout.pictures

    @property
    def shape(self) -> Shape:
        return self.pictures["image"].shape

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        try:
            stored = self._records.__getitems__(indices)
        except RuntimeError as error:  # array_record found a wrong checksum
            raise UserError(f"{self._damaged(indices)} is damaged ({first_line(error)}): pack again") from error
        records = [self._layout.unpack(data) for data in stored]
        if self.captions:
            for record, index in zip(records, indices, strict=True):
                record["text"] = self.captions[index]
        return records

    def _damaged(self, indices: Sequence[int]) -> str:
        """The file of the first unreadable record."""
        for index in indices:
            try:
                self._records[index]
            except RuntimeError:
                return self._files[np.searchsorted(self._ends, index, side="right")]
        return ", ".join(self._files)


@dataclass(frozen=True)
class Layout:
    """The binary layout of a record; its parts follow each other, little-endian:

        label      int32 [labels]        if there are classes
        scalars    float32 each          in the order of `scalars`
        sizes      uint32 h, w           of each picture of varying size
        pictures   values [h, w, c]      first float32 ones, then float16, uint16, uint8

    Texts are in index.json. labels: labels per record; 0: none.
    """

    pictures: dict[str, Picture]
    labels: int
    scalars: tuple[str, ...]

    @classmethod
    def of(cls, source: Source) -> "Layout":
        """The layout of the records of `source`."""
        labels = source.labels_per_image if source.class_names else 0
        return cls(dict(source.pictures), labels, tuple(source.scalar_names))

    def pack(self, record: Mapping[str, Any]) -> bytes:
        """The bytes of a record. Raises ValueError if the record does not fit this layout."""
        labels: list[int] = []
        if self.labels:
            labels = np.asarray(record["label"]).reshape(self.labels).tolist()
        scalars = [record[name] for name in self.scalars]
        sizes: list[int] = []
        parts = [b""]
        for name, dtype, shape in self._order:
            picture = record[name]
            wanted = self.pictures[name].shape
            if picture.dtype.newbyteorder("=") != dtype.newbyteorder("=") or not _fits(picture.shape, wanted):
                raise ValueError(f"{name!r} is {picture.dtype} {list(picture.shape)}, not {dtype} {list(wanted)}")
            if shape is None:
                sizes += picture.shape[:2]
            parts.append(np.ascontiguousarray(picture, dtype).tobytes())
        parts[0] = struct.pack(self._head, *labels, *scalars, *sizes)
        return b"".join(parts)

    def unpack(self, data: bytes) -> dict[str, Any]:
        """The record of these bytes, its pictures views of them."""
        head = struct.unpack_from(self._head, data)
        sizes = iter(head[self.labels + len(self.scalars) :])
        offset = struct.calcsize(self._head)
        pictures = {}
        for name, dtype, shape in self._order:
            if shape is None:
                shape = (next(sizes), next(sizes), self.pictures[name].shape[2])
            count = prod(shape)
            pictures[name] = np.frombuffer(data, dtype, count, offset).reshape(shape)
            offset += count * dtype.itemsize
        record: dict[str, Any] = {name: pictures[name] for name in self.pictures}
        if self.labels:
            record["label"] = head[0] if self.labels == 1 else np.array(head[: self.labels], np.int32)
        for name, value in zip(self.scalars, head[self.labels :], strict=False):
            record[name] = np.float32(value)
        return record

    @cached_property
    def _order(self) -> list[tuple[str, np.dtype, tuple[int, int, int] | None]]:
        """(name, dtype, shape or None if it varies) of the pictures in stored order."""
        order: list[tuple[str, np.dtype, tuple[int, int, int] | None]] = []
        for dtype, stored in DTYPES.items():
            for name, picture in self.pictures.items():
                h, w, c = picture.shape
                if picture.dtype == dtype:
                    order.append((name, np.dtype(stored), None if h is None or w is None else (h, w, c)))
        return order

    @cached_property
    def _head(self) -> str:
        """The struct format of all parts before the pictures."""
        varying = sum(shape is None for _, _, shape in self._order)
        return f"<{self.labels}i{len(self.scalars)}f{2 * varying}I"


def packed_bytes(source: Source) -> int | None:
    """How large the packed records of `source` will be; None where that is not known before they are read."""
    each = decoded_bytes(source)
    if each is not None:
        return each * len(source)
    sizes = getattr(source, "sizes", None)
    (image,) = source.pictures.values() if len(source.pictures) == 1 else (None,)
    if sizes is None or image is None or len(sizes) != len(source):
        return None
    return int(sizes.astype(np.int64).prod(axis=1).sum()) * image.channels * np.dtype(image.dtype).itemsize


def _fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    return len(shape) == 3 and all(size in (side, None) for side, size in zip(shape, wanted, strict=True))


def _write(
    source: Source, split: str, folder: Path, shard_bytes: int, most: int
) -> Generator[None, None, list[dict[str, Any]]]:
    """Writes the records of a split, read a few batches ahead by threads, and yields after each. Returns the entry
    "files" of index.json.
    """
    layout = Layout.of(source)
    fields = {
        *layout.pictures,
        *layout.scalars,
        *(["label"] * bool(layout.labels)),
        *(["text"] * bool(source.captions)),
    }
    size = decoded_bytes(source)
    together = 1 if size is None else max(1, min(most, MOST_BYTES // max(1, size)))

    def packed(first: int) -> list[bytes]:
        chosen = range(first, min(first + together, len(source)))
        result = []
        for row, record in zip(chosen, source.__getitems__(chosen), strict=True):
            if set(record) != fields:
                raise ValueError(f"record {row} holds {sorted(record)}, and its source describes {sorted(fields)}")
            if source.captions and not (isinstance(record["text"], str) and record["text"] == source.captions[row]):
                raise ValueError(f"record {row} has another text than its source's captions, or an encoded one")
            try:
                result.append(layout.pack(record))
            except (ValueError, struct.error) as error:
                raise ValueError(f"record {row}: {error}") from error
        return result

    counts: list[int] = []
    writer, room = None, 0
    try:
        with ThreadPoolExecutor() as pool:
            for several in ahead(pool, packed, range(0, len(source), together), os.cpu_count() or 1):
                for data in several:
                    with _writing(folder):
                        if writer is None or room <= 0:
                            if writer:
                                writer.close()
                            writer = _array_record("array_record_module").ArrayRecordWriter(
                                str(folder / f"{split}-{len(counts)}"), "group_size:1,uncompressed"
                            )
                            room = shard_bytes
                            counts.append(0)
                        writer.write(data)
                    counts[-1] += 1
                    room -= len(data)
                    yield
    finally:
        if writer:
            with _writing(folder):
                writer.close()
    files = []
    for k, count in enumerate(counts):
        file = folder / f"{split}-{k:05d}-of-{len(counts):05d}.array_record"
        (folder / f"{split}-{k}").rename(file)
        files.append({"name": file.name, "records": count, "bytes": file.stat().st_size})
    return files


def _said(source: Source) -> dict[str, Any]:
    """The description of a source in index.json."""
    sizes = getattr(source, "sizes", None) if source.shape[0] is None else None  # data.buckets goes by them
    return {
        "sizes": [] if sizes is None else sizes.tolist(),
        "pictures": {name: asdict(picture) for name, picture in source.pictures.items()},
        "class_names": list(source.class_names),
        "class_counts": list(getattr(source, "class_counts", ())),
        "labels_per_image": source.labels_per_image,
        "captions": list(source.captions),
        "scalar_names": list(source.scalar_names),
        "notes": list(source.notes),
    }


def _index(top: Path) -> dict[str, Any]:
    """split -> its entry in index.json."""
    file = top / INDEX
    if not file.is_file():
        raise UserError(f"{top} holds no {INDEX}, so it was not packed, or not to the end: --mode=prepare packs one")
    try:
        index = json.loads(file.read_text("utf-8"))
        form, version, splits = index["format"], index["version"], dict(index["splits"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is damaged ({first_line(error)}): copy or pack the data again") from error
    if form != FORMAT or version != VERSION:
        raise UserError(
            f"{file} is of {form!r}, version {version}; this reads {FORMAT!r}, version {VERSION}: pack again"
        )
    return splits


def _picture(
    shape: list[int | None],
    dtype: str,
    kind: Literal["image", "mask"],
    low: float,
    high: float,
    alpha: bool,
    values: Sequence[int] = (),
) -> Picture:
    height, width, channels = shape
    if dtype not in DTYPES or kind not in ("image", "mask") or channels is None:
        raise ValueError(f"a picture of {dtype} {shape}, {kind}")
    return Picture((height, width, channels), dtype, kind, low, high, alpha, tuple(values))


def _array_record(module: str) -> Any:
    try:
        return importlib.import_module(f"array_record.python.{module}")
    except ImportError as error:
        raise UserError("packed data need the library array_record, which exists for Linux only") from error

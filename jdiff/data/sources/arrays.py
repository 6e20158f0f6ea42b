"""Images in NumPy's .npy and .npz files, memory-mapped."""

import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from jdiff.common.errors import UserError, first_line
from jdiff.common.paths import expanded
from jdiff.data.holdout import share_of
from jdiff.data.sources import HIGHEST, Picture, Shape, counted

BY_SPLIT = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))
POSITIONAL = {"arr_0": "images", "arr_1": "labels"}  # as np.savez(file, images, labels) names them
TESTS = ("test", "val")
SAMPLED_BYTES = 256 << 20  # of float images, read to find their range
KEPT_BYTES = 32 << 20  # of the file that are read before its pages are given back
MOST_CLASSES = 65536
LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: its last fields are the lengths of its name and extra field


@dataclass(frozen=True)
class Stored:
    """The place of an array in a file; picklable without its data.

    member: its name in an .npz, "" in an .npy. offset: of its data in the file, in bytes; None: compressed.
    """

    file: str
    member: str
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    offset: int | None

    def __str__(self) -> str:
        return f"{self.file} ({self.member!r})" if self.member else self.file

    def open(self) -> np.ndarray:
        """The array, memory-mapped, or read into memory if it is compressed. Raises UserError if it is damaged."""
        try:
            if self.offset is None:
                self._check_fits()
                with np.load(self.file, allow_pickle=False) as arrays:
                    return arrays[self.member]
            order = "F" if self.fortran else "C"
            mapped = np.memmap(self.file, self.dtype, "r", self.offset, self.shape, order)  # type: ignore[call-overload]
        except (OSError, ValueError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self} cannot be read: {error}") from error
        return mapped.view(np.ndarray)  # np.memmap's own indexing is slow

    def _check_fits(self) -> None:
        """Raises UserError if the array exceeds half of the free memory, as the header of a small file may claim; where
        the system does not tell what is free (macOS, Windows), the array is tried.
        """
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, AttributeError, OSError):
            return
        size = self.dtype.itemsize * prod(self.shape)
        if size > free / 2 >= 0:
            raise UserError(
                f"{self} takes {size / 2**30:.1f} GiB, compressed, and {free / 2**30:.1f} GiB of memory are free: save "
                "it with np.savez, so that it is read from the disk on demand"
            )


@dataclass(frozen=True)
class _Part:
    images: Stored
    labels: Stored | None
    class_names: Stored | None


class Arrays:
    """Images in NumPy files at `path`: records {"image": uint8, uint16 or float32 [h, w, c]} and perhaps "label": int.

        x.npy                    images [n, h, w] or [n, h, w, c]: uint8, uint16 or floats, any number of channels
        x.npz                    "images" (or the only array), and perhaps "labels" [n] and "class_names" [k]
        x.npz with splits        "train_images", "train_labels", "test_images", ...; or "x_train", "y_train", "x_test"
        x/{train,test}.npz       a file per split ("val" if "test" is missing), or .npy

    Without test images, a fixed share is held out (`holdout`, as in Folder). An .npy, and an .npz of np.savez, is
    memory-mapped, so only the images of a batch are read; an .npz of np.savez_compressed is read into memory.

    split: "train" or "test". low, high: the values that map to -1 and 1. Default: 0 and 255 for uint8, 0 and 65535 for
    uint16, and for floats the extremes of a sample (256 MiB) of the training images, told in `notes`. Labels are class
    numbers 0, 1, ...; without "class_names" these are the names.

    Raises UserError with the file's name for arrays of another shape or dtype, pickled objects, truncated files and
    non-finite floats (outside the sample: when they are read).
    """

    labels_per_image = 1
    captions: tuple[str, ...] = ()
    scalar_names: tuple[str, ...] = ()

    def __init__(
        self, path: str, split: str, *, low: float | None = None, high: float | None = None, holdout: float = 0.05
    ):
        top = expanded(path)
        if not path or not top.exists():
            raise UserError(f"data.dir={path!r} does not exist; give an .npy or .npz file, or a folder of train.npz")
        train, test = _parts(top)
        part = test if test and split == "test" else train
        _check_images(train.images)
        if part is test:
            _check_images(test.images)
            if _channels(test.images) != _channels(train.images) or _dtype(test.images) != _dtype(train.images):
                raise UserError(f"{test.images} and {train.images} differ in their channels or in their numbers")
        self._images = part.images
        self._open: np.ndarray | None = part.images.open()
        self._read = 0  # bytes since pages were last given back
        count, height, width = part.images.shape[:3]
        self._rows = np.arange(count) if test else np.array(share_of(count, split, holdout), np.int64)
        self._labels, self.class_names = _labels(part, train)
        low, high, notes = _range(train.images, self._open if part is train else None, low, high)
        self.pictures = {
            "image": Picture((height, width, _channels(part.images)), _dtype(train.images), "image", low, high)
        }
        if part.images.offset is None:
            notes.append(f"{part.images} is compressed and held in memory: np.savez instead leaves it in its file")
        self.notes = tuple(notes) if split == "train" else ()

    @property
    def shape(self) -> Shape:
        return self.pictures["image"].shape

    @property
    def class_counts(self) -> tuple[int, ...]:
        return () if self._labels is None else counted(self._labels[self._rows], self.class_names)

    def labels(self) -> np.ndarray:
        """int32 [n]; -1 without classes."""
        return np.full(len(self), -1, np.int32) if self._labels is None else self._labels[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._open is None:
            self._open = self._images.open()
        row = int(self._rows[index])
        picture = self.pictures["image"]
        with np.errstate(over="ignore"):  # reported below
            image = np.array(self._open[row], picture.dtype, order="C").reshape(picture.shape)  # type: ignore[arg-type]
        if picture.dtype == "float32" and not np.isfinite(image).all():
            raise UserError(f"{self._images} row {row} holds numbers that are not finite")
        return {"image": image} if self._labels is None else {"image": image, "label": int(self._labels[row])}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        records = [self[index] for index in indices]
        self._read += sum(record["image"].nbytes for record in records)
        if self._read > KEPT_BYTES:
            self._read = 0
            _give_back(self._open)
        return records

    def __getstate__(self) -> dict[str, Any]:
        """Without the open array: workers open the file themselves instead of getting a copy of all images."""
        return {**self.__dict__, "_open": None}


def _give_back(array: np.ndarray | None) -> None:
    """Let go of the pages of a memory map: read ones count as the process's memory, though the system has them too."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _parts(top: Path) -> tuple[_Part, _Part | None]:
    """(training images, held-out images or None)."""
    if top.is_dir():
        files = {
            name: file
            for name in ("train", *TESTS)
            for ending in (".npy", ".npz")
            if (file := top / (name + ending)).is_file()
        }
        if "train" not in files:
            raise UserError(f"{top} holds neither train.npz nor train.npy")
        tests = [_only_part(files[name]) for name in TESTS if name in files]
        return _only_part(files["train"]), tests[0] if tests else None
    stored = _stored(top)
    for images, labels in BY_SPLIT:
        if images.format("train") in stored:
            parts = [
                _Part(stored[name], stored.get(labels.format(split)), stored.get("class_names"))
                for split in ("train", *TESTS)
                if (name := images.format(split)) in stored
            ]
            return parts[0], parts[1] if len(parts) > 1 else None
    return _only_part(top), None


def _only_part(file: Path) -> _Part:
    stored = _stored(file)
    if stored.keys() == POSITIONAL.keys() and len(stored["arr_1"].shape) == 1:
        stored = {POSITIONAL[name]: array for name, array in stored.items()}
    names = [name for name in stored if name not in ("labels", "class_names")]
    images = "images" if "images" in names else names[0] if len(names) == 1 else None
    if images is None:
        raise UserError(f"{file} holds {', '.join(map(repr, names)) or 'no array'}: call that of the images 'images'")
    return _Part(stored[images], stored.get("labels"), stored.get("class_names"))


def _stored(file: Path) -> dict[str, Stored]:
    """name -> array of a file ("" in an .npy). Raises UserError for another format or a damaged file."""
    try:
        if file.suffix.lower() == ".npz":
            with zipfile.ZipFile(file) as archive, file.open("rb") as whole:
                members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
                return {member.filename[:-4]: _member(archive, member, whole) for member in members}
        with file.open("rb") as stream:
            dtype, shape, fortran, length = _header(stream)
        missing = length + dtype.itemsize * prod(shape) - file.stat().st_size
        if missing > 0:
            raise ValueError(f"it is cut short by {missing} bytes")
        return {"": Stored(str(file), "", dtype, shape, fortran, length)}
    except Exception as error:  # NumPy parses headers as Python, so a damaged one raises anything
        raise UserError(f"{file} cannot be read as a NumPy file: {first_line(error)}") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, whole: Any) -> Stored:
    with archive.open(member) as stream:
        dtype, shape, fortran, length = _header(stream)
    if not dtype.hasobject and length + dtype.itemsize * prod(shape) != member.file_size:
        raise ValueError(f"{member.filename} is not as long as its header says")
    offset = None
    if member.compress_type == zipfile.ZIP_STORED:
        whole.seek(member.header_offset)
        offset = member.header_offset + LOCAL_HEADER.size + sum(LOCAL_HEADER.unpack(whole.read(LOCAL_HEADER.size)))
        offset += length
    return Stored(str(archive.filename), member.filename[:-4], dtype, shape, fortran, offset)


def _header(stream: Any) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """(dtype, shape, whether in Fortran order, offset of the data) from the header of the .npy format."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"its format is {version}")
    return dtype, shape, fortran, stream.tell()


def _dtype(images: Stored) -> str:
    """The dtype of records; "" if images of this dtype are not supported."""
    if images.dtype.kind == "f" and images.dtype.itemsize <= 8:
        return "float32"
    return name if (name := images.dtype.newbyteorder("=").name) in HIGHEST else ""


def _channels(images: Stored) -> int:
    return images.shape[3] if len(images.shape) == 4 else 1


def _check_images(images: Stored) -> None:
    if images.dtype.hasobject:
        raise UserError(f"{images} holds pickled objects, which are not read: save plain numbers [n, h, w, c]")
    shape = list(images.shape)
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise UserError(f"{images} is {shape}; images are [n, h, w] or [n, h, w, c]")
    if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[2] == shape[3] > 4:
        raise UserError(f"{images} is {shape}, channels first; save it as [n, h, w, c], by transpose(0, 2, 3, 1)")
    if not _dtype(images):
        raise UserError(f"{images} holds {images.dtype.name}; save images as uint8, uint16 or float32")


def _labels(part: _Part, train: _Part) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(labels int32 [n], or None if training images have none; class names)."""
    if train.labels is None:
        return None, ()
    if part.labels is None:
        raise UserError(f"{train.images} has labels and {part.images} has none")
    known = _numbers(train.labels, train.images)
    names = tuple(map(str, range(int(known.max()) + 1)))
    if train.class_names:
        if train.class_names.dtype.kind != "U":
            raise UserError(f"{train.class_names} must be text, as np.array(['cat', 'dog']) is")
        names = tuple(map(str, train.class_names.open().ravel()))
    labels = known if part is train else _numbers(part.labels, part.images)
    for stored, numbers in ((train.labels, known), (part.labels, labels)):
        if numbers.max() >= len(names):
            what = "there are" if train.class_names else "training images have"
            raise UserError(f"{stored} holds the label {numbers.max()}, and {what} {len(names)} classes")
    return labels, names


def _numbers(labels: Stored, images: Stored) -> np.ndarray:
    if labels.dtype.kind not in "iu" or prod(labels.shape) != images.shape[0] or labels.shape[:1] != images.shape[:1]:
        raise UserError(
            f"{labels} is {labels.dtype.name} {list(labels.shape)}; labels are whole numbers [{images.shape[0]}], one "
            "per image"
        )
    numbers = np.array(labels.open()).ravel()
    if numbers.min() < 0 or numbers.max() >= MOST_CLASSES:
        raise UserError(f"{labels} holds {numbers.min()} to {numbers.max()}; classes are 0, 1, ... {MOST_CLASSES - 1}")
    return numbers.astype(np.int32)


def _range(
    images: Stored, opened: np.ndarray | None, low: float | None, high: float | None
) -> tuple[float, float, list[str]]:
    """(low, high, notes): the values that map to -1 and 1."""
    notes = []
    if _dtype(images) in HIGHEST:
        low, high = 0.0 if low is None else low, HIGHEST[_dtype(images)] if high is None else high
    if low is None or high is None:
        least, greatest, rows = _extremes(images, images.open() if opened is None else opened)
        low, high = least if low is None else low, greatest if high is None else high
        notes.append(f"data.low={low:g} and data.high={high:g} are the extremes of {rows} of {images.shape[0]} images")
    if not low < high:
        raise UserError(f"{images}: data.low={low:g} must be less than data.high={high:g}; they map to -1 and 1")
    return float(low), float(high), notes


def _extremes(images: Stored, opened: np.ndarray) -> tuple[float, float, int]:
    """(minimum, maximum, number of images read) of evenly spaced images, at most SAMPLED_BYTES of them."""
    count = images.shape[0]
    most = max(1, SAMPLED_BYTES // (images.dtype.itemsize * prod(images.shape[1:])))
    rows = np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
    least, greatest = np.inf, -np.inf
    for some in np.array_split(rows, max(1, len(rows) // 64)):
        values = opened[some]
        if not np.isfinite(values).all():
            raise UserError(f"{images} holds numbers that are not finite, as in rows {some[0]} to {some[-1]}")
        least, greatest = min(least, float(values.min())), max(greatest, float(values.max()))
    return least, greatest, len(rows)

"""NIfTI files through nibabel: their slices in the file's units."""

import gzip
import hashlib
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from jdiff.data.decode import Facts
from jdiff.data.trees import MOST_BYTES
from jdiff.data.volumes import check_finite, check_sizes, in_words, quietly, size_of

TOGETHER = 4 << 20  # voxels looked at together
MOST_AFTER = 1 << 20  # bytes after the last voxel
MOST_CACHED = 256 << 20  # bytes of decompressed volumes that a process keeps


@dataclass(frozen=True)
class _Nifti:
    """What a NIfTI header tells of the voxels. shape: of at least 3 axes."""

    shape: tuple[int, ...]
    dtype: Any
    offset: int
    slope: float
    intercept: float
    affine: Any

    @property
    def end(self) -> int:
        """Where the voxels end, in bytes."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def pages(self, axis: int) -> int:
        """How many slices there are."""
        return self.shape[axis] * math.prod(self.shape[3:])


def uncompressed(stream: BufferedIOBase) -> Any:
    """The stream, decompressed where it begins as gzip does."""
    stream.seek(0)
    compressed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    return gzip.GzipFile(fileobj=stream) if compressed else stream


def _header(stream: Any) -> Any:
    """nibabel's header at the beginning of an uncompressed stream. Raises ValueError where it is none."""
    quietly("nibabel")
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    with in_words("its gzip data are damaged or cut short"):
        head = stream.read(540)
    if head[344:347] == b"ni1":
        raise ValueError("its voxels lie in another file (.img): save both as one .nii")
    kind, length = (Nifti2Header, 540) if head[4:7] == b"n+2" else (Nifti1Header, 348)
    if len(head) < length or (kind is Nifti1Header and head[344:347] != b"n+1"):
        raise ValueError("it is not NIfTI, or is cut short")
    with in_words("its header is damaged"):
        header = kind(head[:length], check=False)
        header.check_fix(logging.getLogger("nibabel.global"), error_level=40)
        return header


def described(stream: Any) -> _Nifti:
    """The header at the beginning of an uncompressed stream. Raises ValueError where it is not of NIfTI voxels that fit
    into an image.
    """
    header = _header(stream)
    with in_words("its header is damaged"):
        shape, dtype = tuple(int(side) for side in header.get_data_shape()), header.get_data_dtype()
        slope, intercept = header.get_slope_inter()
        found = _Nifti(
            (*shape, *(1,) * (3 - len(shape))),
            dtype,
            int(header.get_data_offset()),
            1.0 if slope is None else float(slope),
            0.0 if intercept is None else float(intercept),
            header.get_best_affine(),
        )
    if dtype.fields:
        raise ValueError("it holds RGB voxels, and only numbers are read")
    if np.issubdtype(dtype, np.complexfloating):
        raise ValueError("it holds complex numbers: save their magnitude")
    if found.offset < header.sizeof_hdr:
        raise ValueError(f"its header is damaged: its voxels begin at byte {found.offset}")
    if min(found.shape) < 1:
        raise ValueError(f"it has no voxels: its shape is {found.shape}")
    return found


def _checked(stream: Any, axis: int) -> _Nifti:
    """`described`, of slices along an axis that are neither too large nor too many."""
    found = described(stream)
    height, width = (found.shape[other] for other in range(3) if other != axis)
    check_sizes(height, width, found.pages(axis))
    if found.end > MOST_BYTES:
        raise ValueError(
            f"it claims {found.end / 2**30:.3g} GiB of voxels, more than {MOST_BYTES >> 30}: cut it in parts"
        )
    return found


def look(stream: BufferedIOBase, axis: int) -> Facts:
    from nibabel.volumeutils import apply_read_scaling

    plain = uncompressed(stream)
    found = _checked(plain, axis)
    if plain is stream and (size := size_of(stream)) < found.end:
        raise ValueError(f"it is cut short: it holds {size} of {found.end} bytes")
    low, high = math.inf, -math.inf
    each = TOGETHER * found.dtype.itemsize
    with in_words("its gzip data are damaged or cut short"):
        plain.seek(found.offset)
    for start in range(found.offset, found.end, each):
        wanted = min(each, found.end - start)
        with in_words("its gzip data are damaged or cut short"):
            content = plain.read(wanted)
        if len(content) < wanted:
            raise ValueError(f"it is cut short: it holds {start + len(content)} of {found.end} bytes")
        with np.errstate(all="ignore"):
            raw = np.frombuffer(content, found.dtype)
            values = apply_read_scaling(raw, np.float64(found.slope), np.float64(found.intercept)).astype(np.float32)
        check_finite(values)
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if plain is not stream:  # its checksum stands at its end
        with in_words("its gzip data are damaged or cut short"):
            more = len(plain.read(MOST_AFTER))
        if more == MOST_AFTER:
            raise ValueError("it holds more than its header tells")
    height, width = (found.shape[other] for other in range(3) if other != axis)
    return Facts(height, width, pages=found.pages(axis), bits=32, low=low, high=high)


def slice_of(stream: BufferedIOBase, axis: int, page: int) -> Float32[np.ndarray, "h w"]:
    """Slice k of volume t, page = k + slices t."""
    quietly("nibabel")
    from nibabel.arrayproxy import ArrayProxy

    voxels: Any = uncompressed(stream)
    if voxels is not stream:
        voxels = BytesIO(_decompressed(stream, axis))
    found = _checked(voxels, axis)
    if not 0 <= page < found.pages(axis):
        raise ValueError(f"it holds {found.pages(axis)} slices, and not one of number {page + 1}")
    further, k = divmod(page, found.shape[axis])
    index = [slice(None), slice(None), slice(None), *np.unravel_index(further, found.shape[3:] or (1,), order="F")]
    index[axis] = k
    with in_words("its voxels cannot be read"), np.errstate(all="ignore"):
        spec = (found.shape, found.dtype, found.offset, found.slope, found.intercept)
        values = ArrayProxy(voxels, spec, mmap=False)[tuple(index[: len(found.shape)])]
        return np.asarray(values).astype(np.float32)


def like(stream: BufferedIOBase, pages: Sequence[UInt8[np.ndarray, "h w"]], axis: int, slope: float = 1.0) -> bytes:
    """A file of these pages, in the order of `slice_of`, with the shape and the place (both affine matrices) of a
    stream's file; its values are slope x stored.
    """
    header = _header(uncompressed(stream))
    shape = (*header.get_data_shape(), *(1,) * (3 - len(header.get_data_shape())))
    sides = [shape[other] for other in range(3) if other != axis]
    # Page k + slices t: the slices count faster than further axes, the first of which counts faster than the others.
    stacked = np.stack(pages).reshape(*shape[:2:-1], shape[axis], *sides)
    values = np.moveaxis(stacked, range(len(shape) - 3), range(-1, 2 - len(shape), -1))
    values = np.moveaxis(values, 0, axis).reshape(header.get_data_shape())
    header.set_data_dtype(np.uint8)
    header.set_data_offset(0)
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0  # the window of other values
    made = _image_class(header)(values, None, header)
    made.header.set_slope_inter(slope, 0.0)
    return made.to_bytes()


def _image_class(header: Any) -> Any:
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    return Nifti2Image if isinstance(header, Nifti2Image.header_class) else Nifti1Image


_volumes: OrderedDict[bytes, bytes] = OrderedDict()  # the last volumes that were decompressed: header and voxels
_lock = threading.Lock()


def _decompressed(stream: BufferedIOBase, axis: int) -> bytes:
    """A compressed file's header and voxels, which are kept for the next slice: up to MOST_CACHED bytes of the volumes
    that were used last, and always the last.
    """
    key = _mark(stream)
    with _lock:
        if key in _volumes:
            _volumes.move_to_end(key)
            return _volumes[key]
    plain = uncompressed(stream)
    end = _checked(plain, axis).end
    with in_words("its gzip data are damaged or cut short"):
        plain.seek(0)
        content = plain.read(end)
    if len(content) < end:
        raise ValueError(f"it is cut short: it holds {len(content)} of {end} bytes")
    with _lock:
        _volumes[key] = content
        while len(_volumes) > 1 and sum(map(len, _volumes.values())) > MOST_CACHED:
            _volumes.popitem(last=False)
    return content


def _mark(stream: BufferedIOBase) -> bytes:
    """What tells compressed contents apart without reading all: the size, both ends (the last holds the checksum of the
    contents) and 64 places between.
    """
    size = size_of(stream)
    mark = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
    for place in (0, *(size * k // 65 for k in range(1, 65))):
        stream.seek(place)
        mark.update(stream.read(64))
    stream.seek(max(0, size - 1024))
    mark.update(stream.read(1024))
    return mark.digest()

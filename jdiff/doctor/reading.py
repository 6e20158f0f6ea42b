"""One pass over a source. What is kept of a record is a kilobyte or so, whatever the size of its pictures: some
numbers, a hash and two thumbnails.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Int32, UInt8

from jdiff.data.sources import Picture, Source
from jdiff.data.sources.files import Progress, one_line
from jdiff.data.sources.parts import in_parts
from jdiff.doctor.findings import Place
from jdiff.doctor.thumbnails import COARSE, DETAIL, grey_and_colour, thumbnails

BLOCK = 128  # records between two steps of the progress bar
BINS = 64  # of the histogram
HISTOGRAM_SIDE = 64  # so many pixels of a row and of a column are counted in it
FAINT = 0.03  # standard deviation of a grey thumbnail in [0, 1] below which an image may be of one colour
MOST_VALUES = 64  # values of a mask that are kept
FINE = 32  # pixels a side of the thumbnails by which a record's pictures are compared
MOST_PIXELS = 4 << 20  # of a picture, that moments and thumbnails are made of: as floats they take much memory
STRIP = 1 << 20  # values of a mask that are counted at a time


@dataclass
class PictureScan:
    """What is kept of one picture, row i of record i. Rows of pictures that could not be read stay zero.

    read: which rows hold something. lowest, highest: in units of the declared range, of finite values; others count as
    the ends that they are beyond, NaN as the lower one. contrast: highest - lowest; in an
    "image" in which little is seen, the largest of any channel alone. hashes: of pixels, shape and dtype. grey, colour:
    thumbnails in [0, 1], of "image" alone, colour where it may have some. values: of masks alone, the values in each
    (at most MOST_VALUES); share: of its pixels that are not the lowest declared value. fine: of records with several
    pictures, thumbnails of the first three channels, each picture's lowest value 0 and its highest 255. The sums are
    over the images' own means (of x and x^2, x in [0, 1]), of the `summed` images with the declared number of channels.
    """

    picture: Picture
    read: Bool[np.ndarray, " n"]
    finite: Bool[np.ndarray, " n"]
    height: Int32[np.ndarray, " n"]
    width: Int32[np.ndarray, " n"]
    channels: Int32[np.ndarray, " n"]
    lowest: Float32[np.ndarray, " n"]
    highest: Float32[np.ndarray, " n"]
    contrast: Float32[np.ndarray, " n"]
    hashes: np.ndarray
    values: list[tuple[float, ...]]
    share: Float32[np.ndarray, " n"]
    sum: Float[np.ndarray, " c"]
    sum_squares: Float[np.ndarray, " c"]
    histogram: Float[np.ndarray, "c bins"]
    grey: Float16[np.ndarray, "m d d"]
    colour: Float16[np.ndarray, "m2 k k 3"]
    fine: UInt8[np.ndarray, "m3 f f c3"]
    dtypes: Counter = field(default_factory=Counter)
    summed: int = 0
    at_low: float = 0.0
    at_high: float = 0.0


@dataclass(frozen=True)
class Scan:
    """All that is kept of a split. names: as they are, maybe in no Unicode. labels: int32 [n, k], -1 for none.
    unreadable: row -> why.
    """

    split: str
    names: Sequence[str]
    count: int
    class_names: tuple[str, ...]
    pictures: dict[str, PictureScan]
    labels: Int32[np.ndarray, "n k"]
    scalars: dict[str, Float32[np.ndarray, " n"]]
    unreadable: dict[int, str]

    def place(self, row: int) -> Place:
        return Place(self.split, int(row), one_line(self.names[row]) if self.names else f"record {row}")

    @property
    def readable(self) -> Bool[np.ndarray, " n"]:
        """Which rows hold an image of the declared number of channels."""
        image = self.pictures["image"]
        return image.read & (image.channels == image.picture.shape[-1])


def scan(
    source: Source,
    split: str,
    names: Sequence[str],
    progress: Progress,
    see: Callable[[int, Mapping[str, Any]], None] | None = None,
) -> Scan:
    """Read every record of `source` once. see: is given (row, record) of each, too."""
    count = len(source)
    pictures = {name: _empty(name, picture, count, len(source.pictures)) for name, picture in source.pictures.items()}
    labels = np.full((count, source.labels_per_image), -1, np.int32)
    scalars = {name: np.full(count, np.nan, np.float32) for name in source.scalar_names}
    unreadable: dict[int, str] = {}
    blocks = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
    for block in progress(blocks, len(blocks)):
        for rows, records in in_parts(source, block, lambda rows: _read(source, rows, unreadable)):
            read = {row: record for row, record in zip(rows, records, strict=True) if record is not None}
            for name, kept in pictures.items():
                _add(kept, name, read, unreadable)
            for row, record in read.items():
                if see:
                    see(row, record)
                if "label" in record:
                    labels[row] = record["label"]
                for name, values in scalars.items():
                    values[row] = record.get(name, np.nan)
    classes = tuple(one_line(name) for name in source.class_names)
    return Scan(split, names, count, classes, pictures, labels, scalars, unreadable)


def _empty(name: str, picture: Picture, count: int, pictures: int) -> PictureScan:
    channels = picture.shape[-1]
    thumbs = count if name == "image" else 0
    in_colour = thumbs if channels == 3 or (channels == 4 and picture.dtype == "uint8") else 0
    return PictureScan(
        picture=picture,
        read=np.zeros(count, bool),
        finite=np.ones(count, bool),
        height=np.zeros(count, np.int32),
        width=np.zeros(count, np.int32),
        channels=np.zeros(count, np.int32),
        lowest=np.zeros(count, np.float32),
        highest=np.zeros(count, np.float32),
        contrast=np.zeros(count, np.float32),
        hashes=np.zeros(count, "V16"),
        values=[()] * count if picture.kind == "mask" else [],
        share=np.zeros(count, np.float32),
        sum=np.zeros(channels),
        sum_squares=np.zeros(channels),
        histogram=np.zeros((channels, BINS)),
        grey=np.zeros((thumbs, DETAIL, DETAIL), np.float16),
        colour=np.zeros((in_colour, COARSE, COARSE, 3), np.float16),
        fine=np.zeros((count if pictures > 1 else 0, FINE, FINE, min(channels, 3)), np.uint8),
    )


def _read(source: Source, rows: Sequence[int], unreadable: dict[int, str]) -> list[dict[str, Any] | None]:
    """The records of `rows`; None, and why noted, where one cannot be read."""
    try:
        return list(source.__getitems__(rows))
    except Exception:  # one bad file fails its whole batch: then one at a time
        return [_one(source, row, unreadable) for row in rows]


def _one(source: Source, row: int, unreadable: dict[int, str]) -> dict[str, Any] | None:
    try:
        return source.__getitems__([row])[0]
    except Exception as error:  # whatever a decoder raises on a damaged file
        unreadable[row] = one_line(" ".join(str(error).split())) or type(error).__name__
        return None


def _add(kept: PictureScan, name: str, records: dict[int, dict[str, Any]], unreadable: dict[int, str]) -> None:
    """Note what one picture of these records, row -> record, is like."""
    alike: dict[Any, list[int]] = defaultdict(list)  # rows of pictures that can be stacked
    arrays = {}
    for row, record in records.items():
        array = record.get(name)
        if not isinstance(array, np.ndarray) or array.ndim != 3 or 0 in array.shape:
            what = f"of shape {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
            unreadable[row] = f"its {name} is no picture [h, w, c] but {what}"
            continue
        alike[array.shape, array.dtype.name].append(row)
        arrays[row] = array
    for (shape, dtype), same in alike.items():
        _add_alike(kept, name, np.array(same), _stack([arrays[row] for row in same]), shape, dtype)


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(arrays) if len(arrays) > 1 else arrays[0][None]  # a large one is not copied


def _add_alike(
    kept: PictureScan, name: str, rows: np.ndarray, stack: np.ndarray, shape: tuple[int, ...], dtype: str
) -> None:
    picture = kept.picture
    kept.read[rows] = True
    kept.dtypes[dtype] += len(rows)
    kept.height[rows], kept.width[rows], kept.channels[rows] = shape
    kept.hashes[rows] = [np.void(_digest(array)) for array in stack]
    for row, array in zip(rows, stack, strict=True):
        kept.lowest[row], kept.highest[row], kept.finite[row] = _ends(array, picture)
    kept.contrast[rows] = kept.highest[rows] - kept.lowest[rows]
    step = math.ceil(math.sqrt(shape[0] * shape[1] / MOST_PIXELS))
    unit = _unit(stack[:, ::step, ::step], picture)
    if shape[-1] == picture.shape[-1]:
        _add_sums(kept, unit)
        if len(kept.fine):
            kept.fine[rows] = _fine(unit, kept.lowest[rows], kept.contrast[rows])
    if picture.kind == "mask":
        for row, array in zip(rows, stack, strict=True):
            kept.share[row] = np.count_nonzero(array > picture.low) / array.size
            kept.values[row] = tuple(float(value) for value in _values(array)[:MOST_VALUES])
    if name == "image":
        inside = kept.lowest[rows].min() >= 0 and kept.highest[rows].max() <= 1
        grey, colour = grey_and_colour(unit if inside else np.clip(unit, 0, 1), alpha=dtype == "uint8")
        kept.grey[rows] = grey
        if colour is not None and len(kept.colour):
            kept.colour[rows] = colour
        for i in np.flatnonzero(grey.std(axis=(1, 2)) < FAINT):
            kept.contrast[rows[i]] = np.ptp(unit[i], axis=(0, 1)).max()


def _ends(array: np.ndarray, picture: Picture) -> tuple[float, float, bool]:
    """(lowest, highest value in units of the declared range, whether all are finite)."""
    low, high = float(array.min()), float(array.max())  # NaN where there is one
    finite = math.isfinite(low) and math.isfinite(high)
    if not finite:
        array = np.nan_to_num(array, nan=picture.low, posinf=picture.high, neginf=picture.low)
        low, high = float(array.min()), float(array.max())
    largest = float(np.finfo(np.float32).max)
    ends = ((end - picture.low) / (picture.high - picture.low) for end in (low, high))
    low, high = (min(max(end, -largest), largest) for end in ends)
    return low, high, finite


def _unit(stack: np.ndarray, picture: Picture) -> Float32[np.ndarray, "n h w c"]:
    """The declared range as [0, 1], what is not finite within it."""
    unit = stack.astype(np.float32)
    unit -= np.float32(picture.low)
    unit *= np.float32(1 / (picture.high - picture.low))
    if not np.issubdtype(stack.dtype, np.integer):
        np.nan_to_num(unit, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    return unit


def _fine(
    unit: Float32[np.ndarray, "n h w c"], lowest: Float32[np.ndarray, " n"], contrast: Float32[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n f f c3"]:
    small = thumbnails(unit[..., :3], FINE) - lowest[:, None, None, None]
    return np.round(small * (255 / np.maximum(contrast, 1e-9))[:, None, None, None]).clip(0, 255).astype(np.uint8)


def _add_sums(kept: PictureScan, unit: Float32[np.ndarray, "n h w c"]) -> None:
    count, height, width, channels = unit.shape
    pixels = height * width
    kept.summed += count
    for image in unit.reshape(count, pixels, channels):
        kept.sum += np.ones(pixels, np.float32) @ image / pixels
        kept.sum_squares += np.diagonal(image.T @ image) / pixels
    kept.at_low += count * np.count_nonzero(unit <= 0) / unit.size
    kept.at_high += count * np.count_nonzero(unit >= 1) / unit.size
    some = unit[:, :: -(-height // HISTOGRAM_SIDE), :: -(-width // HISTOGRAM_SIDE)]
    bins = np.clip(some * BINS, 0, BINS - 1).astype(np.int64) + BINS * np.arange(channels)
    counted = np.bincount(bins.ravel(), minlength=BINS * channels).reshape(channels, BINS)
    kept.histogram += counted * (count * channels / some.size)  # every image counts one


def _digest(array: np.ndarray) -> bytes:
    form = f"{array.shape}{array.dtype.str}".encode()
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16, key=form[:64]).digest()


def _values(array: np.ndarray) -> np.ndarray:
    """The values that occur, in order."""
    if array.dtype != np.uint8:
        return np.unique(array)
    flat = array.reshape(-1)
    counts = sum(np.bincount(flat[i : i + STRIP], minlength=256) for i in range(0, len(flat), STRIP))
    return np.flatnonzero(counts)

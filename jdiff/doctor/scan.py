"""One pass over all records. What is kept of each is a kilobyte or so, whatever the size of its pictures: some numbers,
a hash, thumbnails.
"""

import functools
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Int
from PIL import Image

from jdiff.common.words import one_line
from jdiff.data.resize import Resize, Rule, by_no_chance
from jdiff.data.sources import Picture, Source
from jdiff.data.sources.files import Progress, no_progress
from jdiff.data.sources.in_parts import in_parts
from jdiff.doctor import thresholds as th
from jdiff.doctor.findings import HELD_OUT, TRAIN, PictureNumbers, Place, Suspect


@dataclass
class Kept:
    """One picture of all records; row i, of record i, is zero where it could not be read.

    rows.lowest, .highest: in units of the declared range, not finite values at its ends. contrast: highest - lowest;
    where little is seen, the largest of any channel. share: of a mask's pixels above the lowest declared value. first,
    second [c]: means of x and x^2, x in [0, 1]; at_low, at_high: shares at or beyond 0 and 1. digest: of pixels, shape
    and dtype. values: of a mask, the first MOST_VALUES that occur. thumb: in [0, 1], grey where there is no colour.
    histogram: of the training records.
    """

    picture: Picture
    rows: np.recarray
    values: list[tuple[float, ...]]
    thumb: Float16[np.ndarray, "n d d c1"]
    histogram: Float[np.ndarray, "c bins"]

    def told(self, end: float) -> float:
        """A value of the declared range's units in those of the file."""
        return self.picture.low + float(end) * (self.picture.high - self.picture.low)


@dataclass(frozen=True)
class Scan:
    """All records, those of training first. names: of files, maybe not Unicode; "" of records without. labels: int32
    [n, k], -1 for none. unreadable: row -> why.
    """

    held_out: Bool[np.ndarray, " n"]
    names: Sequence[str]
    class_names: tuple[str, ...]
    pictures: dict[str, Kept]
    labels: Int[np.ndarray, "n k"]
    scalars: dict[str, Float32[np.ndarray, " n"]]
    unreadable: dict[int, str]

    @property
    def image(self) -> Kept:
        return self.pictures["image"]

    @property
    def partners(self) -> dict[str, Kept]:
        """The pictures of a record beside its image."""
        return {name: kept for name, kept in self.pictures.items() if name != "image"}

    @functools.cached_property
    def readable(self) -> Bool[np.ndarray, " n"]:
        return self.image.rows.read

    @property
    def splits(self) -> Iterator[tuple[str, Bool[np.ndarray, " n"]]]:
        """(name, its rows) of every split."""
        yield TRAIN, ~self.held_out
        if self.held_out.any():
            yield HELD_OUT, self.held_out

    @property
    def one_class(self) -> tuple[str, ...]:
        """The classes where a record has one label; else ()."""
        return self.class_names if self.labels.shape[1] == 1 else ()

    @functools.cached_property
    def plain(self) -> Bool[np.ndarray, " n"]:
        """Readable images with nothing to see in the thumbnails."""
        rows = np.arange(len(self.held_out))
        spread = np.maximum(self.grey(rows).std(axis=(1, 2)), self.colour(rows).std(axis=(1, 2, 3)))
        return self.readable & (spread < th.PLAIN)

    def grey(self, rows: np.ndarray) -> Float32[np.ndarray, "m d d"]:
        """The mean of the channels, which does not depend on their order."""
        return self.image.thumb[rows].astype(np.float32).mean(axis=-1)

    def colour(self, rows: np.ndarray) -> Float32[np.ndarray, "m k k c1"]:
        half = th.DETAIL // th.COARSE
        small = self.image.thumb[rows].astype(np.float32)
        return small.reshape(-1, th.COARSE, half, th.COARSE, half, small.shape[-1]).mean(axis=(2, 4))

    def class_of(self, row: int) -> str:
        label = self.labels[row, 0]
        return self.one_class[label] if 0 <= label < len(self.one_class) else ""

    def place(self, row: int) -> Place:
        index = int(row - np.count_nonzero(~self.held_out) if self.held_out[row] else row)
        name = one_line(self.names[row]) or f"record {index}"
        return Place(HELD_OUT if self.held_out[row] else TRAIN, index, name)

    def suspects(self, rows: Any, why: str | Callable[[int], str]) -> list[Suspect]:
        """One suspect a row; rows: numbers, or a mask [n]."""
        rows = np.flatnonzero(rows) if isinstance(rows, np.ndarray) and rows.dtype.kind == "b" else rows
        return [Suspect((self.place(row),), why if isinstance(why, str) else why(int(row))) for row in rows]


def scan(
    train: Source,
    held_out: Source | None = None,
    *,
    names: Sequence[str] = (),
    progress: Progress = no_progress,
) -> Scan:
    """Read every record once. names: one a record of both splits, or none."""
    sources = [train] if held_out is None else [train, held_out]
    counts = [len(source) for source in sources]
    total = sum(counts)
    pictures = {name: _empty(one, total) for name, one in train.pictures.items()}
    labels = np.full((total, train.labels_per_image), -1, np.int32)
    scalars = {name: np.full(counts[0], np.nan, np.float32) for name in train.scalar_names}
    unreadable: dict[int, str] = {}
    for source, start, count in zip(sources, (0, counts[0]), counts, strict=False):
        read = functools.partial(_read, source, start, unreadable)
        blocks = [range(first, min(first + th.BLOCK, count)) for first in range(0, count, th.BLOCK)]
        for block in progress(blocks, len(blocks)):
            for indices, records in in_parts(source, block, read):
                given = {start + i: one for i, one in zip(indices, records, strict=True) if one is not None}
                for name, kept in pictures.items():
                    for rows, stack in _alike(name, kept.picture.channels, given, unreadable):
                        _add(kept, rows, stack, training=not start)
                for row, record in given.items():
                    labels[row] = record.get("label", -1)
                    if not start:
                        for name, values in scalars.items():
                            values[row] = record.get(name, np.nan)
    classes = tuple(one_line(name) for name in train.class_names)
    split = np.arange(total) >= counts[0]
    return Scan(split, names or [""] * total, classes, pictures, labels, scalars, unreadable)


def _empty(picture: Picture, count: int) -> Kept:
    channels, coloured = picture.channels, picture.channels == 3 or (picture.channels, picture.dtype) == (4, "uint8")
    row: list[tuple] = [(key, bool) for key in ("read", "finite")]
    row += [(key, "i4") for key in ("height", "width")] + [("dtype_name", "U16"), ("digest", "V16")]
    row += [(key, "f4") for key in ("lowest", "highest", "contrast", "share")]
    row += [("at_low", "f8"), ("at_high", "f8"), ("first", "f8", channels), ("second", "f8", channels)]
    return Kept(
        picture=picture,
        rows=np.zeros(count, row).view(np.recarray),
        values=[()] * count if picture.kind == "mask" else [],
        thumb=np.zeros((count, th.DETAIL, th.DETAIL, 3 if coloured else 1), np.float16),
        histogram=np.zeros((channels, th.BINS)),
    )


def _read(source: Source, start: int, unreadable: dict[int, str], indices: Sequence[int]) -> list[Any]:
    """Records, None in place of one that cannot be read; one bad file fails its whole batch, so then one at a time."""
    try:
        return list(source.__getitems__(indices))
    except Exception as error:  # whatever a decoder raises on a damaged file
        if len(indices) > 1:
            return [one for index in indices for one in _read(source, start, unreadable, [index])]
        unreadable[start + indices[0]] = one_line(" ".join(str(error).split())) or type(error).__name__
        return [None]


def _alike(
    name: str, channels: int, records: dict, unreadable: dict[int, str]
) -> Iterator[tuple[list[int], np.ndarray]]:
    """(rows, their pictures) of each shape and dtype."""
    alike: dict[Any, dict[int, np.ndarray]] = defaultdict(dict)
    for row, record in records.items():
        array = record.get(name)
        if isinstance(array, np.ndarray) and array.ndim == 3 and array.size and array.shape[-1] == channels:
            alike[array.shape, array.dtype.name][row] = array
        else:
            what = f"of shape {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
            unreadable[row] = f"its {name} is no picture [h, w, {channels}] but {what}"
    for same in alike.values():
        arrays = list(same.values())
        yield list(same), np.stack(arrays) if len(arrays) > 1 else arrays[0][None]  # a large one is not copied


def _add(kept: Kept, rows: list[int], stack: np.ndarray, *, training: bool) -> None:
    """Note what one picture of these records is like, all being of one shape and dtype."""
    picture, (_, height, width, channels) = kept.picture, stack.shape
    lowest, highest, finite = _ends(stack, picture)
    noted = {"read": True, "finite": finite, "height": height, "width": width}
    noted |= {"lowest": lowest, "highest": highest, "contrast": highest - lowest, "dtype_name": stack.dtype.name}
    for key, value in {**noted, "digest": [np.void(_digest(array)) for array in stack]}.items():
        kept.rows[key][rows] = value
    step = math.ceil(math.sqrt(height * width / th.MOST_PIXELS))
    unit = _unit(stack[:, ::step, ::step], picture)
    _add_moments(kept, rows, unit, training=training)
    if picture.kind == "mask":
        for row, array in zip(rows, stack, strict=True):
            kept.rows.share[row] = np.count_nonzero(array > picture.low) / array.size
            kept.values[row] = tuple(float(value) for value in np.unique(array)[: th.MOST_VALUES])
    seen = unit if lowest.min() >= 0 and highest.max() <= 1 else np.clip(unit, 0, 1)
    if channels == 4 and stack.dtype == np.uint8:  # transparent: laid on white
        seen = seen[..., :3] * seen[..., 3:] + (1 - seen[..., 3:])
    small = thumbnails(seen, th.DETAIL)
    grey = small.mean(axis=-1, keepdims=True)
    kept.thumb[rows] = small if kept.thumb.shape[-1] == 3 else grey
    for i in np.flatnonzero(grey.std(axis=(1, 2, 3)) < th.FAINT):
        kept.rows.contrast[rows[i]] = np.ptp(unit[i], axis=(0, 1)).max()


def _ends(stack: np.ndarray, picture: Picture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lowest, highest value in units of the declared range, whether all are finite) of every picture."""
    flat = stack.reshape(len(stack), -1)
    finite = np.isfinite(flat).all(axis=1)
    if not finite.all():
        flat = np.nan_to_num(flat, nan=picture.low, posinf=picture.high, neginf=picture.low)
    ends = np.stack([flat.min(axis=1), flat.max(axis=1)]).astype(np.float64)
    largest = float(np.finfo(np.float32).max)
    low, high = np.clip((ends - picture.low) / (picture.high - picture.low), -largest, largest).astype(np.float32)
    return low, high, finite


def _unit(stack: np.ndarray, picture: Picture) -> Float32[np.ndarray, "n h w c"]:
    """The declared range as [0, 1], what is not finite within it."""
    unit = stack.astype(np.float32)
    unit -= np.float32(picture.low)
    unit *= np.float32(1 / (picture.high - picture.low))
    if not np.issubdtype(stack.dtype, np.integer):
        np.nan_to_num(unit, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    return unit


def _add_moments(kept: Kept, rows: list[int], unit: Float32[np.ndarray, "n h w c"], *, training: bool) -> None:
    count, height, width, channels = unit.shape
    for row, image in zip(rows, unit.reshape(count, -1, channels), strict=True):
        kept.rows.first[row] = np.ones(len(image), np.float32) @ image / len(image)
        kept.rows.second[row] = np.diagonal(image.T @ image) / len(image)
    kept.rows.at_low[rows], kept.rows.at_high[rows] = (end.mean(axis=(1, 2, 3)) for end in (unit <= 0, unit >= 1))
    if training:
        some = unit[:, :: -(-height // th.HISTOGRAM_SIDE), :: -(-width // th.HISTOGRAM_SIDE)]
        bins = np.clip(some * th.BINS, 0, th.BINS - 1).astype(np.int64) + th.BINS * np.arange(channels)
        counted = np.bincount(bins.ravel(), minlength=th.BINS * channels).reshape(channels, th.BINS)
        kept.histogram += counted * (count * channels / some.size)  # every image counts one


def _digest(array: np.ndarray) -> bytes:
    form = f"{array.shape}{array.dtype.str}".encode()
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16, key=form[:64]).digest()


def thumbnails(images: Float[np.ndarray, "n h w c"], side: int) -> Float[np.ndarray, "n side side c"]:
    """The mean of what each of side x side equal parts of an image covers, whatever its aspect."""
    count, height, width, channels = images.shape
    rows = np.matmul(_areas(height, side), images.reshape(count, height, width * channels))
    return np.matmul(_areas(width, side), rows.reshape(count, side, width, channels))


@functools.lru_cache(maxsize=64)
def _areas(size: int, side: int) -> Float32[np.ndarray, "side size"]:
    """Row i has the share of each of `size` pixels in the i-th of `side` equal parts of them."""
    edges, pixels = np.arange(side + 1) * (size / side), np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(covered, 0) * (side / size)).astype(np.float32)


def numbers(scan: Scan, name: str) -> PictureNumbers:
    """Of the training records: with x in [0, 1], mean 2 E x - 1 and standard deviation 2 sqrt(E x^2 - (E x)^2)."""
    kept, picture = scan.pictures[name], scan.pictures[name].picture
    rows = kept.rows[kept.rows.read & ~scan.held_out]
    moments = np.stack([rows.first, rows.second]).sum(axis=1) / max(len(rows), 1)
    histogram = kept.histogram / np.maximum(kept.histogram.sum(axis=1, keepdims=True), 1)
    return PictureNumbers(
        name=name,
        kind=picture.kind,
        sizes=dict(Counter(zip(rows.height.tolist(), rows.width.tolist(), strict=True)).most_common()),
        channels=picture.channels,
        dtypes=dict(Counter(rows.dtype_name.tolist()).most_common()),
        low=picture.low,
        high=picture.high,
        lowest=kept.told(rows.lowest.min()) if len(rows) else picture.low,
        highest=kept.told(rows.highest.max()) if len(rows) else picture.low,
        at_low=float(rows.at_low.sum()) / max(len(rows), 1),
        at_high=float(rows.at_high.sum()) / max(len(rows), 1),
        mean=tuple((2 * moments[0] - 1).tolist()),
        std=tuple((2 * np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0))).tolist()),
        sigma_data=sigma_data(moments),
        histogram=tuple(tuple(row) for row in histogram.tolist()),
    )


def trained_sigma(source: Source, scan: Scan, name: str, size: int, rule: Rule) -> float | None:
    """sigma_data of some training pictures brought to size x size: shrinking averages noise out."""
    kept, picture = scan.pictures[name], scan.pictures[name].picture
    rows = np.flatnonzero(kept.rows.read & kept.rows.finite & ~scan.held_out & (kept.rows.dtype_name == picture.dtype))
    masks, alpha = (frozenset({name} if one else ()) for one in (picture.kind == "mask", picture.alpha))
    resize = Resize(by_no_chance(rule), size, size, masks=masks, alpha=alpha, fill={name: picture.low})
    moments = []
    for _, records in in_parts(source, rows[:: -(-len(rows) // th.RESIZED) or 1].tolist(), source.__getitems__):
        for record in records:
            unit = (resize({name: record[name]})[name].astype(np.float64) - picture.low) / (picture.high - picture.low)
            moments.append((unit.mean(), (unit**2).mean()))
    return sigma_data(np.mean(moments, axis=0)) if moments else None


def sigma_data(moments: Float[np.ndarray, "2 ..."]) -> float:
    """2 sqrt(E x^2 - (E x)^2), the standard deviation in [-1, 1] of x in [0, 1]."""
    first, second = moments.reshape(2, -1).mean(axis=1)
    return 2 * float(np.sqrt(max(second - first**2, 0)))


def modes(names: Sequence[str]) -> dict[str, int]:
    """ "JPEG RGB" -> how many of the files, of at most MOST_OPENED of them. Only their heads are read."""
    found: Counter[str] = Counter()
    for index in np.sort(np.random.default_rng(0).permutation(len(names))[: th.MOST_OPENED]):
        try:
            with Image.open(names[index]) as image:
                found[f"{image.format} {image.mode}"] += 1
        except Exception:  # an archive's member, or an unreadable file, of which there is a finding
            continue
    return dict(found.most_common())

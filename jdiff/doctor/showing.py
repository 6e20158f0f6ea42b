"""The few records that the report shows, read again and made small."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image

from jdiff.data.sources import Picture, Source
from jdiff.doctor.findings import TRAIN, Place, Shown, Suspect
from jdiff.doctor.reading import Scan

SIDE = 96  # pixels at the most
FINE = 4  # times as many pixels a side are averaged
GRID = 48
PER_CLASS = 8
MOST_CLASSES = 24
PER_FINDING = 12
PER_SUSPECT = 4


def small(array: Num[np.ndarray, "h w c"], picture: Picture) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A picture as one sees it: its declared range as 0 .. 255, one channel as grey, transparency on white, of more
    than four channels the first three. Masks of a few classes are spread over the greys.
    """
    height, width = array.shape[:2]
    rows, columns = (max(1, size // (FINE * SIDE)) for size in (height, width))
    array = array[::rows, ::columns]  # a photo as floats takes much memory
    unit = (np.nan_to_num(array.astype(np.float32)) - picture.low) / (picture.high - picture.low)
    if picture.kind == "mask" and 0 < unit.max() < 0.2:
        unit = unit / unit.max()
    if unit.shape[-1] == 4 and array.dtype == np.uint8:
        unit = unit[..., :3] * unit[..., 3:] + 1 - unit[..., 3:]
    levels = np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)
    levels = np.repeat(levels[..., :1], 3, axis=-1) if levels.shape[-1] < 3 else levels[..., :3]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return levels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BOX))


def beside(pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "H W 3"]:
    """Pictures of one record in a row, as high as the highest."""
    height = max(len(picture) for picture in pictures)
    same = []
    for picture in pictures:
        if len(picture) < height:
            width = max(1, round(picture.shape[1] * height / len(picture)))
            picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST))
        same.append(picture)
    return np.concatenate(same, axis=1)


def show(source: Source, place: Place, says: str = "") -> Shown | None:
    """The pictures of a record, side by side; None where it cannot be read."""
    try:
        record = source.__getitems__([place.index])[0]
        pictures = [small(record[name], picture) for name, picture in source.pictures.items()]
    except Exception:  # it is among the unreadable ones
        return None
    return Shown(place, beside(pictures), says)


def grid(source: Source, scan: Scan) -> tuple[Shown, ...]:
    """Images at equal distances in the data."""
    rows = np.flatnonzero(scan.readable)
    chosen = rows[np.unique(np.linspace(0, max(len(rows) - 1, 0), GRID).astype(int))] if len(rows) else rows
    return _all(show(source, scan.place(row)) for row in chosen.tolist())


def of_class(source: Source, scan: Scan) -> dict[str, tuple[Shown, ...]]:
    """Some images of each of the first classes."""
    found = {}
    for label, name in enumerate(scan.class_names[:MOST_CLASSES]):
        rows = np.flatnonzero(scan.readable & (scan.labels == label).any(axis=1))
        if len(rows):
            chosen = rows[np.unique(np.linspace(0, len(rows) - 1, PER_CLASS).astype(int))]
            found[name] = _all(show(source, scan.place(row)) for row in chosen.tolist())
    return found


def suspects(sources: dict[str, Source], named: Iterable[Suspect]) -> dict[Place, Shown]:
    """The records that are named, of several that belong together the first."""
    wanted = {place for suspect in named for place in suspect.places[:PER_SUSPECT] if place.index >= 0}
    order = sorted(wanted, key=lambda place: (place.split != TRAIN, place.index))
    return {shown.place: shown for shown in _all(show(sources[place.split], place) for place in order)}


def _all(shown: Iterable[Shown | None]) -> tuple[Shown, ...]:
    return tuple(one for one in shown if one)

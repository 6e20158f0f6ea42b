"""Pictures for the page: some of all, and those that findings name."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Num
from PIL import Image, ImageOps

from jdiff.data.sources import Picture, Source
from jdiff.doctor import thresholds as th
from jdiff.doctor.findings import Place, Suspect, Thumbnails
from jdiff.doctor.scan import Scan

SIDE = 96  # pixels of a thumbnail
PER_FINDING, PER_SUSPECT = 12, 4  # suspects of a finding, records of a suspect


def small(array: Num[np.ndarray, "h w c"], picture: Picture) -> Image.Image:
    """A picture as one sees it: its declared range as 0 .. 255, one channel as grey, transparency on white, of more
    than four channels the first three. Masks of a few classes are spread over the greys.
    """
    step = max(1, max(array.shape[:2]) // (4 * SIDE))
    array = array[::step, ::step]  # a photo as floats takes much memory
    unit = (np.nan_to_num(array.astype(np.float32)) - picture.low) / (picture.high - picture.low)
    if picture.kind == "mask" and 0 < unit.max() < th.FAINT_MASK:
        unit = unit / unit.max()
    if unit.shape[-1] == 4 and array.dtype == np.uint8:
        unit = unit[..., :3] * unit[..., 3:] + 1 - unit[..., 3:]
    levels = np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)
    shown = Image.fromarray(np.repeat(levels[..., :1], 3, axis=-1) if levels.shape[-1] < 3 else levels[..., :3])
    shown.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return shown


def show(source: Source, places: Iterable[Place]) -> Thumbnails:
    """Each record's pictures in a row, as large as the first; unreadable ones are left out."""
    shown: Thumbnails = {}
    for place in places:
        try:
            record = source.__getitems__([place.index])[0]
            pictures = [small(record[name], one) for name, one in source.pictures.items()]
        except Exception:  # whatever a decoder raises: there is a finding of it
            continue
        same = [ImageOps.pad(one, pictures[0].size, Image.Resampling.NEAREST) for one in pictures]
        shown[place] = np.concatenate(list(map(np.asarray, same)), axis=1)
    return shown


def some(source: Source, seen: Scan, chosen: Bool[np.ndarray, " n"], most: int) -> Thumbnails:
    """Images at equal distances in the data."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))] if len(rows) else rows
    return show(source, map(seen.place, rows.tolist()))


def of_suspects(sources: dict[str, Source], named: Iterable[Suspect]) -> Thumbnails:
    """The records that are named, of several that belong together the first."""
    wanted = {place for suspect in named for place in suspect.places[:PER_SUSPECT] if place.index >= 0}
    found: Thumbnails = {}
    for split, source in sources.items():
        own = [place for place in wanted if place.split == split]
        found |= show(source, sorted(own, key=lambda place: place.index))
    return found

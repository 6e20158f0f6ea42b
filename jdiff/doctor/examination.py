"""Sources -> Findings."""

import os
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image
from threadpoolctl import threadpool_limits

from jdiff.common.errors import UserError
from jdiff.data.sources import Picture, Source
from jdiff.data.sources.files import Progress, no_progress, one_line
from jdiff.doctor import copies, masks, records
from jdiff.doctor import thresholds as th
from jdiff.doctor.advice import Settings, advise
from jdiff.doctor.colours import colours, without_colour
from jdiff.doctor.findings import HELD_OUT, SEVERITIES, TRAIN, Finding, Findings, Place, Shown, Spread, Suspect
from jdiff.doctor.scan import Scan, modes, numbers, resizing, scan, sigma_data

SIDE = 96  # pixels of a thumbnail in the report
GRID, PER_CLASS, MOST_CLASSES = 48, 8, 24  # images of all, of a class; classes
PER_FINDING, PER_SUSPECT = 12, 4  # suspects of a finding, records of a suspect


# Matrices are small: threads of BLAS wait for one another, and where other programs run, ten times as long.
@threadpool_limits.wrap(limits=1, user_api="blas")
def examine(
    train: Source,
    held_out: Source | None = None,
    *,
    names: Sequence[str] = (),
    held_out_names: Sequence[str] = (),
    left_out: Sequence[records.LeftOut] = (),
    settings: Settings = Settings(),  # noqa: B008
    progress: Progress = no_progress,
) -> Findings:
    """Read every record once (and again the few that the report shows), and say what the data are like, what is wrong
    with them and what to set.

    names, held_out_names: a record's file, for every one or for none. left_out: (split, file, why) of the files that
    the sources leave out. progress wraps the iteration over blocks of records. Memory: some 16 MiB of pictures at a
    time, or one picture, and some 5 kB a record.

    Raises UserError where no record can be read, or the target is none of the pictures; ValueError where names are more
    or fewer than records.
    """
    held_out = held_out if held_out is not None and len(held_out) else None
    sources = {TRAIN: train} | ({HELD_OUT: held_out} if held_out is not None else {})
    given = {TRAIN: names, HELD_OUT: held_out_names}
    for split, source in sources.items():
        if given[split] and len(given[split]) != len(source):
            raise ValueError(f"{len(given[split])} names for {len(source)} {split} records")
    if settings.target not in train.pictures:
        raise UserError(f"data.target={settings.target!r} is none of the pictures {', '.join(train.pictures)}")
    top = _common_folder([*names, *held_out_names])
    target, see = train.pictures[settings.target], None
    moments: list[np.ndarray] = []
    if settings.image_size:
        see = resizing(settings.target, target, settings.image_size, settings.resize, len(train), moments)
    below = [
        os.path.relpath(name, top) if top and name else name
        for split, source in sources.items()
        for name in given[split] or [""] * len(source)
    ]
    seen = scan(train, held_out, names=below, progress=progress, see=see)
    readable = seen.readable & ~seen.held_out
    if not readable.any():
        why = next((f" ({seen.place(row)}: {why})" for row, why in seen.unreadable.items()), "")
        raise UserError(f"none of the {len(train)} training records can be read{why}")

    start = os.path.join(one_line(top), "") if top else ""
    lost = [(split, one_line(file).removeprefix(start), one_line(why)) for split, file, why in left_out]
    notes = [one_line(note) for source in sources.values() for note in source.notes]
    times = copies.times_as_far(seen)
    found = _checks(seen, lost, notes, times, settings)
    told = None
    if train.captions:
        told, finding = records.captions(seen, train.captions, settings.vocabulary)
        found.append(finding)
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    sigmas = {settings.target: sigma_data(np.mean(moments, axis=0)) if moments else None}
    pictures = {name: numbers(seen, name, sigmas.get(name)) for name in seen.pictures}
    farthest = seen.suspects(list(times)[: th.FARTHEST], lambda row: copies.as_far(times[row]))
    all_grey = seen.image.picture.channels == 3 and bool(without_colour(seen)[seen.readable].all())
    count = int(readable.sum())
    scalars = {name: values[np.isfinite(values)] for name, values in seen.scalars.items()}
    named = [*chain.from_iterable(finding.suspects[:PER_FINDING] for finding in found), *farthest]
    return Findings(
        counts={split: len(source) for split, source in sources.items()},
        pictures=pictures,
        target=settings.target,
        classes=records.class_sizes(seen),
        modes=modes(names),
        folder=one_line(top),
        scalars={one_line(name): Spread.of(values) for name, values in scalars.items() if len(values)},
        captions=told,
        notes=tuple(note for note in notes if note not in records.skips(notes)),
        findings=tuple(found),
        advice=advise(count, pictures[settings.target], settings, captions=told, all_grey=all_grey),
        farthest=tuple(farthest),
        grid=_some(train, seen, readable, GRID),
        of_class={
            name: shown
            for label, name in enumerate(seen.class_names[:MOST_CLASSES])
            if (shown := _some(train, seen, readable & (seen.labels == label).any(axis=1), PER_CLASS))
        },
        suspects=_suspects(sources, named),
    )


def _checks(
    seen: Scan, lost: Sequence[records.LeftOut], notes: Sequence[str], times: dict[int, float], settings: Settings
) -> list[Finding]:
    exact = copies.exact(seen)
    near = copies.near(seen, exact)
    found = [*records.form(seen, lost, notes), *records.ranges(seen, free=settings.ranges_are_free)]
    found += records.classes(seen)
    found += masks.masks(seen, {frozenset((pair.one, pair.other)) for pair in near})
    found += copies.copies(seen, exact, near)
    found += colours(seen)
    known = {place for one in found for suspect in one.suspects for place in suspect.places}
    return [*found, copies.outliers(seen, times, known)] if times else found


def _common_folder(names: Sequence[str]) -> str:
    """The folder that all are in; "" where there is none."""
    try:
        return os.path.commonpath({os.path.dirname(name) for name in names})
    except ValueError:  # no names, or absolute and relative ones
        return ""


def small(array: Num[np.ndarray, "h w c"], picture: Picture) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A picture as one sees it: its declared range as 0 .. 255, one channel as grey, transparency on white, of more
    than four channels the first three. Masks of a few classes are spread over the greys.
    """
    height, width = array.shape[:2]
    rows, columns = (max(1, size // (4 * SIDE)) for size in (height, width))
    array = array[::rows, ::columns]  # a photo as floats takes much memory
    unit = (np.nan_to_num(array.astype(np.float32)) - picture.low) / (picture.high - picture.low)
    if picture.kind == "mask" and 0 < unit.max() < th.FAINT_MASK:
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


def _show(source: Source, places: Iterable[Place]) -> tuple[Shown, ...]:
    """Each record's pictures in a row, as high as the highest; unreadable ones are left out."""
    shown = []
    for place in places:
        try:
            record = source.__getitems__([place.index])[0]
            pictures = [Image.fromarray(small(record[name], one)) for name, one in source.pictures.items()]
        except Exception:  # whatever a decoder raises: there is a finding of it
            continue
        height = max(one.height for one in pictures)
        widths = [max(1, round(one.width * height / one.height)) for one in pictures]
        nearest = Image.Resampling.NEAREST
        same = [one.resize((width, height), nearest) for one, width in zip(pictures, widths, strict=True)]
        shown.append(Shown(place, np.concatenate(list(map(np.asarray, same)), axis=1)))
    return tuple(shown)


def _some(source: Source, seen: Scan, chosen: np.ndarray, most: int) -> tuple[Shown, ...]:
    """Images at equal distances in the data."""
    rows = np.flatnonzero(chosen)
    some = rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))] if len(rows) else rows
    return _show(source, map(seen.place, some.tolist()))


def _suspects(sources: dict[str, Source], named: Iterable[Suspect]) -> dict[Place, Shown]:
    """The records that are named, of several that belong together the first."""
    wanted = {place for suspect in named for place in suspect.places[:PER_SUSPECT] if place.index >= 0}
    found: dict[Place, Shown] = {}
    for split, source in sources.items():
        own = sorted((place for place in wanted if place.split == split), key=lambda place: place.index)
        found |= {shown.place: shown for shown in _show(source, own)}
    return found

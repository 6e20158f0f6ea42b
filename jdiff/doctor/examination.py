"""Sources -> Findings."""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from threadpoolctl import threadpool_limits

from jdiff.common.errors import UserError
from jdiff.common.words import one_line
from jdiff.data.sources import Source
from jdiff.data.sources.captioned import lines_of
from jdiff.data.sources.files import Progress, no_progress
from jdiff.doctor import copies, records
from jdiff.doctor import thresholds as th
from jdiff.doctor.advice import Settings, advise
from jdiff.doctor.colours import colours, without_colour
from jdiff.doctor.findings import HELD_OUT, SEVERITIES, TRAIN, Finding, Findings, Place, Spread, Suspect
from jdiff.doctor.masks import masks
from jdiff.doctor.scan import Scan, modes, numbers, scan, trained_sigma
from jdiff.doctor.thumbnails import PER_FINDING, of_suspects, some

GRID, PER_CLASS, MOST_CLASSES = 48, 8, 24  # images of all, of a class; classes


# Matrices are small: threads of BLAS wait for one another, and where other programs run, ten times as long.
@threadpool_limits.wrap(limits=1, user_api="blas")
def examine(
    train: Source,
    held_out: Source | None = None,
    *,
    names: Sequence[str] = (),
    held_out_names: Sequence[str] = (),
    settings: Settings = Settings(),  # noqa: B008
    progress: Progress = no_progress,
) -> Findings:
    """Read every record once (and again the few that the report shows or sigma_data is measured of at the side that is
    trained at), and say what the data are like, what is wrong with them and what to set.

    names, held_out_names: a record's file, for every one or for none. progress wraps the iteration over blocks of
    records. Memory: some 16 MiB of pictures at a time, or one picture, and some 2 kB a record.

    Raises UserError where no record can be read, or the target is none of the pictures; ValueError where names are more
    or fewer than records.
    """
    sources = {TRAIN: train} | ({HELD_OUT: held_out} if held_out is not None and len(held_out) else {})
    if settings.target not in train.pictures:
        raise UserError(f"data.target={settings.target!r} is none of the pictures {', '.join(train.pictures)}")
    top, below = _below(sources, {TRAIN: names, HELD_OUT: held_out_names})
    seen = scan(train, sources.get(HELD_OUT), names=below, progress=progress)
    readable = seen.readable & ~seen.held_out
    if not readable.any():
        why = next((f" ({seen.place(row)}: {why})" for row, why in seen.unreadable.items()), "")
        raise UserError(f"none of the {len(train)} training records can be read{why}")

    lost = [one for split, source in ((TRAIN, train), (HELD_OUT, held_out)) for one in _left_out(split, source, top)]
    notes = [one_line(note) for source in sources.values() for note in source.notes]
    times = copies.times_as_far(seen)
    found, told = _checks(seen, lost, times, settings), None
    if train.captions:
        told, finding = records.captions(seen, lines_of(train.captions), settings.vocabulary)
        found.append(finding)
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    pictures = {name: numbers(seen, name) for name in seen.pictures}
    if size := settings.image_size:
        sigma = trained_sigma(train, seen, settings.target, size, settings.resize)
        pictures[settings.target] = replace(pictures[settings.target], trained_sigma=sigma)
    farthest = seen.suspects(list(times)[: th.FARTHEST], lambda row: copies.as_far(times[row]))
    all_grey = seen.image.picture.channels == 3 and bool(without_colour(seen)[seen.readable].all())
    scalars = {name: values[np.isfinite(values)] for name, values in seen.scalars.items()}
    count, shown = int(readable.sum()), (finding.suspects[:PER_FINDING] for finding in found)
    members = {
        name: readable & (seen.labels == label).any(axis=1)
        for label, name in enumerate(seen.class_names[:MOST_CLASSES])
    }
    return Findings(
        counts={split: len(source) for split, source in sources.items()},
        pictures=pictures,
        target=settings.target,
        classes=records.class_sizes(seen),
        modes=modes(names),
        folder=one_line(top),
        scalars={one_line(name): Spread.of(values) for name, values in scalars.items() if len(values)},
        captions=told,
        notes=tuple(note for note in notes if not (lost and note.startswith("skipped "))),
        findings=tuple(found),
        advice=advise(
            count,
            pictures[settings.target],
            settings,
            captions=told,
            all_grey=all_grey,
            classes=records.class_sizes(seen) if seen.one_class else {},
            sizes_told=getattr(train, "sizes", None) is not None,
        ),
        farthest=tuple(farthest),
        grid=some(train, seen, readable, GRID),
        of_class={name: some(train, seen, own, PER_CLASS) for name, own in members.items() if own.any()},
        suspects=of_suspects(sources, [*chain.from_iterable(shown), *farthest]),
    )


def _below(sources: dict[str, Source], names: dict[str, Sequence[str]]) -> tuple[str, list[str]]:
    """(the folder that all files are in, or "", each record's name below it)."""
    for split, source in sources.items():
        if names[split] and len(names[split]) != len(source):
            raise ValueError(f"{len(names[split])} names for {len(source)} {split} records")
    try:
        top = os.path.commonpath({os.path.dirname(name) for name in chain(*names.values())})
    except ValueError:  # no names, or absolute and relative ones
        top = ""
    every = [name for split, source in sources.items() for name in names[split] or [""] * len(source)]
    return top, [os.path.relpath(name, top) if top and name else name for name in every]


def _left_out(split: str, source: Source | None, top: str) -> list[Suspect]:
    """The files that a source leaves out."""
    start = os.path.join(one_line(top), "") if top else ""
    files = getattr(source, "left_out", ())
    return [Suspect((Place(split, -1, one_line(file).removeprefix(start)),), one_line(why)) for file, why in files]


def _checks(seen: Scan, lost: list[Suspect], times: dict[int, float], settings: Settings) -> list[Finding]:
    exact = copies.exact(seen)
    near = copies.near(seen, exact)
    found = [*records.form(seen, lost), *records.ranges(seen, free=settings.ranges_are_free)]
    found += records.classes(seen) + masks(seen, {frozenset((pair.one, pair.other)) for pair in near})
    found += copies.copies(seen, exact, near) + colours(seen)
    known = {place for one in found for suspect in one.suspects for place in suspect.places}
    return [*found, copies.outliers(seen, times, known)] if times else found

"""Sources -> Findings."""

import os
from collections.abc import Sequence

import numpy as np

from jdiff.common.errors import UserError
from jdiff.data.sources import Source
from jdiff.data.sources.files import Progress, no_progress, one_line
from jdiff.doctor import captions as of_captions
from jdiff.doctor import copies, files, forms, leaks, masks, outliers, showing
from jdiff.doctor.advice import DEFAULTS, Settings, advise
from jdiff.doctor.classes import classes, sizes
from jdiff.doctor.colours import colours, without_colour
from jdiff.doctor.findings import HELD_OUT, SEVERITIES, TRAIN, Finding, Findings, Spread
from jdiff.doctor.forms import LeftOut
from jdiff.doctor.mirror import mirror
from jdiff.doctor.numbers import numbers
from jdiff.doctor.pool import Pool, pool
from jdiff.doctor.ranges import ranges
from jdiff.doctor.reading import Scan, scan
from jdiff.doctor.trained import AtTrainedSize
from jdiff.doctor.twins import twins


def examine(
    train: Source,
    held_out: Source | None = None,
    *,
    names: Sequence[str] = (),
    held_out_names: Sequence[str] = (),
    left_out: Sequence[LeftOut] = (),
    settings: Settings = DEFAULTS,
    progress: Progress = no_progress,
) -> Findings:
    """Read every record once (and again the few that the report shows), and say what the data are like, what is wrong
    with them and what to set.

    names, held_out_names: a record's file, for every one or for none. left_out: (split, file, why) of the files that
    the sources leave out, the splits being TRAIN and HELD_OUT. progress wraps the iteration over blocks of records,
    to show a bar. Memory: some 16 MiB of pictures at a time, or one picture, and some 5 kB a record.

    Raises UserError where no record can be read, or the target is none of the pictures; ValueError where names are more
    or fewer than records.
    """
    given: dict[str, tuple[Source, Sequence[str]]] = {TRAIN: (train, names)}
    if held_out is not None and len(held_out):
        given[HELD_OUT] = (held_out, held_out_names)
    for split, (source, own) in given.items():
        if own and len(own) != len(source):
            raise ValueError(f"{len(own)} names for {len(source)} {split} records")
    if settings.target not in train.pictures:
        raise UserError(f"data.target={settings.target!r} is none of the pictures {', '.join(train.pictures)}")
    top = _common_folder([*names, *held_out_names])
    shown = train.pictures[settings.target]
    trained = None
    if settings.image_size:
        trained = AtTrainedSize(settings.target, shown, settings.image_size, settings.resize, len(train))
    scans = [
        scan(
            source,
            split,
            [os.path.relpath(name, top) for name in own] if top else own,
            progress,
            trained.add if trained and split == TRAIN else None,
        )
        for split, (source, own) in given.items()
    ]
    if not scans[0].readable.any():
        why = "; ".join(f"{scans[0].place(row)}: {why}" for row, why in list(scans[0].unreadable.items())[:1])
        raise UserError(f"none of the {len(train)} training records can be read{f' ({why})' if why else ''}")

    notes = tuple(one_line(note) for source, _ in given.values() for note in source.notes)
    everything = pool(scans)
    times = outliers.times_as_far(everything)
    found = _checks(scans, _below(one_line(top), left_out), notes, everything, times, settings)
    told = None
    if train.captions:
        told = of_captions.measure(train.captions, settings.vocabulary)
        found.append(of_captions.captions(scans[0], train.captions, told))
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    pictures = {
        name: numbers(scans[0], name, trained.sigma_data if trained and name == settings.target else None)
        for name in scans[0].pictures
    }
    far = () if times is None else outliers.farthest(everything, times)
    mirrored = mirror(everything)
    advice = advise(
        int(scans[0].readable.sum()),
        pictures[settings.target],
        settings,
        mirror=mirrored,
        captions=told,
        all_grey=train.shape[-1] == 3 and everything.colour is not None and bool(without_colour(everything).all()),
    )
    finite = {name: values[np.isfinite(values)] for name, values in scans[0].scalars.items()}
    named = [suspect for finding in found for suspect in finding.suspects[: showing.PER_FINDING]] + list(far)
    return Findings(
        counts={one.split: one.count for one in scans},
        pictures=pictures,
        target=settings.target,
        classes=sizes(scans[0]),
        modes=files.modes(names),
        folder=one_line(top),
        scalars={one_line(name): Spread.of(values) for name, values in finite.items() if len(values)},
        captions=told,
        mirror=mirrored,
        notes=tuple(note for note in notes if note not in forms.skips(notes)),
        findings=tuple(found),
        advice=advice,
        farthest=far,
        grid=showing.grid(train, scans[0]),
        of_class=showing.of_class(train, scans[0]),
        suspects=showing.suspects({split: source for split, (source, _) in given.items()}, named),
    )


def _common_folder(names: Sequence[str]) -> str:
    """The folder that all are in; "" where there is none."""
    try:
        return os.path.commonpath({os.path.dirname(name) for name in names})
    except ValueError:  # no names, or absolute and relative ones
        return ""


def _below(top: str, left_out: Sequence[LeftOut]) -> list[LeftOut]:
    """With names as those of records are: below `top`."""
    start = os.path.join(top, "") if top else ""
    return [(split, one_line(file).removeprefix(start), one_line(why)) for split, file, why in left_out]


def _checks(
    scans: Sequence[Scan],
    left_out: Sequence[LeftOut],
    notes: Sequence[str],
    everything: Pool,
    times: np.ndarray | None,
    settings: Settings,
) -> list[Finding]:
    found: list[Finding | None]
    exact, near = copies.exact(everything), copies.near(everything)
    found = [forms.unreadable(scans, left_out, notes), forms.skipped(left_out, notes)]
    found += [forms.declared(scans), forms.pairs(scans)]
    found += ranges(scans, free=settings.ranges_are_free)
    paired = twins(scans)
    found += [paired] if paired else classes(scans)
    found += masks.masks(scans)
    found += masks.partners(
        scans, {frozenset((everything.place(pair.one), everything.place(pair.other))) for pair in near}
    )
    found += leaks.copies(everything, exact, near)
    found += [] if paired else colours(everything)  # of masks, which have none
    known = {place for one in found if one for suspect in one.suspects for place in suspect.places}
    found.append(leaks.plain(everything, known))
    if times is not None:
        found.append(outliers.outliers(everything, times, known))
    return [finding for finding in found if finding]

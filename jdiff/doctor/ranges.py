"""Values: within the declared range, using it, and not all the same."""

from collections.abc import Sequence

import numpy as np

from jdiff.doctor.findings import Finding, Suspect
from jdiff.doctor.reading import Scan
from jdiff.doctor.words import listed, many, number, share, suspects

BEYOND = 1e-3  # of the range, that values may lie outside it: rounding
USED = 0.5  # of the declared range that all images together should use at least
FLAT = 3.5 / 255  # range of an image's values, in [0, 1], that is no picture: JPEG's rounding
UNIT = 1.01 / 255  # highest value of an image on a scale of 0 .. 1 among those of 0 .. 255
USUAL = 0.2  # range of values of the median image, that makes those on another scale stand out
TIMES = 20.0  # as large a range as the median image's is another scale
LOWER, UPPER = 0.5, 0.498  # an image that stays below the one or above the other uses half of the scale
REACHED, LEAST = 0.62, 0.4  # values that other images reach above and below
MOST = 0.997  # of the other images that do so: photos of many things are dark now and then
FEWEST = 20  # images among which one can be odd


def ranges(scans: Sequence[Scan], *, free: bool = False) -> list[Finding]:
    """Findings "range" (one at least), and "constant". free: whether data.low and data.high can be set."""
    checks = (_not_finite(scan) or _beyond(scan, free) or _unused(scan, free) for scan in scans)
    found = [finding for finding in checks if finding]
    constant, other_scale = _without_contrast(scans)
    found += [finding for finding in (other_scale, _half(scans)) if finding]
    if not found:
        found = [Finding("range", "fine", "values use the declared range and stay in it")]
    return [*found, constant]


def _not_finite(scan: Scan) -> Finding | None:
    for name, kept in scan.pictures.items():
        rows = np.flatnonzero(~kept.finite).tolist()
        if len(rows):
            shown = suspects(scan, rows, f"{name} holds values that are not finite")
            return Finding(
                "range",
                "refuse",
                f"{many(len(rows), 'record')} with values that are not finite (NaN, infinity) in {name}: "
                f"{listed([str(one.places[0]) for one in shown])}",
                "replace them; training would stop at the first",
                len(rows),
                shown,
            )
    return None


def _beyond(scan: Scan, free: bool) -> Finding | None:
    for name, kept in scan.pictures.items():
        rows = np.flatnonzero(kept.read & ((kept.lowest < -BEYOND) | (kept.highest > 1 + BEYOND))).tolist()
        if len(rows):
            low, high = kept.picture.low, kept.picture.high
            why = {row: f"{name} holds {_values(scan, name, row)}" for row in rows}
            shown = suspects(scan, rows, why)
            lowest, highest = (
                number(low + float(end) * (high - low)) for end in (kept.lowest[rows].min(), kept.highest[rows].max())
            )
            return Finding(
                "range",
                "refuse",
                f"{many(len(rows), 'record')} with values of {name} outside the declared {number(low)} .. "
                f"{number(high)}, from {lowest} to {highest}: {listed([str(one.places[0]) for one in shown])}",
                f"set data.low={lowest} and data.high={highest}"
                if free and len(rows) > kept.read.sum() / 2
                else "bring these records to the declared range",
                len(rows),
                shown,
            )
    return None


def _unused(scan: Scan, free: bool) -> Finding | None:
    """All images together use little of the declared range."""
    for name, kept in scan.pictures.items():
        if kept.picture.kind == "mask" or not kept.read.any():
            continue
        lowest, highest = float(kept.lowest[kept.read].min()), float(kept.highest[kept.read].max())
        if 0 < highest - lowest < USED:
            low, high = kept.picture.low, kept.picture.high
            ends = [number(low + end * (high - low)) for end in (lowest, highest)]
            return Finding(
                "range",
                "look",
                f"{scan.split} {name}s use {ends[0]} .. {ends[1]} alone of the declared {number(low)} .. "
                f"{number(high)}, {share(highest - lowest)}: to the model they are faint",
                f"set data.low={ends[0]} and data.high={ends[1]}, or save the images on the whole scale"
                if free
                else f"save the images on the whole scale, {number(low)} .. {number(high)}",
                int(kept.read.sum()),
            )
    return None


def _without_contrast(scans: Sequence[Scan]) -> tuple[Finding, Finding | None]:
    """("constant", "range" or None): images of one colour, and images on another scale than the rest, such as those of
    0 .. 1 among those of 0 .. 255 or the other way round.
    """
    constant: list[Suspect] = []
    scale: list[Suspect] = []
    counts = [0, 0]
    for scan in scans:
        kept = scan.pictures["image"]
        contrast = kept.contrast
        usual = float(np.median(contrast[kept.read])) if kept.read.any() else 0.0
        plain = kept.read & (contrast <= min(FLAT, usual / TIMES))
        unit = plain & (contrast > 0) & (kept.lowest == 0) & (kept.highest <= UNIT) & (usual >= USUAL)
        larger = kept.read & (contrast > TIMES * usual) & (usual > 0)
        for rows, shown, at in (
            (np.flatnonzero(plain & ~unit).tolist(), constant, 0),
            (np.flatnonzero(unit | larger).tolist(), scale, 1),
        ):
            shown += suspects(scan, rows, {row: f"all its values are {_values(scan, 'image', row)}" for row in rows})
            counts[at] += len(rows)
    fine = Finding("constant", "fine", "no image is of one colour throughout")
    if constant:
        first = listed([f"{one.places[0]} ({one.why})" for one in constant], 2)
        fine = Finding(
            "constant",
            "look",
            f"{many(counts[0], 'image')} of one colour throughout: {first}",
            "remove them, if they are not meant",
            counts[0],
            tuple(constant),
        )
    if not scale:
        return fine, None
    return fine, Finding(
        "range",
        "look",
        f"{many(counts[1], 'image')} on another scale than the rest: "
        f"{listed([f'{one.places[0]} ({one.why})' for one in scale], 2)}",
        f"save them again on the scale of the others ({_usual(scans)})",
        counts[1],
        tuple(scale),
    )


def _half(scans: Sequence[Scan]) -> Finding | None:
    """Images that use the lower or the upper half of the scale alone, where nearly all others reach into both: values
    from -1 to 1 saved as if from 0 to 1, or halved.
    """
    shown: list[Suspect] = []
    for scan in scans:
        kept = scan.pictures["image"]
        seen = kept.read & (kept.contrast > FLAT)
        if seen.sum() < FEWEST:
            continue
        low, high = kept.lowest[seen], kept.highest[seen]
        halves = np.zeros(len(seen), bool)
        fewest = 2 if scan.class_names else 1  # of many kinds of things one is dark all over now and then
        for half, reach in (
            (kept.highest <= LOWER, high >= REACHED),
            (kept.lowest >= UPPER, low <= LEAST),
        ):
            odd = seen & half
            if (
                odd.sum() >= fewest
                and reach.sum() >= MOST * (seen.sum() - odd.sum())
                and odd.sum() <= USUAL * seen.sum()
            ):
                halves |= odd
        usual = float(np.median(kept.contrast[seen]))
        rows = np.flatnonzero(halves & (kept.contrast > usual / TIMES)).tolist()
        shown += suspects(scan, rows, {row: _values(scan, "image", row) for row in rows})
    if not shown:
        return None
    return Finding(
        "range",
        "look",
        f"{many(len(shown), 'image')} on half of the scale that the others use: "
        f"{listed([f'{one.places[0]} ({one.why})' for one in shown], 2)}",
        f"look whether they were saved on another scale than the others ({_usual(scans)})",
        len(shown),
        tuple(shown),
    )


def _usual(scans: Sequence[Scan]) -> str:
    """The values of the usual image, the median of lowest and of highest values, in the units of the file."""
    kept = scans[0].pictures["image"]
    low, high = kept.picture.low, kept.picture.high
    ends = (float(np.median(values[kept.read])) for values in (kept.lowest, kept.highest))
    return " .. ".join(number(low + end * (high - low)) for end in ends)


def _values(scan: Scan, name: str, row: int) -> str:
    """An image's values in words, in the units of the file."""
    kept = scan.pictures[name]
    low, high = kept.picture.low, kept.picture.high
    ends = [number(low + float(end) * (high - low)) for end in (kept.lowest[row], kept.highest[row])]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} .. {ends[1]}"

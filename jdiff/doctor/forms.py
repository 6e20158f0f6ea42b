"""What a record must be before anything can be made of it: readable, of the declared form, its pictures of one size."""

from collections.abc import Sequence

import numpy as np

from jdiff.doctor.findings import Finding, Place, Suspect
from jdiff.doctor.reading import PictureScan, Scan
from jdiff.doctor.words import MOST_SUSPECTS, listed, many, suspects

LeftOut = tuple[str, str, str]  # (split, file, why), of what a source leaves out


def unreadable(scans: Sequence[Scan], left_out: Sequence[LeftOut], notes: Sequence[str]) -> Finding | None:
    """Records that cannot be read. None where all can, and sources have left out what cannot."""
    code = "unreadable"
    found = [one for scan in scans for one in suspects(scan, scan.unreadable, scan.unreadable)]
    count = sum(len(scan.unreadable) for scan in scans)
    if not count:
        return None if left_out or skips(notes) else Finding(code, "fine", "every record can be read")
    return Finding(
        code,
        "refuse",
        f"{many(count, 'record')} cannot be read: {listed([f'{one.places[0]} ({one.why})' for one in found], 2)}",
        "mend or remove the files; data.on_bad_file=skip leaves them out",
        count,
        tuple(found),
    )


def skips(notes: Sequence[str]) -> list[str]:
    """The notes of sources that tell of what they left out."""
    return [note for note in notes if note.startswith("skipped ")]


def skipped(left_out: Sequence[LeftOut], notes: Sequence[str]) -> Finding:
    """What the sources left out: unreadable files, pictures without a partner. Some sources name all of it, the others
    say in a note how much it is.
    """
    code = "skipped"
    if left_out:
        found = tuple(Suspect((Place(split, -1, file),), why) for split, file, why in left_out[:MOST_SUSPECTS])
        return Finding(
            code,
            "refuse",
            f"{many(len(left_out), 'file')} cannot be used: "
            f"{listed([f'{one.places[0]} ({one.why})' for one in found], 2)}",
            "mend or remove them: training stops at the first, unless data.on_bad_file=skip leaves them out",
            len(left_out),
            found,
        )
    told = skips(notes)
    if not told:
        return Finding(code, "fine", "no file was left out")
    return Finding(code, "look", "; ".join(told), "mend or remove these files", len(told))


def declared(scans: Sequence[Scan]) -> Finding:
    """Channels and dtypes are what the source says."""
    code = "form"
    found: list[Suspect] = []
    count = 0
    for scan in scans:
        for name, kept in scan.pictures.items():
            wanted = kept.picture.shape[-1]
            rows = np.flatnonzero(kept.read & (kept.channels != wanted)).tolist()
            why = {row: f"{name} of {many(int(kept.channels[row]), 'channel')}, not {wanted}" for row in rows}
            found += suspects(scan, rows, why)
            count += len(rows)
    if not count:
        return Finding(code, "fine", "every picture has the channels that the source declares")
    first = found[0]
    return Finding(
        code,
        "refuse",
        f"{many(count, 'record')} of another form than the rest: {first.places[0]} ({first.why})",
        "bring all pictures to one number of channels",
        count,
        tuple(found),
    )


def pairs(scans: Sequence[Scan]) -> Finding | None:
    """The pictures of a record fit each other: of one aspect, and of one size where most are. None without pairs."""
    code = "pairs"
    if all(len(scan.pictures) == 1 for scan in scans):
        return None
    found: list[Suspect] = []
    count = 0
    for scan in scans:
        image = scan.pictures["image"]
        for name, kept in scan.pictures.items():
            both = image.read & kept.read
            if name == "image" or not both.any():
                continue
            rows = np.flatnonzero(both & _misfits(image, kept, both)).tolist()
            why = {
                row: f"image {image.width[row]} x {image.height[row]}, {name} {kept.width[row]} x {kept.height[row]}"
                for row in rows
            }
            found += suspects(scan, rows, why)
            count += len(rows)
    if not count:
        return Finding(code, "fine", "the pictures of every record are of one size")
    return Finding(
        code,
        "refuse",
        f"{many(count, 'pair')} whose pictures do not fit each other: "
        f"{listed([f'{one.places[0]} ({one.why})' for one in found], 2)}",
        "give each picture its own partner; the two must show the same thing at the same place",
        count,
        tuple(found),
    )


def _misfits(image: PictureScan, other: PictureScan, both: np.ndarray) -> np.ndarray:
    """Sides that are not in proportion, up to rounding to whole pixels, or differ where most are equal."""
    longest = np.maximum.reduce([image.height, image.width, other.height, other.width])
    bent = np.abs(image.width * other.height - other.width * image.height) > longest
    same = (image.height == other.height) & (image.width == other.width)
    return bent | ~same if same[both].mean() > 0.5 else bent

"""Folders of pairs that were read as a folder of classes: "images" and "masks" are no classes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from os.path import basename, splitext

import numpy as np

from jdiff.doctor.findings import Finding, Place, Suspect
from jdiff.doctor.reading import Scan
from jdiff.doctor.words import MOST_SUSPECTS, many

NEARLY_ALL = 0.9  # of two folders' base names, that are in both
FEWEST = 3  # pairs
MOST_CLASSES = 4  # that are compared; nobody keeps more pictures of one thing
GREY = 0.02  # most that channels differ in a picture without colours, in [0, 1]
OF_MASKS = re.compile(r"mask|label|annot|segm|ground.?truth|\bgt\b|sketch|edge|trimap|depth", re.IGNORECASE)
SUFFIX = re.compile(r"[_\-. ][A-Za-z_\-. ]+$")

Row = tuple[Scan, int]


@dataclass(frozen=True)
class Side:
    """One class. suffix: what all its base names end with, such as "_mask". rows: base name without it -> record."""

    name: str
    suffix: str
    rows: dict[str, Row]


def twins(scans: Sequence[Scan]) -> Finding | None:
    """Two classes with the same base names, which nothing but pairs explains: cats/1.jpg and dogs/1.jpg are common."""
    names = scans[0].class_names
    if not 2 <= len(names) <= MOST_CLASSES or not all(scan.names for scan in scans):
        return None
    for one, two in combinations([_side(scans, label, name) for label, name in enumerate(names)], 2):
        both = sorted(one.rows.keys() & two.rows.keys())
        if len(both) < max(FEWEST, NEARLY_ALL * max(len(one.rows), len(two.rows))):
            continue
        pairs = [(one.rows[stem], two.rows[stem]) for stem in both]
        if any(OF_MASKS.search(side.name) for side in (one, two)) or _same_sizes(pairs) or _one_is_grey(pairs):
            return _finding(one, two, pairs)
    return None


def _side(scans: Sequence[Scan], label: int, name: str) -> Side:
    rows = {
        splitext(basename(scan.names[row]))[0]: (scan, row)
        for scan in scans
        for row in np.flatnonzero(scan.readable & (scan.labels == label).any(axis=1)).tolist()
    }
    found = SUFFIX.search(next(iter(rows), ""))
    suffix = found[0] if found and all(stem.endswith(found[0]) for stem in rows) else ""
    return Side(name, suffix, {stem.removesuffix(suffix): row for stem, row in rows.items()})


def _same_sizes(pairs: Sequence[tuple[Row, Row]]) -> bool:
    """Pictures of one name are of one size, and others are not."""
    first, second = (np.array([_size(row) for row in side]) for side in zip(*pairs, strict=True))
    same = (first == second).all(axis=1).mean()
    by_chance = (first == np.roll(second, 1, axis=0)).all(axis=1).mean()
    return bool(same >= NEARLY_ALL and by_chance < 1 - NEARLY_ALL)


def _size(row: Row) -> tuple[int, int]:
    image = row[0].pictures["image"]
    return int(image.height[row[1]]), int(image.width[row[1]])


def _one_is_grey(pairs: Sequence[tuple[Row, Row]]) -> bool:
    """One folder has colours and the other has none."""
    grey = [np.mean([_is_grey(row) for row in side]) for side in zip(*pairs, strict=True)]
    return bool(max(grey) >= NEARLY_ALL and min(grey) < 1 - NEARLY_ALL)


def _is_grey(row: Row) -> bool:
    colour = row[0].pictures["image"].colour
    return not len(colour) or bool(np.ptp(colour[row[1]].astype(np.float32), axis=-1).max() <= GREY)


def _finding(one: Side, two: Side, pairs: Sequence[tuple[Row, Row]]) -> Finding:
    places: list[tuple[Place, Place]] = [(a[0].place(a[1]), b[0].place(b[1])) for a, b in pairs[:MOST_SUSPECTS]]
    swapped = OF_MASKS.search(one.name) and not OF_MASKS.search(two.name)
    first, second = (two, one) if swapped else (one, two)
    keys = "--config.data.name=pairs"
    if (first.name, second.name) != ("images", "masks"):
        keys += f' --config.data.folders="({first.name!r},{second.name!r})"'
    if first.suffix or second.suffix:
        keys += f' --config.data.suffixes="({first.suffix!r},{second.suffix!r})"'
    return Finding(
        "pairs_as_classes",
        "look",
        f"these look like pairs, read as the classes {one.name} and {two.name}: {many(len(pairs), 'base name')} are in "
        f"both folders, such as {places[0][0]} and {places[0][1]}",
        f"{keys}; if they are classes after all, give the files other names",
        len(pairs),
        tuple(Suspect(each, "one base name") for each in places),
    )

"""Published lists of which images are trained on and which are held out."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from jdiff.common.errors import UserError
from jdiff.common.paths import expanded
from jdiff.common.words import listed, many, one_line
from jdiff.data.ids import Ids, id_of
from jdiff.data.layout import split_kind
from jdiff.data.metadata import ID_COLUMNS, SEPARATORS, decoded
from jdiff.data.splits import choose

KEY = "data.split_list"
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class Sides:
    """Rows of the images that are trained on and of those held out. told: how many are held out, by what. notes: what
    is in no list, or not among the images.
    """

    train: list[int]
    test: list[int]
    told: str
    notes: tuple[str, ...] = ()


def sides_of(names: Sequence[str], paths: str, wanted: Sequence[str] = ()) -> Sides:
    """The sides of the images `names` by the file `paths`, or by two, "train.txt,test.txt".

    A file has an id on each line, of images held out where it is the only one, or columns `image` and `split`, of which
    `wanted` names the split to train on and the one held out, as data.splits does. Raises UserError for a file that is
    neither, an image on both sides, and a side without images.
    """
    where = f"{KEY}={paths!r}"
    splits, trained, tested, notes = _splits(paths, wanted, where)
    ids = Ids(names)
    found: dict[str, dict[str, None]] = {}  # split -> its images
    missing: list[str] = []
    for split, given in splits.items():
        images = [ids.find(one, where) for one in given]
        missing += [one for one, image in zip(given, images, strict=True) if not image]
        found[split] = dict.fromkeys(filter(None, images))
        if given and not found[split]:
            raise UserError(
                f"{where}: none of the {many(len(given), 'id')} of {split} is an image (the first is "
                f"{one_line(given[0])}, the first image {one_line(names[0])}): ids are names of files, with or without "
                "folders and extensions"
            )
    for one in found:
        for other in list(found)[: list(found).index(one)]:
            if both := [name for name in found[one] if name in found[other]]:
                raise UserError(
                    f"{where}: {one_line(both[0])} is in {other} and in {one} ({len(both):,} images are in both): "
                    "leave each in one of them"
                )
    test, alone = found[tested], trained not in found
    train = {name: None for name in names if name not in test} if alone else found[trained]
    for side, what in ((train, "is left to train on"), (test, "is held out")):
        if not side:
            raise UserError(f"{where}: no image {what}: name some, or leave it out, and a share is held out")
    known = {name for one in found.values() for name in one}
    nowhere = [] if alone else [name for name in names if name not in known]
    faults = []
    if missing:
        faults.append(f"{many(len(missing), 'id')} not among the images ({one_line(listed(missing))})")
    if nowhere:
        faults.append(f"{many(len(nowhere), 'image')} in none of its lists, left out ({one_line(listed(nowhere))})")
    if faults:
        notes.append(f"{where}: {'; '.join(faults)}")
    rows = {name: row for row, name in enumerate(names)}
    told = f"{len(test):,} of them, by {paths}"
    return Sides(sorted(rows[name] for name in train), sorted(rows[name] for name in test), told, tuple(notes))


def _splits(paths: str, wanted: Sequence[str], where: str) -> tuple[dict[str, list[str]], str, str, list[str]]:
    """(split -> its ids, the split to train on (which may not be listed), the one held out, notes)."""
    files = [paths] if expanded(paths).is_file() else paths.split(",")
    if len(files) > 2:
        raise UserError(f"{where}: one file, or two, of the images to train on and of those held out")
    tables = [_read(file.strip(), where) for file in files]
    plain = len(files) == 2 or not any(split for _, split in tables[0])
    if plain and wanted:
        raise UserError(f"{where}: it names no splits for data.splits={tuple(wanted)} to choose from: leave that out")
    if len(files) == 2:
        both = {name: [one for one, _ in table] for name, table in zip((TRAIN, TEST), tables, strict=True)}
        return both, TRAIN, TEST, []
    by_name: dict[str, list[str]] = {}
    for one, split in tables[0]:
        by_name.setdefault(split, []).append(one)
    if plain:
        return {TEST: by_name[""]}, TRAIN, TEST, []
    chosen = choose(list(by_name), wanted, where, lambda *_: "", "data.splits")
    if not chosen.test:
        raise UserError(f"{where}: it has no split that is held out, such as 'test' (it has {', '.join(by_name)})")
    notes = [f"{where}: not used: {', '.join(chosen.unused)}; data.splits chooses"] if chosen.unused else []
    return by_name, chosen.train, chosen.test, notes


def _read(file: str, where: str) -> list[tuple[str, str]]:
    """(id, split or "") of each line."""
    try:
        text, _ = decoded(expanded(file).read_bytes())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise UserError(
            f"{where}: {file} cannot be read: {why}; give a list of ids, or two, as train.txt,test.txt"
        ) from error
    first = text.partition("\n")[0]
    separator = max(SEPARATORS, key=first.count)
    try:
        rows = [
            row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if any(map(str.strip, row))
        ]
    except csv.Error as error:
        raise UserError(f"{where}: {file} is not CSV: {error}") from error
    rows = [[cell.strip() for cell in row] for row in rows if not row[0].startswith("#")]
    header = [cell.lower() for cell in rows[0]] if rows else []
    found = []
    if set(header) & {*ID_COLUMNS, *SPLIT_COLUMNS}:
        named = [dict(zip(header, row, strict=False)) for row in rows[1:]]
        column = next((name for name in SPLIT_COLUMNS if name in header), "")
        if (len(header) == 1) != bool(column):
            sides = [row.pop(column, "") for row in named]
            found = [(id_of(row, ID_COLUMNS), side) for row, side in zip(named, sides, strict=True)]
    elif all(len(row) == 1 for row in rows):
        found = [(row[0], "") for row in rows]
    elif all(len(row) == 2 and split_kind(row[1]) for row in rows):
        found = [(one, split) for one, split in rows]
    if not found or len({bool(split) for _, split in found}) > 1:
        raise UserError(
            f"{where}: {file} must have an id on each line, or columns image and split, named in its first line"
        )
    return found

"""split.csv of a run: which images it trains on and which are held out, as a list that data.split_list reads too."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jdiff.common.errors import UserError
from jdiff.common.files import replace_file
from jdiff.common.words import listed, many, one_line
from jdiff.config import SPLIT as FILE
from jdiff.data.sources import Source

COLUMNS = ("image", "split", "group")


@dataclass(frozen=True)
class Row:
    """An image's side, "train" or "test", and its group ("" of none)."""

    split: str
    group: str = ""


Split = dict[str, Row]  # by the images' names below the data's folder


def split_of(train: Source, held_out: Source | None) -> Split:
    """Of sources of files or rows; {} of others."""
    sides = {"train": train, "test": held_out}
    return {
        name: Row(side, group)
        for side, source in sides.items()
        for name, group in getattr(source, "members", {}).items()
    }


def write(run: Path, split: Split) -> None:
    """Replace the file in the folder of a run; none is made of nothing."""
    if not split and not (run / FILE).is_file():
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [COLUMNS, *((name, row.split, row.group) for name, row in split.items())]
    )
    replace_file(run / FILE, text.getvalue().encode("utf-8", "surrogateescape"))


def read(run: Path) -> dict[str, str]:
    """image -> "train" or "test"; {} without the file. Raises UserError where it is damaged."""
    file = run / FILE
    if not file.is_file():
        return {}
    try:
        rows = list(
            csv.reader(io.StringIO(file.read_bytes().decode("utf-8", "surrogateescape"), newline=""), strict=True)
        )
        if tuple(rows[0]) != COLUMNS:
            raise ValueError(f"its first line is not {','.join(COLUMNS)}")
        return {name: side for name, side, _ in rows[1:]}
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise UserError(
            f"{file} is damaged ({error}): copy it again, or remove it, and the split is drawn anew"
        ) from error


def changed(before: Mapping[str, str], now: Split) -> str:
    """What is on another side than before, new or gone, in one line; "" where nothing is, or nothing was known."""
    moved = [name for name, row in now.items() if name in before and before[name] != row.split]
    new, gone = [name for name in now if name not in before], [name for name in before if name not in now]
    if not before or not (moved or new or gone):
        return ""
    parts = [f"{many(len(moved), 'image')} changed sides ({listed(moved)})"] * bool(moved)
    held = sum(now[name].split == "test" for name in new)
    if new:
        parts.append(f"{many(len(new), 'image')} new, {held:,} of them held out ({listed(new)})")
    if gone:
        parts.append(f"{many(len(gone), 'image')} gone ({listed(gone)})")
    return one_line(f"{'the split is another' if moved else 'the split is kept, of other images'}: {'; '.join(parts)}")

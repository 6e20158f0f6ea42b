"""Metadata of a folder of images in the format of Hugging Face's imagefolder: `metadata.jsonl` or `metadata.csv`, one
line per image.

    {"file_name": "dogs/1.png", "text": "a dog asleep", "tags": ["dog", "indoors"], "age": 3.5}

`file_name` is relative to the folder of the metadata file, `text` is the caption; other columns are read on request.
"""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jdiff.common.errors import UserError
from jdiff.data.tokenizer import is_unicode

NAMES = ("metadata.jsonl", "metadata.csv")
HIGHEST = float(np.finfo(np.float32).max)  # scalars become float32


@dataclass(frozen=True)
class Entry:
    """The line of one image: its caption (None if the file has none), its labels and its scalars."""

    text: str | None
    labels: tuple[str, ...]
    scalars: tuple[float, ...]


@dataclass(frozen=True)
class Columns:
    """The columns to read besides `text`: one with a label or a list of labels ("": none), and those of scalars."""

    labels: str = ""
    scalars: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.scalars)


def find(folder: Path) -> Path | None:
    """The metadata file in `folder`, or None. Raises UserError if there are two."""
    found = [folder / name for name in NAMES if os.path.isfile(folder / name)]
    if len(found) > 1:
        raise UserError(f"{folder} holds both {NAMES[0]} and {NAMES[1]}: remove one")
    return found[0] if found else None


def read(
    file: Path, images: Sequence[Path], others: Collection[Path] = (), columns: Columns = Columns()
) -> tuple[dict[Path, Entry], list[str]] | None:
    """({image: its entry}, faults) of a metadata file. Faults are messages about invalid lines, lines without an image
    and images without a line. None if no line has a text and no column is requested: the file is something else.

    others: images of another split, which lines may name too. Raises UserError if the file cannot be read.
    """
    rows = list(_rows(file))
    texts = any(isinstance(row, dict) and "text" in row for _, row in rows)
    if not (texts or columns) and any(isinstance(row, dict) for _, row in rows):
        return None
    known = {_normal(image): image for image in images}
    other = {_normal(image) for image in others}
    entries: dict[Path, Entry] = {}
    lines: dict[str, int] = {}  # path -> the first line that names it
    faults = []
    for number, row in rows:
        fault = row if isinstance(row, str) else _fault(row, columns, texts=texts)
        if not fault:
            path = _normal(file.parent / row["file_name"])
            if path in lines:
                fault = f"names {row['file_name']} again, after line {lines[path]}"
            elif path in known:
                scalars = tuple(float(row[name]) for name in columns.scalars)
                entries[known[path]] = Entry(row.get("text"), _labels(row, columns) or (), scalars)
            elif path not in other:
                fault = f"names {row['file_name']}, which is not an image there"
            lines.setdefault(path, number)
        if fault:
            faults.append(f"{file} line {number} {fault}")
    what = "line" if columns and not texts else "caption"
    faults += [f"{image} has no {what} in {file}" for image in images if image not in entries]
    return entries, faults


def _normal(path: Path) -> str:
    """A path in Unicode's NFC form: macOS stores accents as separate characters."""
    return unicodedata.normalize("NFC", os.path.normpath(path))


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """(line number, {column: value} or a fault) of each line that is not blank."""
    try:
        content = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
        try:
            columns = reader.fieldnames or ()
            if "text" in columns and "file_name" not in columns:
                raise UserError(f"{file} has a column text but none file_name; its first line must name both")
            for row in reader:
                torn = "text" in columns and None in row  # DictReader keeps surplus fields under None
                yield reader.line_num, "has a comma too many: put its text in quotes" if torn else row
        except csv.Error as error:
            raise UserError(f"{file} line {reader.reader.line_num} is not CSV: {error}") from error
        return
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"is not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else "is not a JSON object"


def _fault(row: dict[str, Any], columns: Columns, *, texts: bool) -> str:
    """The fault of a line; "" if it has none."""
    for name in ("file_name", "text") if texts else ("file_name",):
        if not isinstance(row.get(name), str):
            return f"has no {name!r}, or one that is not text"
        if not is_unicode(row[name]):
            return f"has a {name!r} that is not valid Unicode"
    if columns.labels and _labels(row, columns) is None:
        return f"has no {columns.labels!r}, or one that is neither a label nor a list of labels"
    for name in columns.scalars:
        try:
            known = not isinstance(row.get(name), bool) and abs(float(row.get(name))) <= HIGHEST  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            known = False
        if not known:
            return f"has no {name!r}, or one that is not a number"
    return ""


def _labels(row: dict[str, Any], columns: Columns) -> tuple[str, ...] | None:
    """The distinct labels of a line; None if the column is missing or not a label or list of labels."""
    if not columns.labels:
        return ()
    value = row.get(columns.labels)
    values = value if isinstance(value, list) else [value]
    if any(isinstance(label, bool) or not isinstance(label, (str, int)) or label == "" for label in values):
        return None
    names = tuple(dict.fromkeys(str(label) for label in values))
    return names if all(map(is_unicode, names)) else None

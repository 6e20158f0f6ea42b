"""Captions beside images: `metadata.jsonl` or `metadata.csv`, a line an image, as Hugging Face's imagefolder has them.

    {"file_name": "dogs/1.png", "text": "a dog asleep"}

`file_name` is relative to the folder of the file that names it; columns other than these two are not read.
"""

import csv
import io
import json
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from jdiff.common.errors import UserError
from jdiff.data.tokenizer import is_unicode

NAMES = ("metadata.jsonl", "metadata.csv")


def find(folder: Path) -> Path | None:
    """The file of captions in `folder`, or None. Raises UserError where there are two."""
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{folder} holds both {NAMES[0]} and {NAMES[1]}: remove one")
    return found[0] if found else None


def read(file: Path, images: Sequence[Path], others: Collection[Path] = ()) -> tuple[dict[Path, str], list[str]] | None:
    """(image -> caption, faults): the faults are lines that say nothing of an image and images without a line, worded
    for the user. None where no line speaks of a text: such a file holds something else than captions.

    others: images that lines may name too, but that are not asked for (those of another split).
    """
    known = {os.path.normpath(image): image for image in images}
    other = {os.path.normpath(image) for image in others}
    captions: dict[Path, str] = {}
    lines: dict[str, int] = {}  # path -> where it was named first
    faults = []
    texts = no_texts = 0
    for number, row in _rows(file):
        fault = row if isinstance(row, str) else _fault(row)
        if isinstance(row, dict):
            texts += "text" in row
            no_texts += "text" not in row
        if not fault:
            path = os.path.normpath(file.parent / row["file_name"])
            if path in lines:
                fault = f"names {row['file_name']} again, after line {lines[path]}"
            elif path in known:
                captions[known[path]] = row["text"]
            elif path not in other:
                fault = f"names {row['file_name']}, which is no image there"
            lines.setdefault(path, number)
        if fault:
            faults.append(f"{file} line {number} {fault}")
    if no_texts and not texts:
        return None
    faults += [f"{image} has no caption in {file}" for image in images if image not in captions]
    return captions, faults


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """(line number, the line's values by name, or what is wrong with it), blank lines left out."""
    try:
        content = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
        try:
            columns = reader.fieldnames or ()
            if "text" in columns and "file_name" not in columns:
                raise UserError(f"{file} has a column text and none file_name; its first line must name both")
            for row in reader:
                torn = "text" in columns and None in row  # DictReader keeps what is too much under None
                yield reader.line_num, "has a comma too many: put its text in quotes" if torn else row
        except csv.Error as error:
            raise UserError(f"{file} line {reader.line_num} is no CSV: {error}") from error
        return
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield number, f"is no JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else "is no JSON object"


def _fault(row: dict[str, Any]) -> str:
    """What a line lacks; "" where it is whole."""
    for name in ("file_name", "text"):
        if not isinstance(row.get(name), str):
            return f"has no {name!r}, or one that is no text"
        if not is_unicode(row[name]):
            return f"has a {name!r} that is no valid Unicode"
    return ""

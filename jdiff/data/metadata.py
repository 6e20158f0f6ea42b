"""Metadata of a folder of images in the format of Hugging Face's imagefolder: `metadata.jsonl`, `metadata.csv` or
`metadata.tsv`, one line per image.

    {"file_name": "dogs/1.png", "text": "a dog asleep", "tags": ["dog", "indoors"], "age": 3.5}

`file_name` is relative to the folder of the metadata file, `text` is the caption or a list of captions; other columns
are read on request. Tables may be as spreadsheets write them: parted by commas, semicolons or tabs, in UTF-8 (with a
byte order mark or without), UTF-16 or cp1252, with backslashes in paths and column names in capitals.
"""

import csv
import io
import json
import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jdiff.common.errors import UserError
from jdiff.common.names import nearest
from jdiff.common.words import one_line
from jdiff.data.ids import Ids, id_of
from jdiff.data.layout import below
from jdiff.data.tokenizer import is_unicode
from jdiff.data.trees import Tree, called, read_bytes

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
FILE_COLUMNS = ("file_name", "filename", "file", "image", "path")
ID_COLUMNS = (*FILE_COLUMNS, "id", "image_id", "frame_id", "image_name", "img", "name", "case", "case_id")
TEXT_COLUMNS = ("text", "caption", "captions")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
HIGHEST = float(np.finfo(np.float32).max)  # scalars become float32
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # a table in any encoding is free of these


@dataclass(frozen=True)
class Entry:
    """The line of one image: its captions, one a line of `text` (None if the file has none), its labels, its scalars,
    its group, its value in one other column, and in the one that is stratified by.
    """

    text: str | None
    labels: tuple[str, ...]
    scalars: tuple[float, ...]
    group: str = ""
    column: str = ""
    stratum: str = ""


@dataclass(frozen=True)
class Columns:
    """The columns to read besides `text`: one with a label or a list of labels ("": none), those of scalars, one that
    says what belongs together ("": none), one other ("": none), and one of which a held-out share has each value alike
    ("": none).
    """

    labels: str = ""
    scalars: tuple[str, ...] = ()
    group: str = ""
    other: str = ""
    stratify: str = ""

    def __bool__(self) -> bool:
        return bool(self.names)

    def __str__(self) -> str:
        return ", ".join(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Each once."""
        every = (self.labels, *self.scalars, self.group, self.other, self.stratify)
        return tuple(dict.fromkeys(filter(None, every)))


@dataclass
class Metadata:
    """What a metadata file says: an entry for each image, messages about lines and images that do not fit, and notes on
    how it was read.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_above(tree: Tree, folder: str) -> str:
    """The metadata file in `folder` or the nearest of those it is in, or ""."""
    places = [folder]
    while places[-1]:
        places.append(places[-1].rpartition("/")[0])
    return next((file for place in places if (file := find(tree, place))), "")


def find(tree: Tree, folder: str) -> str:
    """The metadata file in `folder`, or "". Raises UserError if there are two."""
    there = set(tree.files)
    found = [name for name in (posixpath.join(folder, name) for name in NAMES) if name in there]
    if len(found) > 1:
        raise UserError(f"{called(tree, folder)} holds both {' and '.join(map(posixpath.basename, found))}: remove one")
    return found[0] if found else ""


def read(
    tree: Tree, file: str, images: Sequence[str], others: Collection[str] = (), columns: Columns = Columns()
) -> Metadata | None:
    """The metadata of `images`. Faults are messages about invalid lines, lines without an image and images without a
    line. None if no line has a text and no column is requested: the file is something else.

    others: images of another split, which lines may name too. Raises UserError if the file cannot be read.
    """
    made = Metadata()
    where = called(tree, file)
    rows = list(rows_of(tree, file, made.notes))
    check_columns([row for _, row in rows if isinstance(row, dict)], columns, where)
    texts = any(isinstance(row, dict) and "text" in row for _, row in rows)
    if not (texts or columns) and any(isinstance(row, dict) for _, row in rows):
        return None
    known = {_normal(image): image for image in images}
    other = {_normal(image) for image in others}
    lines: dict[str, int] = {}  # path -> the first line that names it
    folder = posixpath.dirname(file)
    backslashes = 0
    for number, row in rows:
        fault = row if isinstance(row, str) else fault_of(row, columns, texts=texts)
        if not fault:
            path = _normal(posixpath.join(folder, row["file_name"]))
            if "\\" in path and path not in known and path not in other:
                path = _normal(posixpath.join(folder, row["file_name"].replace("\\", "/")))
                backslashes += path in known
            if path in lines:
                fault = f"names {row['file_name']} again, after line {lines[path]}"
            elif path in known:
                made.entries[known[path]] = entry_of(row, columns)
            elif path not in other:
                fault = f"names {row['file_name']}, which is not an image there"
            lines.setdefault(path, number)
        if fault:
            made.faults.append(f"{where} line {number} {fault}")
    if backslashes:
        made.notes.append(f"{where}: backslashes in {backslashes} file names are read as slashes")
    if several := sum("\n" in (entry.text or "") for entry in made.entries.values()):
        made.notes.append(f"{where}: {several} images have several captions, of which each epoch draws one")
    what = "line" if columns and not texts else "caption"
    made.faults += [f"{called(tree, image)} has no {what} in {where}" for image in images if image not in made.entries]
    return made


def _normal(path: str) -> str:
    """A path in Unicode's NFC form: macOS stores accents as separate characters."""
    return unicodedata.normalize("NFC", posixpath.normpath(path))


def decoded(content: bytes) -> tuple[str, str]:
    """(text, "" or the name of an encoding that is not UTF-8). Raises UnicodeDecodeError if it is no text."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16"), "UTF-16"
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            text = "\0"
        if CONTROL.search(text):
            raise
        return text, "cp1252"


def rows_of(tree: Tree, file: str, notes: list[str]) -> Iterator[tuple[int, Any]]:
    """(line number, {column: value} or a fault) of each line that is not blank; the columns of names and texts are
    called file_name and text.
    """
    where = called(tree, file)
    try:
        content, encoding = decoded(read_bytes(tree, file))
    except (OSError, ValueError) as error:
        raise UserError(f"{where} cannot be read: {error}") from error
    if encoding:
        notes.append(f"{where} is read as {encoding}, not being UTF-8")
    if file.endswith(".jsonl"):
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                yield number, _json_row(line)
        return
    first, _, rest = content.partition("\n")
    skipped = bool(re.fullmatch(r"sep=.\r?", first))  # Excel's own line
    content = rest if skipped else content
    separator = _separator(content.partition("\n")[0])
    if separator != ",":
        notes.append(f"{where}: its columns are parted by {SEPARATORS[separator]}")
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True, delimiter=separator)
    try:
        columns = _standard(reader.fieldnames or ())
        if "text" in columns.values() and "file_name" not in columns.values():
            raise UserError(f"{where} has a column text but none file_name; its first line must name both")
        for row in reader:
            torn = "text" in columns.values() and None in row  # DictReader keeps surplus fields under None
            what = "a comma" if separator == "," else f"one of the {SEPARATORS[separator]}"
            named = {columns.get(name, name): value for name, value in row.items()}
            yield reader.line_num + skipped, f"has {what} too many: put its text in quotes" if torn else named
    except csv.Error as error:
        raise UserError(f"{where} line {reader.reader.line_num} is not CSV: {error}") from error


def check_columns(rows: Sequence[dict[str, Any]], columns: Columns, where: str) -> None:
    """Raises UserError for a column of data.group or data.stratify that no row has."""
    there = list(dict.fromkeys(name for row in rows for name in row if isinstance(name, str)))
    for key, name in (("data.group", columns.group), ("data.stratify", columns.stratify)):
        if name and name not in there:
            raise UserError(
                f"{key}={name!r}: {where} has no such column; it has {one_line(', '.join(there)) or 'none'}"
                f"{nearest(name, there)}: name one of them, or leave {key} out"
            )


def values_of(
    tree: Tree, folder: str, images: Sequence[str], others: Sequence[str], columns: Columns
) -> dict[str, Entry]:
    """The group and the stratum of each of the images in `folder`, by a table in it or above it whose column of ids
    (ID_COLUMNS, else the first) names them by jdiff.data.ids. others: images that it may name too. Raises UserError
    without such a table, for a column that it lacks, and for an image without a line.
    """
    wanted = {"data.group": columns.group, "data.stratify": columns.stratify}
    asked = " and ".join(f"{key}={name!r}" for key, name in wanted.items() if name)
    file = find_above(tree, folder)
    if not file:
        raise UserError(
            f"{asked}: {one_line(called(tree, folder))} and the folders above it have no {' or '.join(NAMES)} with the "
            f"column {columns}: add one that names each image (columns image and {columns}), or leave "
            f"{' and '.join(key for key, name in wanted.items() if name)} out"
        )
    where, top = called(tree, file), file[: file.rfind("/") + 1]
    rows = [row for _, row in rows_of(tree, file, []) if isinstance(row, dict)]
    check_columns(rows, columns, where)
    ids = Ids([*images, *(f"{top}{name}" for name in below(others, top.rstrip("/")))])
    given: dict[str, list[str]] = {}
    for row in rows:
        name = ids.find(id_of(row, ("file_name", *ID_COLUMNS)), where)
        given.setdefault(name, [str(row.get(column) or "") for column in (columns.group, columns.stratify)])
    for name in images:
        for column, value in zip((columns.group, columns.stratify), given.get(name, ("", "")), strict=True):
            if column and not value:
                raise UserError(
                    f"{one_line(called(tree, name))} has no {column!r} in {where}: give it one, or leave {asked} out"
                )
    return {name: Entry(None, (), (), given[name][0], "", given[name][1]) for name in images}


def _json_row(line: str) -> Any:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    if not isinstance(row, dict):
        return "is not a JSON object"
    return columns_of(row)


def columns_of(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its columns of names and texts called file_name and text."""
    columns = _standard(row)
    return {columns[name]: value for name, value in row.items()}


def _standard(columns: Collection[str]) -> dict[str, str]:
    """Column -> its name here: file_name and text in place of their synonyms in any case, others as they are."""
    names = {column: column for column in columns}
    for standard, synonyms in (("file_name", FILE_COLUMNS), ("text", TEXT_COLUMNS)):
        if standard in names:
            continue
        low = {column.strip().lower(): column for column in columns if isinstance(column, str)}
        if found := next((low[name] for name in synonyms if name in low), None):
            names[found] = standard
    return names


def _separator(header: str) -> str:
    """What parts the columns of a table's first line: that which leaves a column of file names, commas else."""
    for separator in SEPARATORS:
        columns = [name.strip().strip('"').lower() for name in header.split(separator)]
        if len(columns) > 1 and set(columns) & {*ID_COLUMNS, *TEXT_COLUMNS}:
            return separator
    return ","


def fault_of(row: dict[str, Any], columns: Columns, *, texts: bool) -> str:
    """The fault of a line; "" if it has none."""
    name = row.get("file_name")
    if not isinstance(name, str):
        return "has no 'file_name', or one that is not text"
    if not is_unicode(name):
        return "has a 'file_name' that is not valid Unicode"
    if texts:
        given = row.get("text")
        several = given if isinstance(given, list) and given else [given]
        if not all(isinstance(text, str) for text in several):
            return "has no 'text', or one that is not text"
        if not all(map(is_unicode, several)):
            return "has a 'text' that is not valid Unicode"
    if columns.labels and _labels(row, columns) is None:
        return f"has no {columns.labels!r}, or one that is neither a label nor a list of labels"
    for name in filter(None, (columns.group, columns.other, columns.stratify)):
        if not isinstance(row.get(name), (str, int)) or row[name] == "":
            return f"has no {name!r}, or one that is neither text nor a whole number"
    for name in columns.scalars:
        try:
            known = not isinstance(row.get(name), bool) and abs(float(row.get(name))) <= HIGHEST  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            known = False
        if not known:
            return f"has no {name!r}, or one that is not a number"
    return ""


def entry_of(row: dict[str, Any], columns: Columns) -> Entry:
    """The entry of a line without a fault."""
    scalars = tuple(float(row[name]) for name in columns.scalars)
    group = str(row[columns.group]) if columns.group else ""
    other = str(row[columns.other]) if columns.other else ""
    stratum = str(row[columns.stratify]) if columns.stratify else ""
    return Entry(_text(row), _labels(row, columns) or (), scalars, group, other, stratum)


def one_caption(text: str) -> str:
    """A caption on one line: where there are several, each has a line."""
    return " ".join(text.split("\n")).strip("\r") if "\n" in text else text


def _text(row: dict[str, Any]) -> str | None:
    given = row.get("text")
    if isinstance(given, list):
        return "\n".join(one_caption(text) for text in given)
    return None if given is None else one_caption(given)


def _labels(row: dict[str, Any], columns: Columns) -> tuple[str, ...] | None:
    """The distinct labels of a line; None if the column is missing or not a label or list of labels."""
    if not columns.labels:
        return ()
    value = row.get(columns.labels)
    values = value if isinstance(value, list) else [value]
    if any(isinstance(label, bool) or not isinstance(label, (str, int)) or label == "" for label in values):
        return None
    names = tuple(dict.fromkeys(str(label).strip() for label in values))
    return names if all(map(is_unicode, names)) else None

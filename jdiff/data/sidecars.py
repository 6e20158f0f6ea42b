"""What lies beside each image under its own name, as trainers of text-to-image models and WebDataset have it:
0001.png with 0001.txt (its caption, or several, one a line), 0001.cls (its class) or 0001.json (columns).
"""

import json
import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

from jdiff.common.words import many
from jdiff.data.metadata import Columns, Metadata, columns_of, decoded, entry_of, fault_of
from jdiff.data.tokenizer import is_unicode
from jdiff.data.trees import Tree, called, read_bytes

TEXT, CAPTION, CLASS, JSON = ".txt", ".caption", ".cls", ".json"
ENDINGS = (TEXT, CAPTION, CLASS, JSON)
MOST_BYTES = 1 << 20  # of a .json file: larger ones hold the picture itself
MOST = 0.5  # beside at least this share of the images, they belong to them
BOX = re.compile(r"\d+( -?\d*\.?\d+(e-?\d+)?){4,}")  # a line of YOLO's boxes: no caption


def beside(images: Sequence[str], files: Collection[str], ending: str) -> dict[str, str]:
    """Image -> the file of its name with this ending, where at least MOST of the images have one; else nothing."""
    known = {_plain(name): name for name in files if name.lower().endswith(ending)}
    found = {
        image: known[name] for image in images for name in (_plain(image.rpartition(".")[0] + ending),) if name in known
    }
    return found if len(found) >= MOST * len(images) else {}


def _plain(name: str) -> str:
    """A name as it is compared: in Unicode's NFC form, in small letters."""
    return unicodedata.normalize("NFC", name).lower()


def captions(tree: Tree, images: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(image -> its captions, one a line, notes); nothing where images have no .txt files of captions. An image without
    one, or with an empty one, has the caption "".
    """
    found = beside(images, tree.files, TEXT) or beside(images, tree.files, CAPTION)
    texts: dict[str, str] = {}
    odd: dict[str, list[str]] = {}
    for image in images:
        if image not in found:
            odd.setdefault("no .txt beside it", []).append(image)
            texts[image] = ""
            continue
        try:
            text, encoding = decoded(read_bytes(tree, found[image]))
        except (OSError, ValueError):
            odd.setdefault("a .txt that is no text", []).append(image)
            texts[image] = ""
            continue
        lines = [line for line in map(str.strip, text.splitlines()) if line]
        if encoding:
            odd.setdefault(f"a .txt read as {encoding}, not being UTF-8", []).append(image)
        if not lines:
            odd.setdefault("an empty .txt", []).append(image)
        if len(lines) > 1:
            odd.setdefault("several captions, one a line, of which each epoch draws one", []).append(image)
        texts[image] = "\n".join(lines)
    if not any(texts.values()) or _mostly_boxes(texts):
        return {}, []
    empty = {"no .txt beside it", "an empty .txt", "a .txt that is no text"}
    notes = [f"captions of {many(len(found), 'image')} from the .txt files beside them"]
    for what, names in odd.items():
        so = ", so the caption is empty" if what in empty else ""
        notes.append(f"{what}: {many(len(names), 'image')}{so} (first: {called(tree, names[0])})")
    return texts, notes


def _mostly_boxes(texts: dict[str, str]) -> bool:
    first = [text.partition("\n")[0] for text in texts.values() if text]
    return sum(bool(BOX.fullmatch(line)) for line in first) > len(first) / 2


def classes(tree: Tree, images: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(image -> the class in its .cls file, faults); nothing where images have none."""
    found = beside(images, tree.files, CLASS)
    labels, faults = {}, []
    for image in images if found else ():
        try:
            label = decoded(read_bytes(tree, found[image]))[0].strip()
        except (KeyError, OSError, ValueError):
            label = ""
        if label and is_unicode(label):
            labels[image] = label
        else:
            faults.append(f"{called(tree, image)} has no {CLASS} beside it, or one that is empty")
    return labels, faults


def columns(tree: Tree, images: Sequence[str], wanted: Columns) -> Metadata | None:
    """What the .json files beside images say; None where images have none, or these no text and no column is wanted."""
    found = beside(images, tree.files, JSON)
    rows: dict[str, dict[str, Any] | str] = {}
    for image, file in found.items():
        try:
            if tree.stamp(file).size > MOST_BYTES:
                raise ValueError("it is larger than 1 MiB")
            row = json.loads(decoded(read_bytes(tree, file))[0])
        except (OSError, ValueError, RecursionError) as error:
            rows[image] = f"{called(tree, file)} is not JSON: {error}"
            continue
        rows[image] = _needed(columns_of(row), image, wanted) if isinstance(row, dict) else f"{file} is no JSON object"
    given = [row for row in rows.values() if isinstance(row, dict)]
    texts = bool(given) and all("text" in row for row in given)  # else captions may lie in .txt files
    if not (texts or (wanted and found)):
        return None
    made = Metadata(notes=[f"columns of {many(len(found), 'image')} from the .json files beside them"])
    for image in images:
        row = rows.get(image, f"{called(tree, image)} has no {JSON} beside it")
        if isinstance(row, str):
            made.faults.append(row)
        elif fault := fault_of(row, wanted, texts=texts):
            made.faults.append(f"{called(tree, found[image])} {fault}")
        else:
            made.entries[image] = entry_of(row, wanted)
    return made


def _needed(row: dict[str, Any], image: str, wanted: Columns) -> dict[str, Any]:
    """What is read of a row: other columns may be large."""
    text = row.get("text")
    is_text = isinstance(text, str) or (isinstance(text, list) and text and all(isinstance(one, str) for one in text))
    kept = {name: row[name] for name in wanted.names if name in row}
    return {**kept, "file_name": image, **({"text": text} if is_text else {})}

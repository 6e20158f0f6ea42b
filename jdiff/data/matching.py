"""Which files belong together by their names: an image and its mask, or several masks."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

NUMBERED = re.compile(r"[_-]?\d+")  # what may follow the name of one of several masks


@dataclass
class Matched:
    """pairs: (the first picture, all second pictures of it), sorted. lone: (file, what is wrong with it). suffixes: the
    ends of names that were ignored.
    """

    pairs: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    lone: list[tuple[str, str]] = field(default_factory=list)
    suffixes: tuple[str, str] = ("", "")


def matched(
    first: Sequence[str], second: Sequence[str], folders: tuple[str, str], suffixes: tuple[str, str]
) -> Matched:
    """Files below folders[0] with those of the same name below folders[1], whatever their extensions; sub-folders are
    part of the name. Ends of names in `suffixes` are ignored; "a|b" is either. A second file whose name goes on with a
    number (x_mask_1 beside x_mask, x_0) is one of several of x.

    Without suffixes, where no names fit, the end that all files of a folder share is ignored (21_training and
    21_manual1).
    """
    found = _matched(first, second, folders, suffixes)
    if found.pairs or any(suffixes) or folders[0] == folders[1]:
        return found
    for ends in ((_shared_end(first), _shared_end(second)), ("", _shared_end(second)), (_shared_end(first), "")):
        guess = _matched(first, second, folders, ends)
        if any(ends) and guess.pairs and not guess.lone:
            return guess
    return found


def _matched(
    first: Sequence[str], second: Sequence[str], folders: tuple[str, str], suffixes: tuple[str, str]
) -> Matched:
    made = Matched(suffixes=suffixes)
    ends = tuple(tuple(sorted(suffix.split("|"), key=len, reverse=True)) for suffix in suffixes)
    if folders[0] == folders[1]:  # a file belongs to its longest matching suffix
        long = max((0, 1), key=lambda k: len(ends[k][0]))
        theirs = [name for name in first if _numbered_base(stem_of(name, ""), ends[long]) is not None]
        apart = set(theirs)
        rest = [name for name in first if name not in apart]
        first, second = (theirs, rest) if long == 0 else (rest, theirs)
    bases: dict[str, str] = {}
    for name in first:
        base = _without(stem_of(name, folders[0]), ends[0])
        other = bases.setdefault(base, name)
        if other is not name:
            made.lone.append((name, f"has the same base name as {other}"))
    partners: dict[str, list[str]] = {base: [] for base in bases}
    exact: dict[str, str] = {}
    numbered: dict[str, int] = {}  # of those that are one of several: its number
    for name in second:
        stem = stem_of(name, folders[1])
        base = _without(stem, ends[1])
        if base not in partners and (shorter := _numbered_base(stem, ends[1])):
            base, numbered[name] = shorter, int(re.findall(r"\d+", stem)[-1])
        if base not in partners:
            made.lone.append((name, f"has no partner in {folders[0] or 'the same folder'}"))
        elif (other := exact.setdefault(stem, name)) is not name:
            made.lone.append((name, f"has the same base name as {other}"))
        else:
            partners[base].append(name)
    for base, names in partners.items():
        numbers = sorted(numbered[name] for name in names if name in numbered)
        gaps = numbers != list(range(numbers[0], numbers[0] + len(numbers))) if numbers else False
        if names and len(numbers) == len(names) and (gaps or numbers[0] > 1):  # frames, not masks of one picture
            made.lone += [(name, f"is not one of several of {bases[base]}: numbers are missing") for name in names]
            names.clear()
    made.lone += [
        (bases[base], f"has no partner in {folders[1] or 'the same folder'}")
        for base, names in partners.items()
        if not names
    ]
    made.pairs = sorted(
        ((bases[base], tuple(names)) for base, names in partners.items() if names),
        key=lambda pair: pair[0].split("/"),
    )
    return made


def stem_of(name: str, folder: str = "") -> str:
    """A name below its folder, without its extension, in Unicode's NFC form."""
    low = name.lower()
    ending = ".nii.gz" if low.endswith(".nii.gz") else PurePosixPath(name).suffix
    relative = name.removeprefix(f"{folder}/") if folder else name
    return unicodedata.normalize("NFC", relative.removesuffix(ending))


def _without(stem: str, ends: Sequence[str]) -> str:
    return next((stem.removesuffix(end) for end in ends if end and stem.endswith(end)), stem)


def _numbered_base(stem: str, ends: Sequence[str]) -> str | None:
    """What comes before an end, or before an end and a number; None where neither is there. Without an end a number
    needs a sign before it: 11 is not the first of 1.
    """
    for end in ends:
        if end and stem.endswith(end):
            return stem.removesuffix(end)
        where = stem.rfind(end) if end else -1
        if end and where > 0 and NUMBERED.fullmatch(stem[where + len(end) :]):
            return stem[:where]
    if "" in ends and (number := re.search(r"[_-]\d+$", stem)):
        return stem[: number.start()]
    return None


def _shared_end(names: Sequence[str]) -> str:
    """The longest end, from a separator on, that the stems of all names share."""
    stems = [stem_of(name, "") for name in names]
    if len(stems) < 2:
        return ""
    shortest = min(map(len, stems))
    same = next((k for k in range(1, shortest + 1) if len({stem[-k] for stem in stems}) > 1), shortest + 1) - 1
    shared = stems[0][len(stems[0]) - same :] if same else ""
    return next((shared[k:] for k in range(len(shared)) if shared[k] in "_-. "), "")

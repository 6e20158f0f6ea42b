"""Pairs of pictures with the same content: a photo and its mask, a sketch and its photo."""

import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.decode import load, of_files, to_array
from jdiff.data.masks import MaskSummary, MaskValues, checked, fitted, to_mask
from jdiff.data.resize import same_aspect
from jdiff.data.sources import Picture, Shape
from jdiff.data.sources.files import (
    TEST_NAMES,
    TRAIN_NAMES,
    LeftOut,
    OnBadFile,
    Progress,
    folder_of,
    holds_images,
    images_below,
    interned,
    no_progress,
    one_line,
    others_below,
    refuse,
    share_of,
    split_folders,
    subfolders,
    try_all,
)

HALVES = ("left,right", "top,bottom")

Pair = tuple[Path, Path]  # twice the same file for halves


@dataclass(frozen=True)
class _Found:
    """(h, w, c) of both pictures of a pair, and summaries of its masks."""

    shapes: tuple[tuple[int, ...], ...]
    masks: tuple[MaskSummary, ...]


class Pairs:
    """Pairs of pictures below the folder `root`: records {names[0]: [h, w, c], names[1]: [h, w, c]}, one of the names
    being "image".

        root/images/x.jpg + root/masks/x.png      two parallel folders, matched by base name, any extensions
        root/{train,test}/{images,masks}/...      the same with test pairs of its own (or testing, val, ...)
        root/{images,masks}/{train,test}/...      likewise
        root/*.jpg, root/{train,test}/*.jpg       halves: both pictures side by side, or one above the other, in a file

    Without a test folder, a fixed share of the pairs is held out. Symbolic links are followed, hidden files and folders
    skipped; sub-folders are part of the name (a/1.jpg matches a/1.png).

    Pictures are uint8 [h, w, channels], or with bits=16 uint16 [h, w, 1]; masks are uint8 [h, w, 1] (see
    jdiff.data.masks). The constructor decodes every pair once, to find before training: unreadable files, files without
    a partner or with a duplicate base name, pairs of different aspect ratios (beyond a pixel's rounding), and masks
    with stray values. on_bad_file ("error" or "skip", as in Folder) governs them all.

    split: "train" or "test". folders: of the first and of the second pictures, below `root` or a split; the same folder
    twice if `suffixes` differ. suffixes: ends of base names, such as "_segmentation", ignored in matching. names: of
    the record's fields. masks: the names that hold masks. mask_values: the values of masks; (): those of the training
    masks, 0 and 255 or classes. mask_snap: replace other values by the nearest of these and count such masks in
    `notes`. halves: "": two folders; "left,right" or "top,bottom": the first picture is on the left or at the top.
    holdout, progress: as in Folder. Raises UserError for bad arguments, and if no pair is found or left.
    """

    class_names: tuple[str, ...] = ()
    labels_per_image = 1
    captions: tuple[str, ...] = ()
    scalar_names: tuple[str, ...] = ()

    def __init__(
        self,
        root: str,
        split: str,
        *,
        folders: tuple[str, str] = ("images", "masks"),
        suffixes: tuple[str, str] = ("", ""),
        names: tuple[str, str] = ("image", "mask"),
        masks: tuple[str, ...] = ("mask",),
        mask_values: tuple[int, ...] = (),
        mask_snap: bool = False,
        channels: int = 3,
        bits: int = 8,
        halves: str = "",
        holdout: float = 0.05,
        on_bad_file: OnBadFile = "error",
        progress: Progress = no_progress,
    ):
        top = folder_of(root)
        if "image" not in names or names[0] == names[1]:
            raise UserError(f"data.names={names}: two names, and one of them must be 'image'")
        if halves not in ("", *HALVES):
            raise UserError(f"data.halves={halves!r} must be '' (two folders), {' or '.join(map(repr, HALVES))}")
        self._names, self._halves, self._channels, self._bits = names, halves, channels, bits
        self._masks = {name: MaskValues(mask_values, mask_snap) for name in names if name in masks}
        train_dirs, test_dirs = _whole_dirs(top) if halves else _folder_dirs(top, folders)
        training, lone = _pairs(train_dirs, suffixes)
        if not training:
            why = f" ({' '.join(lone[0])})" if lone else ""
            raise UserError(f"no pairs of pictures in {' and '.join(map(str, dict.fromkeys(train_dirs)))}{why}")
        pairs, dirs = training, train_dirs
        if test_dirs and split == "test":
            dirs = test_dirs
            pairs, lone = _pairs(dirs, suffixes)
        refuse([" ".join(each) for each in lone], on_bad_file)
        notes = [f"skipped {len(lone)} pictures without a partner (first: {' '.join(lone[0])})"] if lone else []
        if split == "train" or test_dirs:
            notes += filter(None, map(others_below, dict.fromkeys(dirs)))
        if not test_dirs:
            pairs = [pairs[i] for i in share_of(len(pairs), split, holdout)]
            notes, lone = (notes, lone) if split == "train" else ([], [])  # of the same files: reported once

        found, why_not = try_all(lambda i: self._found(pairs[i]), len(pairs), progress)
        faults = dict(why_not)
        if self._masks and not mask_values:
            # A value must mean the same in both splits, so the masks of the training folder decide, including those
            # held out of it.
            rest = sorted(set(training) - set(pairs))
            others, _ = try_all(lambda i: self._seen(rest[i]), len(rest), no_progress)
            known = list(others.values())
            if not (test_dirs and split == "test"):
                known += [pair.masks for pair in found.values()]
            self._masks = fitted(self._masks, known, str(train_dirs[-1]))
        strays, said = checked(
            self._masks,
            {i: pair.masks for i, pair in found.items()},
            lambda name, i: one_line(pairs[i][names.index(name)]),
        )
        faults |= strays
        notes += said
        bad = [_told(pairs[i], faults[i]) for i in sorted(faults)]
        refuse([" ".join(each) for each in bad], on_bad_file)
        if bad:
            first = " ".join(bad[0])
            notes.append(f"skipped {len(bad)} of {len(pairs)} {split} pairs below {top} (first: {first})")
            if len(bad) == len(pairs):
                raise UserError(f"no usable {split} pair is left below {top} (first: {first})")
        self.left_out: LeftOut = (*lone, *bad)
        good = [i for i in range(len(pairs)) if i not in faults]
        self._pairs = [(str(first), str(second)) for first, second in (pairs[i] for i in good)]
        self.pictures = {
            name: self._picture(name, {found[i].shapes[k][:2] for i in good}) for k, name in enumerate(names)
        }
        self.notes = tuple(notes)

    @property
    def names(self) -> tuple[str, ...]:
        """The first file of each pair."""
        return tuple(first for first, _ in self._pairs)

    @property
    def shape(self) -> Shape:
        return self.pictures["image"].shape

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self._pairs[index]
        try:
            record = self._read(pair, self._names)
        except Exception as error:
            raise UserError(one_line(f"{error}, and could be at the start")) from error
        return {name: self._masks[name](array) if name in self._masks else array for name, array in record.items()}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]

    def _picture(self, name: str, sizes: set[tuple[int, ...]]) -> Picture:
        height, width = sizes.pop() if len(sizes) == 1 else (None, None)
        if name in self._masks:
            return Picture((height, width, 1), kind="mask", high=self._masks[name].high)
        return of_files((height, width, self._channels), self._bits)

    def _read(self, pair: Sequence[str | Path], wanted: Collection[str]) -> dict[str, np.ndarray]:
        """The pictures named in `wanted`. Raises ValueError with the file's name."""
        record: dict[str, np.ndarray] = {}
        halves: tuple[Image.Image, ...] = ()
        for k, (path, name) in enumerate(zip(pair, self._names, strict=True)):
            if name not in wanted:
                continue
            with _naming(path):
                if self._halves:
                    halves = halves or _cut(load(path), self._halves)
                image = halves[k] if halves else load(path)
                record[name] = to_mask(image) if name in self._masks else to_array(image, self._channels, self._bits)
        return record

    def _seen(self, pair: Pair) -> tuple[MaskSummary, ...]:
        record = self._read(pair, self._masks)
        return tuple(MaskSummary.of(record[name]) for name in self._masks)

    def _found(self, pair: Pair) -> _Found:
        record = self._read(pair, self._names)
        (h, w, _), (h2, w2, _) = shapes = tuple(record[name].shape for name in self._names)
        if not same_aspect((h, w), (h2, w2)):
            raise ValueError(f"{pair[0]} ({w}x{h}) and {pair[1]} ({w2}x{h2}) differ in aspect ratio")
        return interned(_Found(shapes, tuple(MaskSummary.of(record[name]) for name in self._masks)))


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {str(error) or type(error).__name__}") from error


def _told(pair: Pair, fault: str) -> tuple[str, str]:
    """(file, fault) of a message that begins with the file's name."""
    for file in map(one_line, pair):
        if fault.startswith(f"{file} "):
            return file, fault.removeprefix(f"{file} ")
    return one_line(pair[0]), fault


def _cut(image: Image.Image, halves: str) -> tuple[Image.Image, Image.Image]:
    width, height = image.size
    if halves == "left,right":
        if width % 2:
            raise ValueError(f"it is {width} pixels wide, which has no two equal halves")
        return image.crop((0, 0, width // 2, height)), image.crop((width // 2, 0, width, height))
    if height % 2:
        raise ValueError(f"it is {height} pixels high, which has no two equal halves")
    return image.crop((0, 0, width, height // 2)), image.crop((0, height // 2, width, height))


def _whole_dirs(top: Path) -> tuple[tuple[Path, ...], tuple[Path, ...] | None]:
    """((training folder,), (test folder,) or None) of pictures with both halves."""
    train, test = split_folders(top)
    return (train,), (test,) if test else None


def _folder_dirs(top: Path, folders: tuple[str, str]) -> tuple[tuple[Path, ...], tuple[Path, ...] | None]:
    """(both folders of training pictures, both folders of test pictures or None)."""

    def there(*dirs: Path) -> tuple[Path, ...] | None:
        return dirs if all(map(os.path.isdir, dirs)) else None

    def split_first(split: str) -> tuple[Path, ...] | None:
        return there(*(top / split / folder for folder in folders))

    def folder_first(split: str) -> tuple[Path, ...] | None:
        return there(*(top / folder / split for folder in folders))

    for parent, of_split in ((top, split_first), (top / folders[0], folder_first)):
        there_are = {path.name.lower(): path.name for path in subfolders(parent)} if os.path.isdir(parent) else {}
        trains, tests = (
            [
                dirs
                for name in names
                if name in there_are and (dirs := of_split(there_are[name])) and holds_images(dirs[0])
            ]
            for names in (TRAIN_NAMES, TEST_NAMES)
        )
        if trains:
            return trains[0], tests[0] if tests else None
    if plain := there(*(top / folder for folder in folders)):
        return plain, None
    inside = [one_line(path.name) for path in subfolders(top)]
    raise UserError(
        f"{top} holds no folders {folders[0]!r} and {folders[1]!r}, nor does a folder train/ in it "
        f"(it holds {', '.join(inside[:8]) or 'no folders'}): name both with data.folders"
    )


def _pairs(dirs: tuple[Path, ...], suffixes: tuple[str, str]) -> tuple[list[Pair], list[tuple[str, str]]]:
    """(pairs sorted by the first file, (file, fault) of each file without a partner)."""
    if len(dirs) == 1:
        return [(path, path) for path in images_below(dirs[0])], []
    files = [images_below(folder) for folder in dirs]
    if dirs[0] == dirs[1]:  # a file belongs to its longest matching suffix
        short, long = sorted((0, 1), key=lambda k: len(suffixes[k]))
        files[long] = [path for path in files[long] if path.stem.endswith(suffixes[long])]
        rest = set(files[short]) - set(files[long])
        files[short] = [path for path in files[short] if path in rest and path.stem.endswith(suffixes[short])]
    lone: list[tuple[Path, str]] = []
    first, second = (_by_name(*each, lone) for each in zip(files, dirs, suffixes, strict=True))
    lone += [(path, f"has no partner in {dirs[1]}") for name, path in first.items() if name not in second]
    lone += [(path, f"has no partner in {dirs[0]}") for name, path in second.items() if name not in first]
    pairs = sorted((path, second[name]) for name, path in first.items() if name in second)
    return pairs, [(one_line(path), one_line(why)) for path, why in lone]


def _by_name(files: Iterable[Path], folder: Path, suffix: str, lone: list[tuple[Path, str]]) -> dict[str, Path]:
    """Base name below `folder` -> file. Duplicates of a base name are appended to `lone`, all but the first."""
    found: dict[str, Path] = {}
    for path in files:
        name = unicodedata.normalize("NFC", str(path.relative_to(folder).with_suffix("")))
        other = found.setdefault(name.removesuffix(suffix), path)
        if other is not path:
            lone.append((path, f"has the same base name as {other}"))
    return found

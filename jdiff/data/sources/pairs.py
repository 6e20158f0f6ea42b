"""Pairs of pictures with the same content: a photo and its mask, a sketch and its photo."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedIOBase
from typing import Any

import numpy as np
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.common.words import many, one_line
from jdiff.data import medical
from jdiff.data.decode import Facts, Reader, load, of_files, to_array
from jdiff.data.holdout import check_groups
from jdiff.data.layout import (
    TEST_NAMES,
    TRAIN_NAMES,
    below,
    groups_of,
    named_splits,
    only_folder,
    split_kind,
    splits_among,
    top_of,
)
from jdiff.data.masks import MaskSummary, MaskValues, checked, fitted, to_mask, to_mask_values
from jdiff.data.matching import Matched, matched
from jdiff.data.metadata import NAMES, Columns, Entry, values_of
from jdiff.data.parts import read_as
from jdiff.data.resize import same_aspect
from jdiff.data.sides import NONE_KEPT, sides_of, two_splits, unused
from jdiff.data.sources import Picture, Shape
from jdiff.data.sources.files import (
    LeftOut,
    OnBadFile,
    Progress,
    folders_in,
    look_at_all,
    no_progress,
    others_below,
    pictures_of,
    refuse,
)
from jdiff.data.trees import Tree, called, open_tree

HALVES = ("left,right", "top,bottom")
EMPTY = "empty"  # of data.stratify
SEVERAL = ("", "union", "raters")

Pair = tuple[str, tuple[str, ...]]  # the first picture and the second, or several masks; twice the same file for halves


@dataclass(frozen=True)
class PictureReader:
    """How one picture of a pair is read: reader, of images (or medical ones); mask: its values are class numbers; half:
    (halves, 0 or 1), of a file that holds both.
    """

    reader: Any
    mask: bool = False
    half: tuple[str, int] | None = None

    def __call__(self, stream: BufferedIOBase, page: int = 0) -> np.ndarray:
        """[h, w, c]."""
        if not isinstance(self.reader, Reader):
            values = self.reader(stream, page)
            return to_mask_values(values) if self.mask else values
        if not (self.mask or self.half):
            return self.reader(stream, page)
        image = load(stream, page=page)
        if self.half:
            image = _cut(image, self.half[0])[self.half[1]]
        return to_mask(image) if self.mask else to_array(image, self.reader.channels, self.reader.bits)

    @property
    def finds(self) -> str:
        """What decides of `look` beside the file."""
        return f"{'masks of ' * self.mask}{self.reader.finds}{f', half {self.half}' if self.half else ''}"

    def look(self, stream: BufferedIOBase) -> Facts:
        """The file's facts; of a mask, also its values."""
        if not (self.mask or self.half):
            return self.reader.look(stream)
        pages = 1 if isinstance(self.reader, Reader) else self.reader.look(stream).pages
        seen = []
        for page in range(pages):
            stream.seek(0)
            picture = self(stream, page)
            seen.append(MaskSummary.of(picture) if self.mask else None)
        height, width = picture.shape[:2]
        if not self.mask:
            return Facts(height, width)
        whole = MaskSummary.union([one for one in seen if one])
        return Facts(height, width, pages, values=tuple(sorted(whole.values)), binary=whole.binary)


class Pairs:
    """Pairs of pictures below `root` (a folder, a .zip or a .tar): records {names[0]: [h, w, c], names[1]: [h, w, c]},
    one of the names being "image".

        root/images/x.jpg + root/masks/x.png      two parallel folders, matched by base name, any extensions
        root/{train,test}/{images,masks}/...      the same with test pairs of its own (or testing, val, ...)
        root/{images,masks}/{train,test}/...      likewise
        root/*.jpg, root/{train,test}/*.jpg       halves: both pictures side by side, or one above the other, in a file

    Without a test folder, a fixed share of the pairs is held out. Symbolic links are followed, hidden files and folders
    skipped; sub-folders are part of the name (a/1.jpg matches a/1.png).

    Pictures are uint8 [h, w, channels], or with bits=16 uint16; masks are uint8 [h, w, 1] (see jdiff.data.masks). The
    constructor looks at every file once, to find before training: unreadable files, files without a partner or with a
    duplicate base name, pairs of different aspect ratios (beyond a pixel's rounding), and masks with stray values.
    on_bad_file ("error" or "skip", as in Folder) governs them all.

    split: "train" or "test". folders: of the first and of the second pictures, below `root` or a split; the same folder
    twice if `suffixes` differ. suffixes: ends of base names, such as "_segmentation", ignored in matching; "_training|
    _test" is either (see jdiff.data.matching). names: of the record's fields. masks: the names that hold masks.
    several: of several masks of an image: "union" (where any is set), "raters" (all are kept: masks are uint8 [h, w,
    raters], and training draws one), "" refuses them. mask_values: the values of masks; (): those of the training
    masks, 0 and 255 or classes. mask_snap: replace other values by the nearest of these and count such masks in
    `notes`. halves: "": two folders; "left,right" or "top,bottom": the first picture is on the left or at the top.
    splits, group, holdout, split_list, kept, axis, near, low, high, progress: as in Folder; columns are of a metadata
    file in the first pictures' folder or above it, whose first column may be any id (see jdiff.data.ids). stratify: a
    column, or "empty": masks that are empty, and the others. Raises UserError for bad arguments, and if no
    pair is found or left.
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
        several: str = "",
        mask_values: tuple[int, ...] = (),
        mask_snap: bool = False,
        channels: int = 3,
        bits: int = 8,
        halves: str = "",
        splits: tuple[str, ...] = (),
        group: str = "",
        stratify: str = "",
        split_list: str = "",
        kept: Mapping[str, str] = NONE_KEPT,
        holdout: float = 0.05,
        on_bad_file: OnBadFile = "error",
        axis: int = 2,
        near: int = 0,
        low: float | None = None,
        high: float | None = None,
        progress: Progress = no_progress,
    ):
        self._tree = tree = open_tree(root)
        if "image" not in names or names[0] == names[1]:
            raise UserError(f"data.names={names}: two names, and one of them must be 'image'")
        if halves not in ("", *HALVES):
            raise UserError(f"data.halves={halves!r} must be '' (two folders), {' or '.join(map(repr, HALVES))}")
        if several not in SEVERAL:
            raise UserError(f"data.several={several!r} must be '', 'union' or 'raters'")
        self._names, self._several, self._window = names, several, (low, high)
        self._masks = {name: MaskValues(mask_values, mask_snap) for name in names if name in masks}
        pictures = pictures_of(tree)
        find = _whole_dirs if halves else partial(_folder_dirs, folders=folders)
        train_dirs, tests, beside = find(tree, pictures, wanted=() if split_list else splits)
        training = self._found(pictures, train_dirs, suffixes)
        if not training.pairs:
            why = f" ({' '.join(self._told_lone(training)[0])})" if training.lone else ""
            where = " and ".join(one_line(called(tree, folder)) for folder in dict.fromkeys(train_dirs))
            raise UserError(f"no pairs of pictures in {where}{why}")
        pairing = [one for one in tests if self._found(pictures, one, suffixes).pairs]
        test_dirs = (pairing if pairing and not splits else tests)[0] if tests else None
        beside = [*beside, *(f"{' and '.join(dict.fromkeys(one))}/" for one in tests if one != test_dirs)]
        if test_dirs and split_list:
            raise UserError(two_splits(split_list, test_dirs[0]))
        here, dirs = training, train_dirs
        if test_dirs and split == "test":
            here, dirs = self._found(pictures, test_dirs, suffixes), test_dirs
        pairs = here.pairs
        lone = self._told_lone(here)
        if test_dirs and split == "test" and not pairs:
            where = one_line(called(tree, test_dirs[0]))
            first = f" ({' '.join(lone[0])})" if lone else ""
            raise UserError(
                f"no pictures in {where} have partners{first}: data.suffixes names the ends of names to ignore, "
                "'_training|_test' either of two"
            )
        self._readers = self._made_readers(training.pairs, channels, bits, halves, axis, near)
        names_of, sides = [first for first, _ in pairs], None
        by_column = Columns(
            group="" if "(" in group else group, stratify="" if test_dirs or stratify == EMPTY else stratify
        )
        tested = self._found(pictures, test_dirs, suffixes).pairs if test_dirs else []
        entries = self._entries(training.pairs, tested, train_dirs[0], by_column, group)
        if not test_dirs:
            strata: list[Hashable] = []
            if stratify:
                empty = stratify == EMPTY
                strata = [*self._emptiness(pairs, progress)] if empty else [entries[name].stratum for name in names_of]
            groups = [entries[name].group for name in names_of] if group else []
            sides = sides_of(names_of, holdout, strata, groups, split_list, splits, kept, stratify)
        elif group:
            held_out = self._entries(tested, training.pairs, test_dirs[0], by_column, group)
            check_groups(*({name: one.group for name, one in side.items()} for side in (entries, held_out)))
            entries = held_out if split == "test" else entries
        notes = []
        if split == "train":
            what = (
                f"{many(len(pairs), 'pair')} of {' and '.join(dict.fromkeys(folder or '.' for folder in train_dirs))}"
            )
            held = sides.told if sides else " and ".join(dict.fromkeys(test_dirs or ()))
            notes.append(read_as(tree.where, what, held, beside))
            notes += sides.notes if sides else unused(stratify, held)
        if any(here.suffixes) and not any(suffixes):
            ends = " and ".join(repr(end) for end in here.suffixes if end)
            notes.append(
                f"{one_line(called(tree, dirs[0]))} and {one_line(dirs[-1])} are paired by names without {ends}"
            )
        refuse([" ".join(each) for each in lone], on_bad_file)
        if lone:
            notes.append(f"skipped {len(lone)} pictures without a partner (first: {' '.join(lone[0])})")
        if split == "train" or test_dirs:
            read_too = NAMES if by_column else ()
            notes += filter(None, (others_below(tree, folder, pictures, read_too) for folder in dict.fromkeys(dirs)))
        if sides:
            pairs = [pairs[row] for row in (sides.train if split == "train" else sides.test)]
            notes, lone = (notes, lone) if split == "train" else ([], [])  # of the same files: reported once

        facts: list[dict[str, Facts]] = []
        why_not: dict[str, str] = {}
        for k, name in enumerate(names):
            # A value must mean the same in both splits, so the training files decide, those held out of them too: of
            # the values of masks, and of the range of medical images.
            decide = not mask_values if name in self._masks else not isinstance(self._readers[k].reader, Reader)
            rest = training.pairs if decide else []
            files = sorted({file for pair in [*pairs, *rest] for file in _files(pair, k)})
            seen, bad = look_at_all(
                tree, files, self._look(k), kind=self._readers[k].finds, finding=Facts, progress=progress
            )
            facts.append(seen)
            why_not |= bad
        self._agree(training.pairs, facts)
        faults = {i: fault for i, pair in enumerate(pairs) if (fault := self._fault(pair, facts, why_not))}
        if self._masks and not mask_values:
            known = [one for pair in training.pairs if (one := self._summaries(pair, facts))]
            self._masks = fitted(self._masks, known, one_line(called(tree, train_dirs[-1])))
        strays, said = checked(
            self._masks,
            {i: self._summaries(pair, facts) for i, pair in enumerate(pairs) if i not in faults},
            lambda name, i: one_line(called(tree, _files(pairs[i], names.index(name))[0])),
        )
        faults |= strays
        notes += said
        bad_pairs = [self._told(pairs[i], faults[i]) for i in sorted(faults)]
        refuse([" ".join(each) for each in bad_pairs], on_bad_file)
        if bad_pairs:
            first = " ".join(bad_pairs[0])
            notes.append(
                f"skipped {len(bad_pairs)} of {len(pairs)} {split} pairs below {one_line(tree.where)} (first: {first})"
            )
            if len(bad_pairs) == len(pairs):
                raise UserError(f"no usable {split} pair is left below {one_line(tree.where)} (first: {first})")
        self.left_out: LeftOut = (*lone, *bad_pairs)
        good = [pair for i, pair in enumerate(pairs) if i not in faults]
        self.members = {first: entries[first].group if group else "" for first, _ in good}
        self._raters = self._rated([*training.pairs, *pairs])
        self._pairs = [(pair, page) for pair in good for page in range(self._pages(pair, facts))]
        self.pictures = {name: self._picture(k, name, good, facts[k], near) for k, name in enumerate(names)}
        self.notes = tuple(notes)
        image = names.index("image")
        images = [facts[image][_files(pair, image)[0]] for pair, _ in self._pairs]
        self.sizes = np.array([(one.height, one.width) for one in images], np.int32).reshape(-1, 2)

    @property
    def names(self) -> tuple[str, ...]:
        """The first file of each pair."""
        return tuple(called(self._tree, first) for (first, _), _ in self._pairs)

    @property
    def shape(self) -> Shape:
        return self.pictures["image"].shape

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair, page = self._pairs[index]
        record = {}
        for k, name in enumerate(self._names):
            pictures = []
            for file in _files(pair, k):
                try:
                    with self._tree.open(file) as stream:
                        pictures.append(self._readers[k](stream, page))
                except Exception as error:
                    why = str(error) or type(error).__name__
                    where = one_line(called(self._tree, file))
                    raise UserError(one_line(f"{where} cannot be read: {why}, and could be at the start")) from error
            record[name] = self._joined(name, pictures)
        return record

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]

    def _joined(self, name: str, pictures: list[np.ndarray]) -> np.ndarray:
        """The picture, or several masks as one: their union, or a channel a rater."""
        if name not in self._masks:
            return pictures[0]
        masks = [self._masks[name](mask) for mask in pictures]
        return np.concatenate(masks, axis=-1) if self._several == "raters" else np.maximum.reduce(masks)

    def _found(self, pictures: Sequence[str], dirs: tuple[str, ...], suffixes: tuple[str, str]) -> Matched:
        """The pairs in these folders."""
        files = [[name for name in pictures if not folder or name.startswith(f"{folder}/")] for folder in dirs]
        if len(dirs) == 1:
            return Matched([(name, (name,)) for name in files[0]])
        return matched(files[0], files[1], (dirs[0], dirs[1]), suffixes)

    def _entries(
        self, pairs: Sequence[Pair], others: Sequence[Pair], folder: str, columns: Columns, group: str
    ) -> Mapping[str, Entry]:
        """The group and the stratum of each pair in `folder`, by its first file's name; {} where neither is asked for.
        others: pairs of the other side, which a table may name too.
        """
        names = [first for first, _ in pairs]
        known = values_of(self._tree, folder, names, [first for first, _ in others], columns) if columns else {}
        if "(" not in group:
            return known
        bare = Entry(None, (), ())
        found = groups_of(group, [name.removeprefix(f"{folder}/") if folder else name for name in names])
        if None in found:
            raise UserError(
                f"{one_line(called(self._tree, names[found.index(None)]))} does not match data.group={group!r}: change "
                "the pattern, or leave it out"
            )
        return {name: replace(known.get(name, bare), group=one) for name, one in zip(names, found, strict=True) if one}

    def _emptiness(self, pairs: Sequence[Pair], progress: Progress) -> list[bool]:
        """Whether the masks of each pair are empty."""
        if self._names[1] not in self._masks:
            raise UserError(
                f"data.stratify={EMPTY!r}: {self._names[1]!r} is none of data.masks: name a column, or leave it out"
            )
        files = sorted({file for _, masks in pairs for file in masks})
        seen, _ = look_at_all(
            self._tree, files, self._look(1), kind=self._readers[1].finds, finding=Facts, progress=progress
        )
        return [not any(value for file in masks if file in seen for value in seen[file].values) for _, masks in pairs]

    def _told_lone(self, found: Matched) -> list[tuple[str, str]]:
        return [(one_line(called(self._tree, file)), one_line(why)) for file, why in found.lone]

    def _made_readers(
        self, pairs: Sequence[Pair], channels: int, bits: int, halves: str, axis: int, near: int
    ) -> list[PictureReader]:
        readers = []
        for k, name in enumerate(self._names):
            kind = medical.kind_of(_files(pairs[0], k)[0])
            mask = name in self._masks
            reader = medical.reader(kind, axis) if kind else Reader(channels, bits, 0 if mask or halves else near)
            readers.append(PictureReader(reader, mask, (halves, k) if halves else None))
        return readers

    def _look(self, k: int) -> Any:
        def look(name: str) -> Facts:
            with self._tree.open(name) as stream:
                return self._readers[k].look(stream)

        return look

    def _agree(self, training: Sequence[Pair], facts: list[dict[str, Facts]]) -> None:
        """Fit the range of medical images to the training files."""
        for k, one in enumerate(self._readers):
            if not isinstance(one.reader, Reader) and not one.mask:
                known = {file: facts[k][file] for pair in training for file in _files(pair, k) if file in facts[k]}
                agreed, _ = medical.agreed(known, one.reader, *self._window)
                self._readers[k] = PictureReader(agreed, one.mask, one.half)

    def _fault(self, pair: Pair, facts: list[dict[str, Facts]], why_not: dict[str, str]) -> str:
        """What is wrong with a pair, beginning with the file's name; "" if nothing."""
        for k in (0, 1):
            for file in _files(pair, k):
                if file in why_not:
                    return f"{called(self._tree, file)} cannot be read: {why_not[file]}"
        name = self._names[1]
        if len(pair[1]) > 1 and not (self._several and name in self._masks):
            what = "masks" if name in self._masks else "partners"
            how = " (data.several=union unites them, data.several=raters keeps each)" if what == "masks" else ""
            return f"{called(self._tree, pair[0])} has {len(pair[1])} {what}, {', '.join(pair[1][:3])}{how}"
        first = facts[0][pair[0]]
        for file in pair[1]:
            other = facts[1][file]
            if not same_aspect((first.height, first.width), (other.height, other.width)):
                return (
                    f"{called(self._tree, pair[0])} ({first.width}x{first.height}) and {called(self._tree, file)} "
                    f"({other.width}x{other.height}) differ in aspect ratio"
                )
            where = called(self._tree, file)
            if other.pages != first.pages and not isinstance(self._readers[0].reader, Reader):
                return f"{called(self._tree, pair[0])} has {first.pages} slices and {where} {other.pages}"
            alike = facts[1][pair[1][0]]
            if (other.height, other.width) != (alike.height, alike.width):
                return f"{where} and {called(self._tree, pair[1][0])} differ in size"
        return ""

    def _summaries(self, pair: Pair, facts: list[dict[str, Facts]]) -> tuple[MaskSummary, ...]:
        """One for each name that holds masks; () where a file could not be read."""
        seen = []
        for k, name in enumerate(self._names):
            if name in self._masks:
                own = [facts[k][file] for file in _files(pair, k) if file in facts[k]]
                if not own:
                    return ()
                seen.append(MaskSummary.union([MaskSummary(frozenset(one.values), one.binary) for one in own]))
        return tuple(seen)

    def _rated(self, pairs: Sequence[Pair]) -> int:
        """The masks of an image where each is kept. Raises UserError where their number differs."""
        if self._several != "raters":
            return 1
        counts = sorted({len(masks) for _, masks in pairs})
        if len(counts) > 1:
            few = next(first for first, masks in pairs if len(masks) == counts[0])
            raise UserError(
                f"data.several=raters needs as many masks for every image, and there are {counts[0]} to {counts[-1]} "
                f"({one_line(called(self._tree, few))} has {counts[0]}); data.several=union unites them"
            )
        return counts[0] if counts else 1

    def _pages(self, pair: Pair, facts: list[dict[str, Facts]]) -> int:
        return 1 if isinstance(self._readers[0].reader, Reader) else facts[0][pair[0]].pages

    def _picture(self, k: int, name: str, pairs: Sequence[Pair], facts: dict[str, Facts], near: int) -> Picture:
        sizes = {(facts[file].height, facts[file].width) for pair in pairs for file in _files(pair, k)}
        drafted = near and name not in self._masks
        height, width = sizes.pop() if len(sizes) == 1 and not drafted else (None, None)
        if name in self._masks:
            channels = self._raters if k == 1 else 1
            return self._masks[name].picture(height, width, channels)
        reader = self._readers[k].reader
        if not isinstance(reader, Reader):
            return reader.picture((height, width))
        return of_files((height, width, reader.channels), reader.bits)

    def _told(self, pair: Pair, fault: str) -> tuple[str, str]:
        """(file, fault) of a message that begins with the file's name."""
        for file in (pair[0], *pair[1]):
            where = one_line(called(self._tree, file))
            if one_line(fault).startswith(f"{where} "):
                return where, one_line(fault).removeprefix(f"{where} ")
        return one_line(called(self._tree, pair[0])), one_line(fault)


def _files(pair: Pair, k: int) -> tuple[str, ...]:
    return pair[1] if k else (pair[0],)


def _cut(image: Image.Image, halves: str) -> tuple[Image.Image, Image.Image]:
    width, height = image.size
    if halves == "left,right":
        if width % 2:
            raise ValueError(f"it is {width} pixels wide, which has no two equal halves")
        return image.crop((0, 0, width // 2, height)), image.crop((width // 2, 0, width, height))
    if height % 2:
        raise ValueError(f"it is {height} pixels high, which has no two equal halves")
    return image.crop((0, 0, width, height // 2)), image.crop((0, height // 2, width, height))


def _whole_dirs(
    tree: Tree, pictures: Sequence[str], *, wanted: tuple[str, ...]
) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
    """((training folder,), [(test folder,), ...], what is not used) of pictures with both halves."""
    folders = sorted({top_of(name) for name in pictures} - {""})
    deep = {top_of(name) for name in pictures if name.count("/") > 1}
    splits = named_splits(wanted, folders, tree.where) if wanted else splits_among(folders, deep)
    return (splits.train,), [(name,) for name in splits.tests], [f"{name}/" for name in splits.beside]


def _folder_dirs(
    tree: Tree, pictures: Sequence[str], *, folders: tuple[str, str], wanted: tuple[str, ...]
) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
    """(both folders of training pictures, both folders of each split that may be held out, what is not used)."""
    filled = {name.rpartition("/")[0] for name in pictures}
    filled |= {parent for folder in list(filled) for parent in _above(folder)}
    top = ""
    while True:
        if found := _folder_dirs_in(tree, top, filled, folders, wanted):
            return found
        if not (inner := only_folder(below(pictures, top))):
            break
        top = f"{top}/{inner}" if top else inner
    if wanted:
        raise UserError(f"data.splits={wanted}: {one_line(tree.where)} holds no such folders of pairs")
    inside = [one_line(name) for name in folders_in(tree, "")]
    raise UserError(
        f"{one_line(tree.where)} holds no folders {folders[0]!r} and {folders[1]!r}, nor does a folder train/ in it "
        f"(it holds {', '.join(inside[:8]) or 'no folders'}): name both with data.folders"
    )


def _folder_dirs_in(
    tree: Tree, top: str, filled: Collection[str], folders: tuple[str, str], wanted: tuple[str, ...]
) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]] | None:
    """`_folder_dirs` in the folder `top`; None if they are not there. filled: folders with pictures below them."""
    known = set(tree.folders) | {""}

    def joined(*parts: str) -> str:
        return "/".join(part for part in (top, *parts) if part not in ("", "."))

    for parent, form in (("", "split first"), (folders[0], "folder first")):
        found: dict[str, tuple[str, ...]] = {}
        empty: dict[str, tuple[str, ...]] = {}
        for name in folders_in(tree, joined(parent)):
            dirs = tuple(joined(name, one) if form == "split first" else joined(one, name) for one in folders)
            if set(dirs) <= known:
                (found if dirs[0] in filled else empty)[name] = dirs
        _check_empty(tree, found, empty, wanted)
        if wanted and found and {name.lower() for name in wanted} <= {name.lower() for name in found}:
            splits = named_splits(wanted, list(found), tree.where)
        else:
            splits = splits_among([name for name in found if split_kind(name)], set())
            if wanted or not splits.train:
                continue
        beside = [f"{name}/" for name in (*splits.beside, *(name for name in found if not split_kind(name)))]
        return found[splits.train], [found[name] for name in splits.tests], list(dict.fromkeys(beside))
    plain = tuple(joined(folder) for folder in folders)
    return None if wanted or not set(plain) <= known else (plain, [], [])


def _check_empty(
    tree: Tree, found: Collection[str], empty: Mapping[str, tuple[str, ...]], wanted: tuple[str, ...]
) -> None:
    """Raises UserError for a split that is asked for, or that alone could be held out, without pictures. found, empty:
    names of splits' folders with pictures, and without.
    """
    kinds = {name: split_kind(name) for name in (*found, *empty)}
    trained_on = any(kinds[name] in TRAIN_NAMES for name in found)
    held_out = any(kinds[name] in TEST_NAMES for name in found)
    asked = {name.lower() for name in wanted}
    for name, (first, *_) in empty.items():
        if name.lower() in asked if wanted else kinds[name] in TEST_NAMES and trained_on and not held_out:
            raise UserError(
                f"{one_line(called(tree, first))} holds no pictures: put those of this split there, or remove the "
                "folder, and a share of the others is held out (data.holdout)"
            )


def _above(folder: str) -> list[str]:
    """The folders that a folder is in, the top too."""
    parts = folder.split("/")
    return ["/".join(parts[:k]) for k in range(len(parts))]

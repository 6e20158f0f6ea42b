"""Folders and archives of image files."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdiff.common.errors import UserError
from jdiff.common.words import many, one_line
from jdiff.data import medical, metadata, sidecars
from jdiff.data.decode import Facts, Reader, of_files
from jdiff.data.holdout import FEWEST_TO_SHARE, check_groups
from jdiff.data.labels import NO_LABELS, OF_FOLDERS, ClassLabels
from jdiff.data.layout import top_of
from jdiff.data.metadata import Columns
from jdiff.data.parts import DATASET, Part, Wanted, parts_of
from jdiff.data.sides import CLASSES, NONE_KEPT, no_classes, sides_of, two_splits, unused
from jdiff.data.sources import HIGHEST, Picture
from jdiff.data.sources.files import (
    LeftOut,
    OnBadFile,
    Progress,
    look_at_all,
    no_progress,
    others_below,
    pictures_of,
    refuse,
)
from jdiff.data.trees import Tree, called, open_tree

PAGES = ("first", "all")
INSTEAD = {  # files that a folder may hold in place of images -> what to do
    ".npy": "data.name=arrays reads them",
    ".npz": "data.name=arrays reads them",
    ".parquet": "data.name=hf:PATH reads them",
    ".array_record": "data.name=array_record reads them",
    ".zip": "name one as data.dir, or unpack them",
    ".tar": "name them as data.dir='PATH/*.tar', or unpack them",
    ".heic": "convert them to JPEG or PNG",
}
READ_BESIDE = (*metadata.NAMES, DATASET)


class Folder:
    """Images below `root`: a folder, a .zip, a .tar or .tar shards (see jdiff.data.trees), of any format, size and mode
    that Pillow reads, or DICOM and NIfTI (see jdiff.data.medical).

        root/*.png                    no classes
        root/<class>/**/*.jpg         a class per sub-folder, sorted by name, whole numbers by value
        root/{train,test}/...         either layout with its own test images (or testing, val, valid, validation)

    The notes begin with a line that says how the folder was read. A test folder that lacks the training images' classes
    or captions is named and not used; without one, a fixed share of the images is held out, of each class. Symbolic
    links are followed, hidden files and folders skipped.

    Classes come from a dataset.json, .cls files beside images, or sub-folders; captions, labels and scalars from
    `metadata.jsonl`, .csv or .tsv in root or in each of train/ and test/ (see jdiff.data.metadata), or from .txt and
    .json files beside images (see jdiff.data.sidecars).

    Records: "image" uint8 [h, w, channels]; with bits=16 uint16 [h, w, channels]; of DICOM and NIfTI float32 [h, w, 1],
    in the file's units; "label", "text" and scalars if the data have them. The constructor looks at every file once, so
    that a damaged one is found before training, and remembers what it found (see jdiff.data.verdicts).

    split: "train" or "test". splits: names of the training folder and the one held out; (): found by their names.
    holdout: the share held out if there is no test folder (none of fewer than 20 images). group: a column of the
    metadata, or a regular expression with a group for file names: images of one group are held out together. stratify:
    a column of which the share has each value alike, or "class". split_list: published lists of ids, in place of a
    share (see jdiff.data.split_lists). kept: the sides of the images at an earlier start, likewise.
    on_bad_file: "error" raises UserError with the first unreadable file, or the first mismatch of metadata and images;
    "skip" leaves them out, counts them in `notes` and lists them in `left_out`. labels: the metadata's column of a
    label or a list of labels; "": as the data say; "folders": the sub-folders, whatever they look like; "none".
    label_pattern: a regular expression whose group, in a file's name, is the class. scalars: columns of numbers.
    column: one more, which `column` tells. pages: of files with several, "first" or "all", a record each. axis: along
    which NIfTI is cut into slices. near: see jdiff.data.decode.Reader. low, high: the values that map to -1 and 1, of
    DICOM and NIfTI; None: the files' own.
    progress: wraps the iterable of files to show a bar. Raises UserError if no image is found or left.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        channels: int = 3,
        bits: int = 8,
        holdout: float = 0.05,
        on_bad_file: OnBadFile = "error",
        labels: str = "",
        label_pattern: str = "",
        scalars: tuple[str, ...] = (),
        column: str = "",
        group: str = "",
        stratify: str = "",
        split_list: str = "",
        kept: Mapping[str, str] = NONE_KEPT,
        splits: tuple[str, ...] = (),
        pages: str = "first",
        axis: int = 2,
        near: int = 0,
        low: float | None = None,
        high: float | None = None,
        progress: Progress = no_progress,
    ):
        self._tree = tree = open_tree(root)
        images = pictures_of(tree)
        if not images:
            raise UserError(
                f"no images below {one_line(tree.where)}: it must hold files such as .png, .jpg or .webp, or "
                f"sub-folders of them{_instead(tree)}"
            )
        kind = _kind(images, tree.where)
        self._read: Reader | medical.MedicalReader = (
            medical.reader(kind, axis) if kind else Reader(channels, bits, near)
        )
        of_labels = labels if labels not in ("", OF_FOLDERS, NO_LABELS) else ""
        of_classes = stratify == CLASSES
        columns = Columns(
            of_labels, tuple(scalars), "" if "(" in group else group, column, "" if of_classes else stratify
        )
        of_folders = () if split_list else tuple(splits)
        wanted = Wanted(labels, label_pattern, columns, group, of_folders, medical=bool(kind))
        parts = parts_of(tree, images, wanted)
        if parts.test is not None and split_list:
            raise UserError(two_splits(split_list, parts.test.folder))
        held_out = split == "test" and parts.test is not None
        part = parts.test if held_out and parts.test else parts.train
        notes = list(part.notes)
        if split == "train":
            read_too = (*READ_BESIDE, *(sidecars.ENDINGS if part.entries or part.labels else ()))
            notes += filter(None, [tree.left_out, others_below(tree, "", images, read_too)])
        refuse(part.faults, on_bad_file)
        chosen = part.complete
        left_out = [(one_line(called(tree, part.folder)), fault) for fault in part.faults]
        if part.faults:
            lost = len(part.images) - len(chosen)
            notes.append(
                f"skipped {lost} images without metadata and {max(0, len(part.faults) - lost)} lines of metadata "
                f"(first: {part.faults[0]})"
            )
        self.class_names, self.labels_per_image = parts.train.classes, parts.train.most_labels
        groups = dict(zip(chosen, _groups(part, chosen, group, medical=bool(kind)), strict=False))
        sides = None
        if parts.test is None:
            strata = _strata(parts.train, chosen, stratify, one_line(tree.where), grouped=bool(groups))
            whole = list(groups.values()) if group or not split_list else []  # a list knows of no patients' folders
            sides = sides_of(chosen, holdout, strata, whole, split_list, splits, kept, stratify)
            chosen = [chosen[row] for row in (sides.train if split == "train" else sides.test)]
        elif group:
            both = ({name: one.entries[name].group for name in one.complete} for one in (parts.train, parts.test))
            check_groups(*both)
        self.members = {name: groups.get(name, "") for name in chosen}
        if split == "train":
            drawn = sides.notes if sides else unused(stratify, parts.test.folder if parts.test else "")
            notes = [parts.told(sides.told if sides else ""), *drawn, *notes]
            if len(set(groups.values())) == 1 and holdout and len(groups) >= FEWEST_TO_SHARE and not split_list:
                notes.append("no image is held out: all are of one group")
        elif parts.test is None:
            notes, left_out = [], []  # of the same files: reported once

        facts, why_not = look_at_all(tree, chosen, self._look, kind=self._read.finds, finding=Facts, progress=progress)
        if not isinstance(self._read, Reader):
            known = facts
            if held_out:  # test images are as those of training
                known, _ = look_at_all(
                    tree, parts.train.complete, self._look, kind=self._read.finds, finding=Facts, progress=no_progress
                )
            self._read, faults = medical.agreed({**facts, **known}, self._read, low, high)
            why_not |= {name: why for name, why in faults.items() if name in facts}
        unreadable = [(one_line(called(tree, name)), f"cannot be read: {why}") for name, why in why_not.items()]
        refuse([f"{file} {why}" for file, why in unreadable], on_bad_file)
        if unreadable:
            first = " ".join(unreadable[0])
            notes.append(
                f"skipped {len(unreadable)} unreadable of {len(chosen)} {split} images below {one_line(tree.where)} "
                f"(first: {first})"
            )
            chosen = [name for name in chosen if name not in why_not]
            self.members = {name: self.members[name] for name in chosen}
        self.left_out: LeftOut = (*left_out, *unreadable)
        if not chosen and (split == "train" or unreadable):
            raise UserError(f"no usable image is left below {one_line(tree.where)}: {notes[-1]}")
        every_page = bool(kind) or pages == "all"
        self._files = [(name, page) for name in chosen for page in range(facts[name].pages if every_page else 1)]
        if split == "train" and not isinstance(self._read, Reader):
            notes += filter(None, [self._read.note()])
        elif split == "train":
            notes += told([facts[name] for name in chosen], channels, bits, every_page=every_page, high=high)
        self.notes = tuple(notes)
        self.sizes = np.array([(facts[name].height, facts[name].width) for name, _ in self._files], np.int32)
        self.pictures = {"image": self._picture(facts, near)}
        own = (part.labels.get(name, ()) for name, _ in self._files)
        self._labels = ClassLabels.of(own, self.class_names, self.labels_per_image)
        entries = [part.entries[name] for name, _ in self._files] if part.entries else []
        self.captions = tuple(entry.text or "" for entry in entries) if part.has_texts else ()
        self.scalar_names = tuple(scalars)
        self._scalars = [entry.scalars for entry in entries] if scalars else []
        self._column = {column: [entry.column for entry in entries]} if column else {}

    @property
    def shape(self) -> Any:
        return self.pictures["image"].shape

    @property
    def names(self) -> tuple[str, ...]:
        """The file of each record, and its page where a file has several records."""
        several = {name for name, page in self._files if page}
        return tuple(
            called(self._tree, name) + (f"#{page + 1}" if name in several else "") for name, page in self._files
        )

    def scalar_values(self, rows: np.ndarray) -> np.ndarray:
        """float64 [len(rows), k]."""
        return np.array(self._scalars, np.float64)[rows]

    def labels(self) -> np.ndarray:
        """int32 [n], or [n, labels_per_image] padded with -1; -1 without classes."""
        return self._labels.array()

    def column(self, name: str) -> np.ndarray | None:
        """[n], of text; None for another than the one that was asked for."""
        return np.array(self._column[name]) if name in self._column else None

    @property
    def class_counts(self) -> tuple[int, ...]:
        return self._labels.counts(len(self.class_names))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, page = self._files[index]
        try:
            with self._tree.open(name) as stream:
                record: dict[str, Any] = {"image": self._read(stream, page)}
        except Exception as error:
            why = str(error) or type(error).__name__
            where = called(self._tree, name)
            raise UserError(one_line(f"{where} could be read at the start and cannot now: {why}")) from error
        if self.class_names:
            record["label"] = self._labels[index]
        if self.captions:
            record["text"] = self.captions[index]
        if self.scalar_names:
            record |= dict(zip(self.scalar_names, map(np.float32, self._scalars[index]), strict=True))
        return record

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]

    def _look(self, name: str) -> Facts:
        with self._tree.open(name) as stream:
            return self._read.look(stream)

    def _picture(self, facts: dict[str, Facts], near: int) -> Picture:
        """The description of the images: of one size where all files share it and are read at their full size."""
        sizes = {tuple(size) for size in self.sizes.tolist()}
        height, width = sizes.pop() if len(sizes) == 1 and not near else (None, None)
        if isinstance(self._read, Reader):
            return of_files((height, width, self._read.channels), self._read.bits)
        return self._read.picture((height, width))


def _groups(part: Part, images: Sequence[str], group: str, *, medical: bool) -> list[str]:
    """What belongs together: by data.group or, of medical files, the first folder (a patient); [] of nothing."""
    if group:
        return [part.entries[name].group for name in images]
    start = f"{part.folder}/" if part.folder else ""
    folders = [top_of(name.removeprefix(start)) for name in images] if medical else []
    return folders if len(set(folders)) > 1 else []


def _strata(train: Part, images: Sequence[str], stratify: str, where: str, *, grouped: bool) -> list[Any]:
    """What a share has each value of alike: the column data.stratify, or classes; [] of nothing."""
    if stratify not in ("", CLASSES):
        return [train.entries[name].stratum for name in images]
    single = train.labels if train.most_labels == 1 else {}
    if stratify and not single:
        raise UserError(no_classes(where))
    return [single[name] for name in images] if single and not (grouped and not stratify) else []


def _instead(tree: Tree) -> str:
    """What a tree without images holds, and what to do with it."""
    endings = {os.path.splitext(name)[1].lower() for name in tree.files}
    for ending, advice in INSTEAD.items():
        if ending in endings:
            return f". It holds {ending} files: {advice}"
    told_of = others_below(tree, "", ())
    return f" ({told_of})" if told_of else ""


def _kind(images: Sequence[str], where: str) -> str:
    """ "dicom" or "nifti" where all files are; "" of images. Raises UserError for a mixture."""
    kinds = {medical.kind_of(name): name for name in images}
    if len(kinds) > 1:
        some = ", ".join(one_line(name) for name in kinds.values())
        raise UserError(f"{one_line(where)} holds images of different kinds ({some}): keep one kind in a folder")
    return next(iter(kinds))


def told(facts: Sequence[Facts], channels: int, bits: int, *, every_page: bool, high: float | None) -> list[str]:
    """What is odd in how files are read: pages, depth, colours that are lost, a range that is hardly used."""
    notes = []
    if paged := [one for one in facts if one.pages > 1]:
        counts = Counter(one.pages for one in paged)
        several = " or ".join(str(count) for count in sorted(counts)[:4])
        how = "each is a record" if every_page else "the first is read; data.pages=all takes each as a record"
        notes.append(f"{many(len(paged), 'file')} of {several} pages or frames: {how}")
    deep = [one for one in facts if one.bits == 16]
    if bits == 8 and deep:
        keys = "data.bits=16 and data.channels=3 keep" if any(one.colour for one in deep) else "data.bits=16 keeps"
        notes.append(f"16 bits a channel in {len(deep):,} of {many(len(facts), 'file')}, read as 8: {keys} them")
    if bits == 16 and channels == 1 and (colour := sum(one.colour for one in facts)):
        notes.append(f"colour in {colour:,} of {many(len(facts), 'file')}, read as grey: data.channels=3 keeps it")
    if bits == 16 and (shallow := sum(one.bits == 8 for one in facts)):
        notes.append(f"8 bits a channel in {shallow:,} of {many(len(facts), 'file')}, multiplied by 257 for 16")
    grey = [one.high for one in deep if not one.colour]
    if grey and high is None and max(grey) <= HIGHEST["uint16"] / 2:
        most = next(2.0**k - 1 for k in range(1, 17) if 2**k - 1 >= max(grey))
        notes.append(
            f"16-bit values reach {max(grey):g} of 65535, so images are dark: --config.data.bits=16 "
            f"--config.data.high={most:g} uses the whole range"
        )
    if profiles := Counter(one.profile for one in facts if one.profile):
        names = ", ".join(one_line(name) for name, _ in profiles.most_common(3))
        notes.append(f"a colour profile ({names}) in {many(profiles.total(), 'file')}: colours are converted to sRGB")
    return notes

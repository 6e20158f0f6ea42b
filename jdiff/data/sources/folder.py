"""Folders of image files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdiff.common.errors import UserError
from jdiff.data import metadata
from jdiff.data.decode import decode, of_files
from jdiff.data.metadata import Columns, Entry
from jdiff.data.sources import Picture, counted
from jdiff.data.sources.files import (
    LeftOut,
    OnBadFile,
    Progress,
    folder_of,
    images_below,
    no_progress,
    one_line,
    others_below,
    refuse,
    share_of,
    split_folders,
    subfolders,
    try_all,
)


class Folder:
    """Images below the folder `root`, of any format, size and mode that Pillow reads.

        root/*.png                    no classes
        root/<class>/**/*.jpg         a class per sub-folder, sorted by name
        root/{train,test}/...         either layout with its own test images (or testing, val, valid, validation)

    Without a test folder, a fixed share of the images is held out. Symbolic links are followed, hidden files and
    folders skipped. A `metadata.jsonl` or `metadata.csv` in root, or one in each of train/ and test/, gives captions,
    labels and scalars (see jdiff.data.metadata).

    Records: "image" uint8 [h, w, channels], or with bits=16 uint16 [h, w, 1] (see jdiff.data.decode.to_array); "label",
    "text" and scalars if the data have them. The constructor decodes every file once, so that a damaged one is found
    before training.

    split: "train" or "test". holdout: the share held out if there is no test folder (none of fewer than 20 images).
    on_bad_file: "error" raises UserError with the first unreadable file, or the first mismatch of metadata and images;
    "skip" leaves them out, counts them in `notes` and lists them in `left_out`. labels: the metadata's column of a
    label or a list of labels; "": sub-folders are the classes. scalars: its columns of numbers. progress: wraps the
    iterable of files to show a bar. Raises UserError if no image is found or left.
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
        scalars: tuple[str, ...] = (),
        progress: Progress = no_progress,
    ):
        top = folder_of(root)
        train_dir, test_dir = split_folders(top)
        found, self.class_names, empty = _list(train_dir)
        if not found:
            raise UserError(
                f"no images below {train_dir}: it must hold files such as .png, .jpg or .webp, or sub-folders of them"
            )
        notes = [f"sub-folder {one_line(name)} of {train_dir} holds no images and is not a class" for name in empty]
        if split == "train":
            notes += filter(None, [others_below(train_dir, metadata.NAMES)])
        if test_dir and split == "test":
            notes = []
            found, test_classes, _ = _list(test_dir)
            unknown = sorted(set(test_classes) - set(self.class_names))
            if unknown and not labels:
                raise UserError(f"{test_dir} holds classes that {train_dir} does not: {one_line(', '.join(unknown))}")
        columns = Columns(labels, scalars)
        said, faults, other_file = _said([path for path, _ in found], split, top, train_dir, test_dir, columns)
        if other_file:
            notes.append(f"{other_file} holds no line with a 'text': no captions are read from it")
        refuse(faults, on_bad_file)
        left_out = [(one_line(train_dir if split == "train" else test_dir or top), fault) for fault in faults]
        if faults:
            bare = sum(path not in said for path, _ in found)
            found = [entry for entry in found if entry[0] in said]
            notes.append(
                f"skipped {bare} images without metadata and {len(faults) - bare} lines of metadata "
                f"(first: {faults[0]})"
            )
        self.labels_per_image = 1
        of_image: dict[Path, tuple[str, ...]] = {path: (name,) if name else () for path, name in found}
        if labels:
            of_image = {path: said[path].labels for path, _ in found}
            in_training = of_image
            if test_dir and split == "test":
                in_training = _training_labels(top, train_dir, test_dir, columns)
            self.class_names, self.labels_per_image = _classes(in_training)
            _check_labels(of_image, self.class_names, self.labels_per_image)
        if not test_dir:
            notes, left_out = (notes, left_out) if split == "train" else ([], [])  # of the same files: reported once
            found = [found[i] for i in share_of(len(found), split, holdout)]
        files = [path for path, _ in found]

        self.shape = (None, None, channels)
        self._channels, self._bits = channels, bits
        _, why_not = try_all(lambda i: decode(files[i], channels, bits).shape, len(files), progress)
        unreadable = [(one_line(files[i]), f"cannot be read: {why}") for i, why in why_not.items()]
        refuse([f"{file} {why}" for file, why in unreadable], on_bad_file)
        if unreadable:
            first = " ".join(unreadable[0])
            notes.append(
                f"skipped {len(unreadable)} unreadable of {len(files)} {split} images below {top} (first: {first})"
            )
            files = [file for i, file in enumerate(files) if i not in why_not]
        self.left_out: LeftOut = (*left_out, *unreadable)
        if not files and (split == "train" or unreadable):
            raise UserError(f"no usable image is left below {top}: {notes[-1]}")
        self.notes = tuple(notes)
        self._files = [str(file) for file in files]
        self._labels = [[self.class_names.index(name) for name in of_image[file]] for file in files]
        texts = [said[file].text for file in files] if said else []
        self.captions = tuple(text for text in texts if text is not None)
        self.scalar_names = tuple(scalars)
        self._scalars = [said[file].scalars for file in files] if scalars else []

    @property
    def names(self) -> tuple[str, ...]:
        """The file of each record."""
        return tuple(self._files)

    @property
    def pictures(self) -> dict[str, Picture]:
        return {"image": of_files(self.shape, self._bits)}

    def scalar_values(self, rows: np.ndarray) -> np.ndarray:
        """float64 [len(rows), k]."""
        return np.array(self._scalars, np.float64)[rows]

    @property
    def class_counts(self) -> tuple[int, ...]:
        return counted([label for several in self._labels for label in several], self.class_names)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            record: dict[str, Any] = {"image": decode(self._files[index], self._channels, self._bits)}
        except Exception as error:
            why = str(error) or type(error).__name__
            raise UserError(
                one_line(f"{self._files[index]} could be read at the start and cannot now: {why}")
            ) from error
        if self.class_names:
            record["label"] = self._label(index)
        if self.captions:
            record["text"] = self.captions[index]
        if self.scalar_names:
            record |= dict(zip(self.scalar_names, map(np.float32, self._scalars[index]), strict=True))
        return record

    def _label(self, index: int) -> Any:
        """The class number, or int32 [labels_per_image] padded with -1."""
        several = self._labels[index]
        if self.labels_per_image == 1:
            return several[0]
        return np.array(several + [-1] * (self.labels_per_image - len(several)), np.int32)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]


def _list(top: Path) -> tuple[list[tuple[Path, str]], tuple[str, ...], list[str]]:
    """(sorted (file, class name or "") of all images below `top`, class names, sub-folders without images)."""
    found = images_below(top)
    nested = [path for path in found if path.parent != top]
    if nested and len(nested) < len(found):
        loose = next(path for path in found if path.parent == top)
        raise UserError(
            f"{top} holds images both loose ({one_line(loose.name)}, ...) and in sub-folders "
            f"({one_line(nested[0].relative_to(top))}, ...): "
            "put each into the sub-folder of its class, or all into one folder"
        )
    classes = {path.relative_to(top).parts[0] for path in nested}
    empty = [path.name for path in subfolders(top) if nested and path.name not in classes]
    return [(path, path.relative_to(top).parts[0] if nested else "") for path in found], tuple(sorted(classes)), empty


def _said(
    images: list[Path], split: str, top: Path, train_dir: Path, test_dir: Path | None, columns: Columns
) -> tuple[dict[Path, Entry], list[str], Path | None]:
    """({image: its metadata}, faults, a file named like metadata that holds none) for the images of `split`."""

    def file_of(folder: Path) -> Path | None:
        return metadata.find(folder) or metadata.find(top)

    apart = test_dir if split == "test" else None
    file = file_of(apart or train_dir)
    shared = file and test_dir and file.parent == top  # it names the other split's images too
    others = [path for folder in (train_dir, test_dir) if shared and folder for path, _ in _list(folder)[0]]
    read = metadata.read(file, images, others, columns) if file else None
    if read:
        said, faults = read
        return said, [one_line(fault) for fault in faults], None
    if columns:
        named = ", ".join(filter(None, (columns.labels, *columns.scalars)))
        raise UserError(
            f"{apart or train_dir} has no {' or '.join(metadata.NAMES)}, which must have the columns {named}"
        )
    if apart:
        of_training = file_of(train_dir)
        if of_training and metadata.read(of_training, ()):
            raise UserError(f"{train_dir} has captions and {apart} has none: add {apart / of_training.name}")
    return {}, [], file


def _classes(of_image: dict[Path, tuple[str, ...]]) -> tuple[tuple[str, ...], int]:
    """(class names, the largest number of labels per image)."""
    names = tuple(sorted({label for labels in of_image.values() for label in labels}))
    counts = {len(labels) for labels in of_image.values()}
    return names, 1 if counts == {1} else max(2, *counts)  # a single number cannot say "no label"


def _check_labels(of_image: dict[Path, tuple[str, ...]], known: tuple[str, ...], most: int) -> None:
    """Raises UserError for test images with unknown labels, or with more labels than any training image."""
    for path, labels in of_image.items():
        if unknown := [label for label in labels if label not in known]:
            raise UserError(f"{one_line(path)} has the label {unknown[0]!r}, which no training image has")
        if len(labels) > most or (most == 1 and not labels):
            raise UserError(f"{one_line(path)} has {len(labels)} labels, and training images have at most {most}")


def _training_labels(top: Path, train_dir: Path, test_dir: Path, columns: Columns) -> dict[Path, tuple[str, ...]]:
    images = [path for path, _ in _list(train_dir)[0]]
    said = _said(images, "train", top, train_dir, test_dir, columns)[0]
    return {path: line.labels for path, line in said.items()}

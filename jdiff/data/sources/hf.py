"""Hugging Face's data sets."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from jdiff.common.errors import UserError, first_line, install
from jdiff.common.paths import expanded
from jdiff.common.words import many, one_line
from jdiff.data.cells import Cells, Numbers
from jdiff.data.columns import Fields, Training, fields_of, labels_of, texts_of, values_of
from jdiff.data.decode import Facts, Reader, of_files
from jdiff.data.holdout import check_groups
from jdiff.data.labels import ClassLabels
from jdiff.data.masks import MaskSummary, MaskValues, checked, fitted
from jdiff.data.resize import same_aspect
from jdiff.data.sides import CLASSES, NONE_KEPT, no_classes, sides_of, unused
from jdiff.data.sources import Picture, Shape
from jdiff.data.sources.files import LeftOut, OnBadFile, Progress, look_at_all, no_progress, refuse
from jdiff.data.sources.folder import told
from jdiff.data.sources.pairs import PictureReader
from jdiff.data.splits import choose
from jdiff.data.trees import Stamp


class HuggingFace:
    """A data set through the library `datasets` (extra `hf`). `name` is one of

        NAME, NAME:CONFIG     on huggingface.co, or in the cache of an earlier download
        PATH                  a folder of parquet files or of images (with metadata.jsonl), one .parquet file, or a
                              folder written by save_to_disk

    The notes begin with a line that says how it was read. Training images are the split "train"; held out is the first
    of test, testing, val, valid and validation that has what "train" has, with labels that are not hidden (all -1) and
    of its classes; else a fixed share of "train", of each class alike. A single split is trained on, by any name.

    The column "image" (or img, picture, pixels) holds the pictures: encoded, paths below the data set's folder, or
    whole numbers [h, w] or [h, w, c] (see jdiff.data.cells). The label is a ClassLabel, or what a column "label" or
    "labels" holds where its values recur (see jdiff.data.columns). Lists are several labels or captions of a picture.

    Records: "image" uint8 [h, w, channels], or with bits=16 uint16; other pictures by their columns' names; "label",
    "text" and scalars if the data have them. The constructor looks at every picture once, so that a damaged one is
    found before training, and remembers what it found (see jdiff.data.verdicts).

    split: "train" or "test". splits: names of the split to train on and of the one held out; (): found by their names.
    labels: the column of the label; "": as above; "none". scalars: columns of numbers. masks: picture columns that hold
    masks; mask_values, mask_snap: as in Pairs. group: a column; rows of one value are held out together. stratify:
    a column, or "class". holdout, kept, near, on_bad_file, progress: as in Folder; axis is of medical files alone.
    Raises UserError if the library or the data set is missing, and for unreadable rows.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        channels: int = 3,
        bits: int = 8,
        labels: str = "",
        scalars: tuple[str, ...] = (),
        masks: tuple[str, ...] = ("mask",),
        mask_values: tuple[int, ...] = (),
        mask_snap: bool = False,
        splits: tuple[str, ...] = (),
        group: str = "",
        stratify: str = "",
        kept: Mapping[str, str] = NONE_KEPT,
        holdout: float = 0.05,
        on_bad_file: OnBadFile = "error",
        axis: int = 2,
        near: int = 0,
        high: float | None = None,
        progress: Progress = no_progress,
    ):
        where, loaded = f"hf:{name}", _load(name)

        @cache
        def training(train: str) -> Training:
            columns = {"data.group": group, "data.stratify": "" if stratify == CLASSES else stratify}
            fields = fields_of(loaded[train], where, labels, scalars, masks, columns)
            return Training.of(train, loaded[train], fields, scalars, group)

        chosen = choose(list(loaded), splits, where, lambda train, test: training(train).why_not(loaded[test]))
        known = training(chosen.train)
        fields = known.fields
        called = chosen.test if chosen.test and split == "test" else chosen.train
        data = loaded[called]
        self._where = f"{where}, {called},"
        self.class_names, self.labels_per_image = known.classes, known.most
        given = labels_of(data, fields.label) if fields.label else []
        texts = texts_of(data, fields.text) if fields.text else []
        groups = values_of(data, group) if group else []
        numbers = {scalar: _numbers(data, scalar) for scalar in scalars}
        missing = {
            row: f"{self._named(row)} {fault}"
            for row in range(len(data))
            if (fault := _missing(row, fields, given, self.class_names, texts, group, groups, numbers))
        }
        rows, held = list(range(len(data))), ""
        whole = [row for row in rows if row not in missing]
        if not chosen.test:
            single = given if known.most == 1 else []
            if stratify == CLASSES and not single:
                raise UserError(no_classes(where))
            by = (
                values_of(data, stratify) if stratify not in ("", CLASSES) else [] if group and not stratify else single
            )
            strata = [str(by[row]) for row in whole] if by else []
            own_groups = [str(groups[row]) for row in whole] if groups else []
            ids = [f"{called}/{row}" for row in whole]
            sides = sides_of(ids, holdout, strata, own_groups, kept=kept, stratify=stratify)
            test, held = [whole[i] for i in sides.test], sides.told
            rows = test if split == "test" else sorted(set(rows) - set(test))
        elif group:
            other = chosen.train if split == "test" else chosen.test
            theirs = {
                f"{other}/{row}": str(value)
                for row, value in enumerate(values_of(loaded[other], group))
                if value not in (None, "")
            }
            ours = {f"{called}/{row}": str(groups[row]) for row in whole}
            check_groups(*((theirs, ours) if split == "test" else (ours, theirs)))
        notes = []
        if split == "train":
            unused_too = unused(stratify, chosen.test) if chosen.test else ()
            notes = [chosen.told(where, len(data), known.told, held), *unused_too, *fields.notes]

        readers = {
            field: _reader(column in fields.numbers, field in masks, channels, bits, near)
            for field, column in fields.pictures.items()
        }
        self._pictures = _Pictures.of(name, called, data, fields, readers)
        self._masks = {field: MaskValues(mask_values, mask_snap) for field in fields.pictures if field in masks}
        facts, why_not = self._pictures.look([row for row in rows if row not in missing], progress)
        faults = {row: missing[row] for row in rows if row in missing}
        faults |= {row: f"{self._named(row)} {why}" for row, why in why_not.items()}
        if self._masks and not mask_values:
            # A value must mean the same in both splits, so training masks decide, those held out of them too.
            own = called == chosen.train
            trained = self._pictures if own else _Pictures.of(name, chosen.train, loaded[chosen.train], fields, readers)
            seen, _ = trained.look(range(len(loaded[chosen.train])), no_progress, tuple(self._masks))
            self._masks = fitted(self._masks, _summaries(seen, tuple(self._masks)), where)
        strays, said = checked(
            self._masks,
            {row: _summary(facts, row, self._masks) for row in rows if row not in faults},
            lambda _, row: self._named(row),
        )
        faults |= strays
        bad = [one_line(faults[row]) for row in sorted(faults)]
        if bad and len(bad) == len(rows):
            raise UserError(f"no usable row is left: {bad[0]}")
        refuse(bad, on_bad_file)
        self.left_out: LeftOut = tuple((where, fault) for fault in bad)
        good = [row for row in rows if row not in faults]
        self._rows = np.array(good, np.int64)
        self.members = {f"{called}/{row}": str(groups[row]) if groups else "" for row in good}
        if split == "train":
            notes += _told_pictures(facts, good, self._masks, channels, bits, high)
            notes += _told_texts({row: texts[row] or "" for row in good} if texts else {}, where)
        notes += said
        if bad:
            notes.append(f"skipped {len(bad)} of {len(rows)} rows (first: {bad[0]})")
        self.notes = tuple(notes)
        own_labels = ((given[row] if given else None) or () for row in good)
        self._labels = ClassLabels.of(own_labels, self.class_names, self.labels_per_image)
        self.captions = tuple(texts[row] or "" for row in good) if texts else ()
        self.scalar_names = tuple(scalars)
        self._scalars = {scalar: values[self._rows] for scalar, values in numbers.items()}
        sizes = {field: [(own[row].height, own[row].width) for row in good] for field, own in facts.items()}
        self.sizes = np.array(sizes["image"], np.int32).reshape(-1, 2)
        self.pictures = {field: self._picture(field, set(own), channels, bits) for field, own in sizes.items()}

    @property
    def shape(self) -> Shape:
        return self.pictures["image"].shape

    def scalar_values(self, rows: np.ndarray) -> np.ndarray:
        """float64 [len(rows), k]."""
        return np.stack([np.asarray(self._scalars[name], np.float64)[rows] for name in self.scalar_names], axis=1)

    @property
    def class_counts(self) -> tuple[int, ...]:
        return self._labels.counts(len(self.class_names))

    def labels(self) -> np.ndarray:
        """int32 [n], or [n, labels_per_image] padded with -1; -1 without classes."""
        return self._labels.array()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self._rows[index])
        try:
            record: dict[str, Any] = {field: self._pictures.read(field, row) for field in self.pictures}
        except Exception as error:
            why = str(error) or type(error).__name__
            raise UserError(one_line(f"{self._named(row)} could be read at the start and cannot now: {why}")) from error
        for name, allowed in self._masks.items():
            record[name] = allowed(record[name])
        if self.class_names:
            record["label"] = self._labels[index]
        if self.captions:
            record["text"] = self.captions[index]
        for name, values in self._scalars.items():
            record[name] = values[index]
        return record

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]

    def _named(self, row: int) -> str:
        return f"{self._where} row {row}"

    def _picture(self, field: str, sizes: set[tuple[int, int]], channels: int, bits: int) -> Picture:
        height, width = sizes.pop() if len(sizes) == 1 and not self._pictures.drafted(field) else (None, None)
        if field in self._masks:
            return self._masks[field].picture(height, width)
        return of_files((height, width, channels), bits)


@dataclass(frozen=True)
class _Pictures:
    """The picture columns of a split, by their names in records: cells, and how they are read."""

    cells: dict[str, Cells]
    readers: dict[str, PictureReader | Numbers]

    @classmethod
    def of(
        cls, name: str, split: str, data: Any, fields: Fields, readers: dict[str, PictureReader | Numbers]
    ) -> "_Pictures":
        """Of a split of the data set `name`."""
        import datasets

        path = expanded(name)
        place = os.path.realpath(path) if path.exists() else name
        folder = "" if not path.exists() else place if path.is_dir() else os.path.dirname(place)
        files = [os.stat(file["filename"]) for file in data.cache_files]
        stored = Stamp(sum(file.st_size for file in files), max((file.st_mtime_ns for file in files), default=0))
        cells = {}
        for field, column in fields.pictures.items():
            own = data.select_columns([column])
            if isinstance(own.features[column], datasets.Image):
                own = own.cast_column(column, datasets.Image(decode=False))
            cells[field] = Cells(f"hf://{place}/{split}/{column}", own.with_format("arrow"), column, folder, stored)
        return cls(cells, readers)

    def read(self, field: str, row: int) -> np.ndarray:
        """The picture [h, w, c]. Raises what its reader raises."""
        reader, cells = self.readers[field], self.cells[field]
        if isinstance(reader, Numbers):
            return reader(cells.numbers(str(row)))
        with cells.open(str(row)) as stream:
            return reader(stream)

    def drafted(self, field: str) -> bool:
        """Whether its files may be decoded at a fraction of their size."""
        reader = self.readers[field]
        return isinstance(reader, PictureReader) and not reader.mask and bool(reader.reader.near)

    def look(
        self, rows: Iterable[int], progress: Progress, fields: Sequence[str] = ()
    ) -> tuple[dict[str, dict[int, Facts]], dict[int, str]]:
        """(field -> row -> facts, row -> its fault, of the rows that cannot be read or whose pictures do not match)."""
        names = list(map(str, rows))
        facts: dict[str, dict[int, Facts]] = {}
        faults: dict[int, str] = {}
        for field in fields or self.cells:
            found, bad = look_at_all(
                self.cells[field],
                names,
                self._look(field),
                kind=self.readers[field].finds,
                finding=Facts,
                progress=progress,
            )
            facts[field] = {int(name): one for name, one in found.items()}
            what = "" if field == "image" else f"{field!r} "
            faults = {int(name): f"{what}cannot be read: {why}" for name, why in bad.items()} | faults
            for row, one in facts[field].items():
                image = facts.get("image", {}).get(row, one)
                if not same_aspect((image.height, image.width), (one.height, one.width)):
                    faults.setdefault(row, f"has an 'image' and a {field!r} that differ in aspect ratio")
        return facts, faults

    def _look(self, field: str) -> Any:
        reader, cells = self.readers[field], self.cells[field]

        def look(name: str) -> Facts:
            if isinstance(reader, Numbers):
                return reader.look(cells.numbers(name))
            with cells.open(name) as stream:
                return reader.look(stream)

        return look


def _reader(numbers: bool, mask: bool, channels: int, bits: int, near: int) -> PictureReader | Numbers:
    if numbers:
        return Numbers(channels, bits, mask)
    return PictureReader(Reader(channels, bits, 0 if mask else near), mask)


def _summary(facts: Mapping[str, Mapping[int, Facts]], row: int, masks: Iterable[str]) -> tuple[MaskSummary, ...]:
    """Of a row's masks."""
    own = [facts[name][row] for name in masks]
    return tuple(MaskSummary(frozenset(one.values), one.binary) for one in own)


def _summaries(facts: Mapping[str, Mapping[int, Facts]], masks: Sequence[str]) -> list[tuple[MaskSummary, ...]]:
    """Of the rows whose masks could all be read."""
    rows = set.intersection(*(set(facts[name]) for name in masks))
    return [_summary(facts, row, masks) for row in sorted(rows)]


def _missing(
    row: int,
    fields: Fields,
    labels: Sequence[tuple[str, ...] | None],
    classes: Sequence[str],
    texts: Sequence[str | None],
    group: str,
    groups: Sequence[Any],
    numbers: Mapping[str, np.ndarray],
) -> str:
    """What a row lacks; "" if nothing."""
    if labels and labels[row] is None:
        return f"has no {fields.label!r}"
    if labels and (unknown := set(labels[row] or ()) - set(classes)):
        return f"has the {fields.label!r} {min(unknown)!r}, which is none of the {len(classes)} classes"
    if texts and texts[row] is None:
        return f"has no {fields.text!r}"
    if groups and groups[row] in (None, ""):
        return f"has no {group!r}"
    for scalar, values in numbers.items():
        if not np.isfinite(values[row]):
            return f"has no {scalar!r}, or one that is not a finite number"
    return ""


def _told_pictures(
    facts: Mapping[str, Mapping[int, Facts]],
    rows: Sequence[int],
    masks: Iterable[str],
    channels: int,
    bits: int,
    high: float | None,
) -> list[str]:
    """What is odd in how pictures are read."""
    every = [own[row] for own in facts.values() for row in rows]
    notes = []
    if paged := [one.pages for one in every if one.pages > 1]:
        several = " or ".join(map(str, sorted(Counter(paged))[:4]))
        notes.append(f"{many(len(paged), 'image')} of {several} frames: the first is read")
    seen = [replace(own[row], pages=1) for name, own in facts.items() if name not in masks for row in rows]
    return notes + told(seen, channels, bits, every_page=False, high=high)


def _told_texts(texts: Mapping[int, str], where: str) -> list[str]:
    notes = []
    if several := sum("\n" in text for text in texts.values()):
        notes.append(f"{where}: {many(several, 'image')} with several captions, of which each epoch draws one")
    if empty := [row for row, text in texts.items() if not text.strip()]:
        notes.append(f"{where}: {many(len(empty), 'image')} with an empty caption (first: row {empty[0]})")
    return notes


def _load(name: str) -> dict[str, Any]:
    """split -> data set."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"data.name='hf:...' needs the library datasets: {install('hf')}") from error
    path = expanded(name)
    if not path.exists() and name.startswith(("/", ".", "~")):
        raise UserError(f"{name} does not exist: give a folder, a .parquet file or a name on huggingface.co")
    try:
        if path.is_file():
            kind = "parquet" if path.suffix == ".parquet" else path.suffix[1:]
            loaded = datasets.load_dataset(kind, data_files=str(path))
        elif (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            loaded = datasets.load_from_disk(str(path))
        elif path.exists():
            loaded = datasets.load_dataset(str(path))
        else:
            repository, _, config = name.partition(":")
            loaded = datasets.load_dataset(repository, config or None)
    except Exception as error:  # from the library, the network or any file format
        why = first_line(error.__cause__ or error)
        advice = (
            "" if path.exists() else "; check its name on huggingface.co, the network, and `hf auth login` if private"
        )
        raise UserError(f"the Hugging Face data set {name!r} cannot be loaded: {why}{advice}") from error
    splits = {"train": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    return {split: _with_images(data) for split, data in splits.items()}


def _with_images(data: Any) -> Any:
    """`data` with columns of bytes, or of bytes and a path, cast to Image: a plain parquet file has no such type."""
    import datasets

    for column, feature in data.features.items():
        stored = feature if isinstance(feature, dict) else {}
        if getattr(feature, "dtype", "") in ("binary", "large_binary") or set(stored) == {"bytes", "path"}:
            data = data.cast_column(column, datasets.Image())
    return data


def _numbers(data: Any, column: str) -> np.ndarray:
    """float32 [n], NaN for a missing number."""
    values = values_of(data, column)
    return np.array([value if isinstance(value, (int, float)) else np.nan for value in values], np.float32)

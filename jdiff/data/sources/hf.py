"""Hugging Face's data sets."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from jdiff.common.errors import UserError, first_line, install
from jdiff.common.paths import expanded
from jdiff.data.decode import load, of_files, to_array
from jdiff.data.masks import MaskSummary, MaskValues, checked, fitted, to_mask
from jdiff.data.resize import same_aspect
from jdiff.data.sources import Picture, Shape, counted
from jdiff.data.sources.files import (
    TEST_NAMES,
    LeftOut,
    OnBadFile,
    Progress,
    interned,
    no_progress,
    one_line,
    refuse,
    share_of,
    try_all,
)

IMAGES = ("image", "img")
TEXTS = ("text", "caption")
STRINGS = ("string", "large_string")


class HuggingFace:
    """A data set through the library `datasets` (extra `hf`). `name` is one of

        NAME, NAME:CONFIG     on huggingface.co, or in the cache of an earlier download
        PATH                  a folder of parquet files or of images (with metadata.jsonl), one .parquet file, or a
                              folder written by save_to_disk

    Test images are the split "test" ("validation" if it is missing), else a fixed share of "train". Columns of kind
    Image are pictures, a ClassLabel is the label, a string column "text" or "caption" is the caption.

    Records: "image" uint8 [h, w, channels], or with bits=16 uint16 [h, w, 1]; other pictures by their columns' names;
    "label", "text" and scalars if the data have them. The constructor decodes every picture once, so that a damaged one
    is found before training.

    split: "train" or "test". labels: the column of the label, a ClassLabel or strings or whole
    numbers; "": "label", or the only ClassLabel. scalars: columns of
    numbers. masks: picture columns that hold masks; mask_values, mask_snap: as in Pairs. holdout, on_bad_file,
    progress: as in Folder. Raises UserError if the library or the data set is missing, and for unreadable rows.
    """

    labels_per_image = 1

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
        holdout: float = 0.05,
        on_bad_file: OnBadFile = "error",
        progress: Progress = no_progress,
    ):
        splits = _load(name)
        if labels and "train" in splits:
            splits = _with_classes(splits, labels)
        if "train" not in splits:
            raise UserError(f"hf:{name} has no split 'train'; it has {', '.join(splits)}")
        own_test = next((test for test in TEST_NAMES if test in splits), None)
        called = own_test if own_test and split == "test" else "train"
        self._where = f"hf:{name}, {called},"
        self._channels, self._bits = channels, bits
        fields = _fields(splits[called].features, name, labels, scalars)
        self._columns = fields.pictures
        self.class_names = _class_names(splits["train"], fields.label)
        if self.class_names != _class_names(splits[called], fields.label):
            raise UserError(f"{self._where} has other classes than train: {', '.join(self.class_names)}")
        self._masks = {field: MaskValues(mask_values, mask_snap) for field in fields.pictures if field in masks}
        data = splits[called]
        rows = list(range(len(data))) if own_test else share_of(len(data), split, holdout)
        self._data = _undecoded(data, fields.pictures.values())

        found, why_not = try_all(lambda i: self._found(rows[i]), len(rows), progress)
        faults = {i: f"{self._named(rows[i])} cannot be read: {why}" for i, why in why_not.items()}
        notes = list(fields.notes) if split == "train" else []
        if self._masks and not mask_values:
            # A value must mean the same in both splits, so training masks decide.
            training = _undecoded(splits["train"], [fields.pictures[field] for field in self._masks])
            own = called == "train"
            rest = sorted(set(range(len(training))) - set(rows if own else ()))
            others, _ = try_all(lambda i: self._seen(training[rest[i]]), len(rest), no_progress)
            known = [*others.values(), *(masks for _, masks in found.values() if own)]
            self._masks = fitted(self._masks, known, f"hf:{name}")
        strays, said = checked(
            self._masks, {i: seen for i, (_, seen) in found.items()}, lambda _, i: self._named(rows[i])
        )
        faults |= strays
        notes += said
        numbers = {scalar: _numbers(data, scalar) for scalar in scalars}
        classes = _classes(data, fields.label)
        texts = data[fields.text][:] if fields.text else []
        for i, row in enumerate(rows):
            if classes is not None and classes[row] < 0:
                faults.setdefault(i, f"{self._named(row)} has no {fields.label!r}")
            if fields.text and not isinstance(texts[row], str):
                faults.setdefault(i, f"{self._named(row)} has no {fields.text!r}")
            for scalar, given in numbers.items():
                if not np.isfinite(given[row]):
                    faults.setdefault(i, f"{self._named(row)} has no {scalar!r}, or one that is not a finite number")
        bad = [faults[i] for i in sorted(faults)]
        refuse(bad, on_bad_file)
        if bad:
            notes.append(f"skipped {len(bad)} of {len(rows)} rows (first: {bad[0]})")
            if len(bad) == len(rows):
                raise UserError(f"no usable row is left in hf:{name}, {called} (first: {bad[0]})")
        self.left_out: LeftOut = tuple((f"hf:{name}", one_line(fault)) for fault in bad)
        good = [i for i in range(len(rows)) if i not in faults]
        self._rows = np.array([rows[i] for i in good], np.int64)
        self._labels = None if classes is None else classes[self._rows]
        self.captions = tuple(texts[row] for row in self._rows) if fields.text else ()
        self.scalar_names = tuple(scalars)
        self._scalars = {scalar: values[self._rows] for scalar, values in numbers.items()}
        sizes = [{found[i][0][k][:2] for i in good} for k in range(len(fields.pictures))]
        self.pictures = {field: self._picture(field, size) for field, size in zip(fields.pictures, sizes, strict=True)}
        self.notes = tuple(notes)

    @property
    def shape(self) -> Shape:
        return self.pictures["image"].shape

    def scalar_values(self, rows: np.ndarray) -> np.ndarray:
        """float64 [len(rows), k]."""
        return np.stack([np.asarray(self._scalars[name], np.float64)[rows] for name in self.scalar_names], axis=1)

    @property
    def class_counts(self) -> tuple[int, ...]:
        return () if self._labels is None else counted(self._labels, self.class_names)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = [int(self._rows[index]) for index in indices]
        stored = self._data.__getitems__(rows)
        return [self._record(*each) for each in zip(indices, rows, stored, strict=True)]

    def _record(self, index: int, row: int, stored: dict[str, Any]) -> dict[str, Any]:
        try:
            record: dict[str, Any] = self._read(stored, self._columns)
        except Exception as error:
            raise UserError(f"{self._named(row)} could be read at the start and cannot now: {error}") from error
        for name, allowed in self._masks.items():
            record[name] = allowed(record[name])
        if self._labels is not None:
            record["label"] = int(self._labels[index])
        if self.captions:
            record["text"] = self.captions[index]
        for name, values in self._scalars.items():
            record[name] = values[index]
        return record

    def _named(self, row: int) -> str:
        return f"{self._where} row {row}"

    def _picture(self, field: str, sizes: set[tuple[int, ...]]) -> Picture:
        height, width = sizes.pop() if len(sizes) == 1 else (None, None)
        if field in self._masks:
            return Picture((height, width, 1), kind="mask", high=self._masks[field].high)
        return of_files((height, width, self._channels), self._bits)

    def _read(self, stored: dict[str, Any], fields: Iterable[str]) -> dict[str, np.ndarray]:
        pictures = {}
        for field in fields:
            image = _open(stored[self._columns[field]])
            pictures[field] = to_mask(image) if field in self._masks else to_array(image, self._channels, self._bits)
        return pictures

    def _seen(self, stored: dict[str, Any]) -> tuple[MaskSummary, ...]:
        return tuple(MaskSummary.of(mask) for mask in self._read(stored, self._masks).values())

    def _found(self, row: int) -> tuple[tuple[tuple[int, ...], ...], tuple[MaskSummary, ...]]:
        """(shapes of all pictures, summaries of the masks)."""
        record = self._read(self._data[row], self._columns)
        for field, picture in record.items():
            if not same_aspect(record["image"].shape[:2], picture.shape[:2]):
                raise ValueError(f"'image' and {field!r} differ in aspect ratio")
        shapes = tuple(picture.shape for picture in record.values())
        return interned((shapes, tuple(MaskSummary.of(record[name]) for name in self._masks)))


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


def _with_classes(splits: dict[str, Any], column: str) -> dict[str, Any]:
    """The splits with `column`, of strings or whole numbers, as a ClassLabel of its values in training, sorted."""
    import datasets

    feature = splits["train"].features.get(column)
    kind = getattr(feature, "dtype", "")
    if isinstance(feature, datasets.ClassLabel) or not (kind in STRINGS or "int" in kind):
        return splits
    values = sorted(value for value in splits["train"].unique(column) if value is not None)
    classes = datasets.ClassLabel(names=[str(value) for value in values])
    cast = {}
    for split, data in splits.items():
        if column in data.features:
            data = data.cast_column(column, datasets.Value("string"))
            if unknown := set(data.unique(column)) - {*classes.names, None}:
                raise UserError(f"{split}: data.labels={column!r} holds {min(unknown)!r}, which no training row has")
            data = data.cast_column(column, classes)
        cast[split] = data
    return cast


@dataclass(frozen=True)
class _Fields:
    """The columns of each kind. pictures: name in records -> column."""

    pictures: dict[str, str]
    label: str
    text: str
    notes: tuple[str, ...]


def _fields(features: Any, name: str, labels: str, scalars: tuple[str, ...]) -> _Fields:
    import datasets

    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    main = next((column for column in IMAGES if column in images), images[0] if len(images) == 1 else None)
    columns = ", ".join(features)
    if main is None:
        raise UserError(f"hf:{name} has no column 'image' of pictures; it has {columns}")
    classes = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if labels and labels not in classes:
        whole = [column for column, feature in features.items() if "int" in getattr(feature, "dtype", "")]
        known = ", ".join([*classes, *(column for column in whole if column not in classes)])
        raise UserError(f"data.labels={labels!r}: hf:{name} has the labels {known or 'none'}")
    if missing := [scalar for scalar in scalars if scalar not in features]:
        raise UserError(f"hf:{name} has no column {missing[0]!r}; it has {columns}")
    label = labels or next((column for column in classes if column == "label" or len(classes) == 1), "")
    notes = []
    if classes and not label:
        notes.append(f"hf:{name} has several labels, and none is read: choose with data.labels, {' or '.join(classes)}")
    if not classes and not labels and "label" in features:
        notes.append(
            f"hf:{name} has a column 'label' that is not a ClassLabel, so no label is read: set data.labels=label "
            "to take its values as classes"
        )
    strings = [column for column, feature in features.items() if getattr(feature, "dtype", "") in STRINGS]
    text = next((column for column in TEXTS if column in strings), "")
    taken = {"label": label, "text": text, "image": main}
    pictures = {"image": main} | {column: column for column in images if column != main and not taken.get(column)}
    return _Fields(pictures, label, text, tuple(notes))


def _undecoded(data: Any, columns: Iterable[str]) -> Any:
    """`data` with `columns` alone, whose pictures stay encoded as bytes or paths."""
    import datasets

    data = data.select_columns(list(columns))
    for column in columns:
        data = data.cast_column(column, datasets.Image(decode=False))
    return data


def _open(stored: dict[str, Any] | None) -> Image.Image:
    if not stored or not (stored["bytes"] or stored["path"]):
        raise ValueError("there is no picture")
    return load(io.BytesIO(stored["bytes"]) if stored["bytes"] else stored["path"])


def _classes(data: Any, column: str) -> np.ndarray | None:
    """Class numbers int32 [n], -1 for a missing label; None without a column."""
    if not column:
        return None
    return np.array([-1 if value is None else value for value in data[column][:]], np.int32)


def _class_names(data: Any, column: str) -> tuple[str, ...]:
    return tuple(getattr(data.features.get(column), "names", ()))


def _numbers(data: Any, column: str) -> np.ndarray:
    """float32 [n], NaN for a missing number."""
    values = data[column][:]
    return np.array([value if isinstance(value, (int, float)) else np.nan for value in values], np.float32)

"""The columns of a `datasets` table: which hold pictures, classes and captions, and what they say of each row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jdiff.common.errors import UserError, first_line
from jdiff.common.names import nearest
from jdiff.common.words import listed, many, one_line
from jdiff.data import layout
from jdiff.data.labels import HIDDEN, NO_LABELS, most_labels
from jdiff.data.metadata import one_caption

IMAGES = ("image", "img", "picture", "pixels")  # in any case, as are the others
LABELS = ("label", "labels")
TEXTS = ("text", "caption", "captions", "prompt")
STRINGS = ("string", "large_string")
MOST_CLASSES = 1000  # a plain column of more values is taken for classes where it is named
FEWEST_OF_A_CLASS = 2  # rows on average, likewise

Labels = list[tuple[str, ...] | None]  # the classes of each row; None: missing


@dataclass(frozen=True)
class Fields:
    """The columns of each kind. pictures: name in records -> column. numbers: those columns that hold arrays. label,
    text: "" without.
    """

    pictures: dict[str, str]
    numbers: frozenset[str]
    label: str
    text: str
    notes: tuple[str, ...]


def fields_of(
    data: Any, where: str, labels: str, scalars: Sequence[str], masks: Sequence[str], named: Mapping[str, str]
) -> Fields:
    """The columns of a split. labels: the label's column, "" for the one that looks like it, or "none". masks: names of
    pictures that are masks. named: key -> the column that it names, "" for none. Raises UserError for a column
    that is not there, or not of its kind.
    """
    features = data.features
    there = one_line(", ".join(features))
    images = [column for column, feature in features.items() if _is_image(feature)]
    arrays = [column for column, feature in features.items() if _is_numbers(feature)]
    paths = [column for column, feature in features.items() if _dtype(feature) in STRINGS]
    known = (_named(columns, IMAGES) for columns in (images, arrays, paths))
    main = next(filter(None, known), images[0] if len(images) == 1 else "")
    if not main:
        raise UserError(f"{where} has no column 'image' of pictures; it has {there}")
    for column, key in (*((name, "") for name in scalars), *((name, key) for key, name in named.items() if name)):
        if column not in features:
            said, near = f" ({key})" if key else "", nearest(column, list(features))
            raise UserError(f"{where} has no column {column!r}{said}; it has {there}{near}")
    label, notes = _label(data, where, labels)
    text = _named([column for column, feature in features.items() if _dtype(_item(feature)) in STRINGS], TEXTS)
    if text and not any(texts_of(data, text)):
        notes.append(f"{where}: all values of {text!r} are missing or empty, so no caption is read")
        text = ""
    taken = {"label": label, "text": text, "image": main}
    others = [*images, *(column for column in (*arrays, *paths) if column in masks)]
    pictures = {"image": main} | {column: column for column in others if column != main and not taken.get(column)}
    return Fields(pictures, frozenset(arrays), label, text, tuple(notes))


def _named(columns: Sequence[str], names: Sequence[str]) -> str:
    """The first column of these names: exactly, then in any case; "" if there is none."""
    low = {column.lower(): column for column in reversed(columns)}
    exact = (name for name in names if name in columns)
    return next(exact, next((low[name] for name in names if name in low), ""))


def _item(feature: Any) -> Any:
    """Of a list, what its items are; else the feature."""
    inner = getattr(feature, "feature", None)
    return inner if inner is not None and not isinstance(inner, dict) else feature


def _dtype(feature: Any) -> str:
    return getattr(feature, "dtype", "")


def _is_image(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Image)


def _is_numbers(feature: Any) -> bool:
    """Whether a feature is an array, or lists of numbers."""
    import datasets

    if isinstance(feature, (datasets.Array2D, datasets.Array3D)):
        return True
    inner = feature
    while (deeper := _item(inner)) is not inner:
        inner = deeper
    numbers = isinstance(inner, datasets.Value) and any(kind in inner.dtype for kind in ("int", "float", "bool"))
    return numbers and inner is not feature


def _is_class(feature: Any) -> bool:
    """Whether a feature is a ClassLabel, or a list of them."""
    import datasets

    return isinstance(_item(feature), datasets.ClassLabel)


def _is_label(feature: Any) -> bool:
    """Whether a feature can be a class: a ClassLabel, a whole number, a string or a truth value, or a list of these."""
    import datasets

    inner = _item(feature)
    plain = isinstance(inner, datasets.Value) and ("int" in inner.dtype or inner.dtype in (*STRINGS, "bool"))
    return plain or _is_class(feature)


def _label(data: Any, where: str, labels: str) -> tuple[str, list[str]]:
    """(the column of the label or "", notes)."""
    features = data.features
    known = [column for column, feature in features.items() if _is_label(feature)]
    if labels in features and labels not in known:
        kind = getattr(features[labels], "dtype", type(features[labels]).__name__)
        raise UserError(
            f"data.labels={labels!r}: this column of {where} holds {kind}, and labels are whole numbers, strings, "
            "truth values or lists of these"
        )
    if labels and labels not in (NO_LABELS, *known):
        there = one_line(", ".join(sorted(known, key=lambda column: not _is_class(features[column])))) or "none"
        raise UserError(f"data.labels={labels!r}: {where} has the labels {there}{nearest(labels, known)}")
    column, notes = (labels, []) if labels else _found_label(data, where, known)
    if column in ("", NO_LABELS) or any(labels_of(data, column)):
        return ("" if column == NO_LABELS else column), notes
    if labels:
        raise UserError(
            f"data.labels={labels!r}: all labels in {where} are missing or {HIDDEN}; data.labels={NO_LABELS} reads none"
        )
    return "", [f"{where}: all values of {column!r} are missing or {HIDDEN}, so no label is read"]


def _found_label(data: Any, where: str, known: Sequence[str]) -> tuple[str, list[str]]:
    """(the column that looks like the label or "", notes). known: columns that can be classes."""
    classes = [column for column in known if _is_class(data.features[column])]
    if found := _named(classes, LABELS) or (classes[0] if len(classes) == 1 else ""):
        return found, []
    if plain := _named(known, LABELS):
        named = [name for several in labels_of(data, plain) for name in several or ()]
        values = many(len(set(named)), "value")
        if len(set(named)) <= min(MOST_CLASSES, len(named) / FEWEST_OF_A_CLASS):
            return plain, [
                f"{where}: the {values} of the column {plain!r}, which is no ClassLabel, are taken as classes; "
                f"data.labels={NO_LABELS} reads none"
            ]
        return "", [
            f"{where}: the column {plain!r} holds {values} in {many(len(data), 'row')}, too many to be classes, so no "
            f"label is read; data.labels={plain} takes them all the same"
        ]
    if classes:
        several = " or ".join(classes)
        return "", [f"{where} has several labels, and none is read: choose with data.labels, {several}"]
    return "", []


def labels_of(data: Any, column: str) -> Labels:
    """The classes of each row by name. A single label that is missing, empty or -1 is None; a list lacks such items."""
    feature = data.features[column]
    names = getattr(_item(feature), "names", None)

    def name_of(value: Any) -> str:
        if value is None or value == "" or (value == HIDDEN and not isinstance(value, str)):
            return ""
        return names[value] if names is not None and 0 <= value < len(names) else str(value)

    values = values_of(data, column)
    if _item(feature) is not feature:
        lists = [None if several is None else dict.fromkeys(map(name_of, several)) for several in values]
        return [None if several is None else tuple(filter(None, several)) for several in lists]
    alone: dict[str, tuple[str, ...]] = {}  # one object for equal labels: a million rows have few
    return [alone.setdefault(name, (name,)) if (name := name_of(value)) else None for value in values]


def classes_of(feature: Any, labels: Labels) -> tuple[str, ...]:
    """The names of the classes: those of a ClassLabel, else those of the rows, whole numbers by value."""
    inner = _item(feature)
    if (names := getattr(inner, "names", None)) is not None:
        return tuple(names)
    found = {name for several in labels for name in several or ()}
    return tuple(sorted(found, key=int)) if "int" in _dtype(inner) else layout.in_order(found)


def _given(labels: Labels) -> list[tuple[str, ...]]:
    """The classes of the rows that are not missing."""
    return [several for several in labels if several is not None]


def texts_of(data: Any, column: str) -> list[str | None]:
    """The captions of each row, one a line; None where there is none."""
    return [_caption(value) for value in values_of(data, column)]


def _caption(value: Any) -> str | None:
    if isinstance(value, list):
        several = [one_caption(text) for text in value if text is not None]
        return "\n".join(several) if several else None
    return None if value is None else one_caption(value)


def values_of(data: Any, column: str) -> list[Any]:
    """A column's values. Raises UserError if they cannot be read."""
    try:
        return data.with_format(None)[column][:]
    except Exception as error:  # of arrow or of a text's encoding, without a common base class
        raise UserError(f"the column {column!r} cannot be read: {first_line(error)}") from error


@dataclass(frozen=True)
class Training:
    """What the split that is trained on has, which a held-out one must have too.

    classes: their names. most: labels of a row. needed: its columns that are read.
    """

    name: str
    fields: Fields
    classes: tuple[str, ...]
    most: int
    needed: tuple[str, ...]

    @classmethod
    def of(cls, name: str, data: Any, fields: Fields, scalars: Sequence[str], group: str) -> "Training":
        """Of a split and its columns. group: one more, "" for none."""
        labels = labels_of(data, fields.label) if fields.label else []
        classes = classes_of(data.features[fields.label], labels) if fields.label else ()
        read = (*fields.pictures.values(), fields.label, fields.text, group, *scalars)
        return cls(name, fields, classes, most_labels(_given(labels)), tuple(filter(None, read)))

    def why_not(self, data: Any) -> str:
        """What keeps another split from being held out; "" if nothing does."""
        if missing := [column for column in self.needed if column not in data.features]:
            return f"no column {missing[0]!r}"
        if self.fields.label:
            labels = labels_of(data, self.fields.label)
            if not any(labels):
                return "hidden labels"
            if unknown := sorted({name for several in labels for name in several or ()} - set(self.classes)):
                return f"classes that {self.name} lacks: {listed(unknown)}"
            if (most := most_labels(_given(labels))) > self.most:
                return f"images of {most} labels, where {self.name} has at most {self.most}"
        if self.fields.text and not any(texts_of(data, self.fields.text)):
            return "no captions"
        return ""

    @property
    def told(self) -> str:
        """Its classes and captions, in words."""
        classes = f"{many(len(self.classes), 'class', 'classes')} from {self.fields.label!r}" if self.classes else ""
        return (classes or "no classes") + (f", captions from {self.fields.text!r}" if self.fields.text else "")

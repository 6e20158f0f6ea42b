"""The splits of a tree of images, and what names, folders and files beside them say of each image: its class, its
captions, its numbers.
"""

import json
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from jdiff.common.errors import UserError
from jdiff.common.words import listed, many, one_line
from jdiff.data import layout, metadata, sidecars
from jdiff.data.labels import HIDDEN, NO_LABELS, OF_FOLDERS, most_labels
from jdiff.data.metadata import Columns, Entry, Metadata
from jdiff.data.trees import Tree, called, read_bytes

DATASET = "dataset.json"  # of EDM's and StyleGAN's data sets

NOTHING = Columns()

OF_MASKS = ("mask", "label", "annot", "seg", "gt", "ground")  # in the names of folders

Labels = dict[str, tuple[str, ...]]  # image -> its classes


@dataclass(frozen=True)
class Wanted:
    """What is asked of a tree's images.

    labels: "": what the data say; "folders": the first folder; "none"; else a column of the metadata. label_pattern: a
    regular expression whose group, in a file's name, is the class. columns: of the metadata. group: a column, or a
    regular expression with a group, that says what belongs together. splits: names of the training folder and of the
    one held out; (): found by their names. medical: sub-folders are patients and series, and no classes.
    """

    labels: str = ""
    label_pattern: str = ""
    columns: Columns = NOTHING
    group: str = ""
    splits: tuple[str, ...] = ()
    medical: bool = False


@dataclass(frozen=True)
class Part:
    """The images of one split.

    folder: its name in the tree. labels: image -> classes; {} without. label_source: what the labels are read from.
    entries: what metadata and files beside images say, if these are described. faults: of lines and images that do not
    fit.
    """

    folder: str
    images: tuple[str, ...]
    labels: Labels = field(default_factory=dict)
    label_source: str = ""
    entries: Mapping[str, Entry] = field(default_factory=dict)
    described: bool = False
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> list[str]:
        """The images that have all that is read of them."""
        wanted = ([self.entries] if self.described else []) + ([self.labels] if self.labels else [])
        return [name for name in self.images if all(name in known for known in wanted)]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes."""
        return layout.in_order(name for several in self.labels.values() for name in several)

    @property
    def most_labels(self) -> int:
        """1, or the largest number of labels of an image: see jdiff.data.labels.most_labels."""
        return most_labels(self.labels.values())

    @property
    def has_texts(self) -> bool:
        """Whether images have captions."""
        return any(entry.text is not None for entry in self.entries.values())


@dataclass(frozen=True)
class Parts:
    """train, and the part held out (None: a share of train is). where: the folder that holds them. folder: that of
    training, "" for all. unused: other folders, and why.
    """

    train: Part
    test: Part | None
    where: str
    folder: str
    unused: tuple[str, ...]

    def told(self, held: str) -> str:
        """How the tree was read, in one line. held: how many images of `train` are held out, where no part is."""
        train = self.train
        classes = "no classes"
        if train.labels:
            classes = f"{many(len(train.classes), 'class', 'classes')} from {train.label_source}"
        where = f"{self.folder}/: " if self.folder else ""
        what = f"{where}{many(len(train.images), 'image')}, {classes}{', captions' if train.has_texts else ''}"
        test = f"{PurePosixPath(self.test.folder).name}/" if self.test else ""
        return read_as(self.where, what, test or held, self.unused)


def read_as(where: str, what: str, held: str, unused: Sequence[str]) -> str:
    """How data were read, in one line. where: their name. what: is trained on. held: the split that is held out, or how
    many of the others. unused: other splits, and why.
    """
    rest = f"; not used: {', '.join(unused)}; data.splits chooses" if unused else ""
    return one_line(f"{where}: training on {what}; held out: {held or 'none'}{rest}")


def parts_of(tree: Tree, images: Sequence[str], wanted: Wanted) -> Parts:
    """The splits of a tree's images. Raises UserError where they cannot be told, or data.splits names none."""
    top = ""
    while inner := "" if wanted.labels == OF_FOLDERS else layout.only_folder(layout.below(images, top)):
        top = f"{top}/{inner}" if top else inner
    within = layout.below(images, top)
    folders = sorted({layout.top_of(name) for name in within} - {""})
    deep = {layout.top_of(name) for name in within if name.count("/") > 1}
    if wanted.splits:
        splits = layout.named_splits(wanted.splits, folders, called(tree, top))
    else:
        splits = layout.splits_among(folders, deep, words=wanted.labels != OF_FOLDERS)

    def part(folder: str, known: tuple[str, ...] = ()) -> Part:
        full = "/".join(filter(None, (top, folder)))
        own = tuple(name for name in images if not full or name.startswith(f"{full}/"))
        while folder and wanted.labels != OF_FOLDERS and (again := layout.shared_folder(layout.below(own, full))):
            if "/" not in layout.below(own, f"{full}/{again}")[0]:
                break  # images lie in it, which may be a class
            full = f"{full}/{again}"
        known_here = set(own)
        apart = [name for name in images if name not in known_here]
        return _part(tree, full, own, apart, wanted, known)

    train = part(splits.train)
    test, unused = None, [f"{name}/" for name in splits.beside]
    for name in splits.tests:
        if test is not None:
            unused.append(f"{name}/")
            continue
        try:
            candidate = part(name, train.classes)
            why = _unsuitable(candidate, train)
        except LooseError:
            why = "images both loose and in sub-folders"
        except MissingError:
            why = "images without metadata"
        if not why:
            test = candidate
        elif wanted.splits:
            raise UserError(
                f"data.splits={wanted.splits}: {one_line(name)}/ holds {why}; leave it out, and a share of "
                f"{splits.train}/ is held out"
            )
        else:
            unused.append(f"{name}/ ({why})")
    return Parts(train, test, called(tree, top), splits.train, tuple(unused))


def _unsuitable(test: Part, train: Part) -> str:
    """Why a part cannot be held out; "" if it can."""
    if train.labels and not test.labels:
        return f"{many(len(test.images), 'image')} without classes"
    if unknown := sorted(set(test.classes) - set(train.classes)):
        return f"classes that training images do not have: {one_line(listed(unknown))}"
    if train.labels and test.most_labels > train.most_labels:
        return f"images of {test.most_labels} labels, and training images have at most {train.most_labels}"
    if train.has_texts and not test.has_texts:
        return "images without captions"
    return ""


def _part(
    tree: Tree, folder: str, images: tuple[str, ...], others: list[str], wanted: Wanted, known: tuple[str, ...]
) -> Part:
    """The images below `folder`. others: images of other parts, which metadata may name too. known: classes of the
    training images.
    """
    places = [folder]
    while places[-1]:
        places.append(places[-1].rpartition("/")[0])
    notes: list[str] = []
    columns = wanted.columns
    found = metadata.find_above(tree, folder)
    said = metadata.read(tree, found, images, others, columns) if found else None
    if found and said is None:
        notes.append(f"{called(tree, found)} holds no line with a 'text': no captions are read from it")
    said = said or sidecars.columns(tree, images, columns)
    if said is None and columns:
        raise MissingError(
            f"{called(tree, folder)} has no {' or '.join(metadata.NAMES)}, which must have the columns {columns}"
        )
    described = said is not None
    said = said or Metadata()
    entries: dict[str, Entry] = dict(said.entries)
    if not any(entry.text is not None for entry in entries.values()):
        texts, told = sidecars.captions(tree, images)
        notes += told
        if texts:
            whole = entries or dict.fromkeys(images, Entry(None, (), ()))
            entries = {image: replace(entry, text=texts[image]) for image, entry in whole.items()}
            described = True
    faults = [one_line(fault) for fault in said.faults]
    notes = [one_line(note) for note in (*said.notes, *notes)]
    labels, source, more = _labels(tree, folder, images, entries, places, wanted, known, notes)
    if wanted.group and "(" in wanted.group:
        entries, unmatched = _grouped(tree, images, folder, entries, wanted.group)
        more += unmatched
    return Part(folder, images, labels, source, entries, described, (*faults, *more), tuple(notes))


def _labels(
    tree: Tree,
    folder: str,
    images: tuple[str, ...],
    entries: Mapping[str, Entry],
    places: Sequence[str],
    wanted: Wanted,
    known: tuple[str, ...],
    notes: list[str],
) -> tuple[Labels, str, list[str]]:
    """(image -> classes, what they are read from, faults)."""
    if wanted.label_pattern:
        pattern = layout.compiled(wanted.label_pattern, "data.label_pattern")
        found = {image: layout.taken(pattern, relative) for image, relative in _relative(images, folder)}
        faults = [
            f"{one_line(called(tree, image))} does not match data.label_pattern={wanted.label_pattern!r}"
            for image, name in found.items()
            if name is None
        ]
        return {image: (name,) for image, name in found.items() if name is not None}, "file names", faults
    if wanted.labels == NO_LABELS:
        return {}, "", []
    if wanted.labels not in ("", OF_FOLDERS):
        named = {image: entry.labels for image, entry in entries.items()}
        hidden = [image for image, names in named.items() if names == (str(HIDDEN),)]
        if hidden and len(hidden) == len(named):
            notes.append(f"{called(tree, folder)}: all labels of {wanted.labels!r} are {HIDDEN}, which is none")
            return {}, "", []
        faults = [f"{one_line(called(tree, image))} has the label {HIDDEN}, which is none" for image in hidden]
        kept = {image: names for image, names in named.items() if names != (str(HIDDEN),)}
        return kept, f"the column {wanted.labels!r}", faults
    if not wanted.labels:
        for place in places:
            if file := _inside(tree, place, DATASET):
                labels = _of_dataset(tree, file, place, images, notes)
                return (labels, DATASET, _missing(tree, images, labels, file)) if labels else ({}, "", [])
        labels_beside, faults = sidecars.classes(tree, images)
        labels_beside = {image: name for image, name in labels_beside.items() if name != str(HIDDEN)}
        if labels_beside:
            return {image: (name,) for image, name in labels_beside.items()}, "the .cls files beside images", faults
    if wanted.medical and wanted.labels != OF_FOLDERS:
        if any("/" in name for _, name in _relative(images, folder)):
            notes.append(
                f"{one_line(called(tree, folder))}: sub-folders of medical files are taken for patients and "
                f"series, which are held out whole, and for no classes; data.labels={OF_FOLDERS} takes them as classes"
            )
        return {}, "", []
    return *_of_folders(tree, folder, images, known, notes, asked=wanted.labels == OF_FOLDERS), []


def _relative(images: Sequence[str], folder: str) -> list[tuple[str, str]]:
    return [(image, image.removeprefix(f"{folder}/") if folder else image) for image in images]


def _of_folders(
    tree: Tree, folder: str, images: tuple[str, ...], known: tuple[str, ...], notes: list[str], *, asked: bool
) -> tuple[Labels, str]:
    """The classes that are sub-folders."""
    relative = dict(_relative(images, folder))
    tops = {image: unicodedata.normalize("NFC", layout.top_of(name)) for image, name in relative.items()}
    nested = [image for image in images if tops[image]]
    where = called(tree, folder)
    if not nested:
        _tell_words(where, images, notes)
        return {}, ""
    if len(nested) < len(images):
        loose = next(image for image in images if not tops[image])
        raise LooseError(
            f"{where} holds images both loose ({one_line(relative[loose])}, ...) and in sub-folders "
            f"({one_line(relative[nested[0]])}, ...): put each into the sub-folder of its class, all into one folder, "
            f"or set data.labels={NO_LABELS} to train without classes"
        )
    names = set(tops.values())
    if names <= set(known):
        return {image: (name,) for image, name in tops.items()}, "its sub-folders"
    if not asked and (len(names) == 1 or {name.lower() for name in names} <= layout.GENERIC):
        return {}, ""
    if not asked and layout.are_shards(list(relative.values())):
        notes.append(
            f"{one_line(where)}: the folders {', '.join(sorted(names)[:3])}, ... look like shards of one set, and are "
            f"no classes; data.labels={OF_FOLDERS} takes them as classes"
        )
        return {}, ""
    if not asked and layout.run_on(list(relative.values())):
        notes.append(
            f"{one_line(where)}: files are numbered on from folder to folder, as in shards of one set; if the folders "
            f"are no classes, set data.labels={NO_LABELS} (or model.conditions=())"
        )
    _tell_pairs(where, list(relative.values()), names, notes)
    others = [name for name in layout.below(tree.folders, folder) if name and "/" not in name]
    empty = [name for name in others if unicodedata.normalize("NFC", name) not in names]
    notes += [f"sub-folder {one_line(name)} of {one_line(where)} holds no images and is not a class" for name in empty]
    return {image: (name,) for image, name in tops.items()}, "its sub-folders"


class MissingError(UserError):
    """Images lack the metadata that are asked for."""


class LooseError(UserError):
    """Images lie loose beside folders of images: which are classes cannot be told."""


def _tell_pairs(where: str, relative: Sequence[str], names: Collection[str], notes: list[str]) -> None:
    """Say where two folders hold files of the same names, as images and their masks do."""
    if len(names) != 2:
        return
    stems = [{PurePosixPath(name).stem for name in relative if layout.top_of(name) == one} for one in sorted(names)]
    masks = any(word in one.lower() for one in names for word in OF_MASKS)
    if masks and len(stems[0] & stems[1]) > 0.9 * max(map(len, stems)):
        first, second = sorted(names)
        notes.append(
            f"{one_line(where)}: {one_line(first)}/ and {one_line(second)}/ hold files of the same names, and are "
            f"taken for classes; if one holds the masks of the other, set data.name=pairs and "
            f"data.folders=('{first}','{second}')"
        )


def _tell_words(where: str, images: Sequence[str], notes: list[str]) -> None:
    words = layout.words_of([PurePosixPath(image).stem for image in images])
    if words:
        some = ", ".join(f"{word} {count:,}" for word, count in words.most_common(4))
        more = ", ..." if len(words) > 4 else ""
        notes.append(
            f"{one_line(where)}: file names begin with {len(words)} words ({one_line(some)}{more}), which are not "
            f"taken as classes; data.label_pattern='{layout.WORD_PATTERN}' does"
        )


def _inside(tree: Tree, folder: str, name: str) -> str:
    full = f"{folder}/{name}" if folder else name
    return full if full in set(tree.files) else ""


def _of_dataset(tree: Tree, file: str, place: str, images: Sequence[str], notes: list[str]) -> Labels:
    """The labels of a dataset.json, {"labels": [[file, class], ...]}; none where it has no whole numbers."""
    where = called(tree, file)
    try:
        given = json.loads(read_bytes(tree, file))["labels"]
        pairs = {str(name): label for name, label in given or ()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        notes.append(f"{one_line(where)} is not read: it has no list 'labels' of (file, class) ({error!r})")
        return {}
    if not pairs:
        return {}
    if any(isinstance(label, bool) or not isinstance(label, int) for label in pairs.values()):
        notes.append(f"{one_line(where)}: its labels are not whole numbers, and none is read")
        return {}
    if set(pairs.values()) == {HIDDEN}:
        notes.append(f"{one_line(where)}: all its labels are {HIDDEN}, which is none")
        return {}
    prefix = f"{place}/" if place else ""
    labels = {_slashed(name): str(label) for name, label in pairs.items() if label != HIDDEN}
    found: Labels = {
        image: (labels[name],) for image in images if (name := _slashed(image.removeprefix(prefix))) in labels
    }
    if not found:
        first = one_line(next(iter(pairs)))
        notes.append(f"{one_line(where)} names none of the images (first: {first}), and is not read")
    return found


def _slashed(name: str) -> str:
    """A name as it is compared: with slashes, in Unicode's NFC form."""
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _missing(tree: Tree, images: Sequence[str], labels: Labels, file: str) -> list[str]:
    where = one_line(called(tree, file))
    return [f"{one_line(called(tree, image))} has no label in {where}" for image in images if image not in labels]


def _grouped(
    tree: Tree, images: Sequence[str], folder: str, entries: Mapping[str, Entry], group: str
) -> tuple[dict[str, Entry], list[str]]:
    """The entries with their groups from file names, and what does not match."""
    found = dict(zip(images, layout.groups_of(group, [name for _, name in _relative(images, folder)]), strict=True))
    faults = [
        f"{one_line(called(tree, image))} does not match data.group={group!r}" for image in images if not found[image]
    ]
    bare = Entry(None, (), ())
    return {image: replace(entries.get(image, bare), group=found[image] or "") for image in images}, faults

"""What the names of files say: which folders are splits, which are classes, and which are neither. Free of the files
themselves.
"""

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from jdiff.common.errors import UserError
from jdiff.common.names import nearest
from jdiff.common.words import one_line

TRAIN_NAMES = ("train", "training")  # of folders and splits, in any case
TEST_NAMES = ("test", "testing", "val", "valid", "validation")  # the first one present is the test split
BESIDE = (
    "unlabeled",
    "unlabelled",
    "extra",
    "dev",
    "eval",
    "evaluation",
    "holdout",
    "held_out",
)  # splits, never classes
# A folder that only says what its files are: no class.
GENERIC = frozenset(
    ("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "data", "files", "jpg", "jpeg", "png")
)

AFTER = r"[-_ ]?(?:set|images?|imgs?|data|split|folder|\d+)*"  # as in training_set, test1, train2017, val_images
SPLIT = {name: re.compile(rf"{name}{AFTER}", re.IGNORECASE) for name in (*TRAIN_NAMES, *TEST_NAMES, *BESIDE)}

# The name of a split as a word of a folder's name, or before one capital: seg_train, DIV2K_valid_HR, trainA.
WORD_OF_SPLIT = re.compile(
    rf"(?:^|[-_ ])((?i:{'|'.join(sorted((*TRAIN_NAMES, *TEST_NAMES), key=len, reverse=True))}))(?=[-_ ]|[A-Z]?$)"
)

MOST_WORDS = 200  # file names that begin with more words are names, not classes
LEAST_OF_A_WORD = 2  # images
BEGINS_WITH_A_WORD = re.compile(r"([^\W\d_][^\d]*?)[ _.\-]*\(?\d+\)?")
WORD_PATTERN = r"(.+?)[ _.-]*\d+"  # what data.label_pattern is told to be for such names
SHARD_DIGITS = 4  # folders named by as many digits are shards where their files are numbered on from one to the next


def split_kind(name: str) -> str:
    """Of which split a folder's name speaks: a name of TRAIN_NAMES, TEST_NAMES or BESIDE; "" of none."""
    low = name.lower()
    if low in SPLIT:
        return low
    return next((kind for kind, pattern in SPLIT.items() if pattern.fullmatch(name)), "")


@dataclass(frozen=True)
class Splits:
    """Names of the folders of a data set's splits, "" for the data set's own folder.

    train: of training. tests: those that may be held out, the first that suits first. beside: others with images, which
    are not used.
    """

    train: str
    tests: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def splits_among(folders: Sequence[str], deep: Collection[str], *, words: bool = True) -> Splits:
    """The splits among sibling folders that hold images. "train" may be a class, beside others: it is the training
    split where a sibling is a split too, or where it alone holds folders of images.

    deep: those of the folders whose images are in sub-folders. words: names that hold a split's as a word count too.
    """
    kinds = {name: kind for name in folders if (kind := split_kind(name))}
    trains = _in_order(kinds, TRAIN_NAMES)
    if not trains:
        return _by_words(folders) if words else Splits("")
    train, tests = trains[0], tuple(_in_order(kinds, TEST_NAMES))
    beside = tuple(name for name in folders if name != train and name not in tests)
    alone = train in deep and not set(beside) & set(deep)
    if tests or not beside or alone or any(name in kinds for name in beside):
        return Splits(train, tests, beside)
    return Splits("")


def _by_words(folders: Sequence[str]) -> Splits:
    """Splits whose names hold a split's as a word, beside another: seg_train and seg_test, DIV2K_train_HR and
    DIV2K_valid_HR. Raises UserError for several of training, as trainA and trainB.
    """
    kinds = {name: found[1].lower() for name in folders if (found := WORD_OF_SPLIT.search(name))}
    trains, tests = ([name for name, kind in kinds.items() if kind in names] for names in (TRAIN_NAMES, TEST_NAMES))
    if not trains or not tests:
        return Splits("")
    if len(trains) > 1:
        raise UserError(
            f"the folders {one_line(', '.join((*trains, *tests)))} look like splits, several of them of training: "
            f"data.splits=('{trains[0]}','{tests[0]}') chooses, data.labels=folders takes them as classes, and "
            "data.name=pairs reads two folders of pictures that belong together"
        )
    beside = tuple(name for name in folders if name not in (trains[0], *tests))
    return Splits(trains[0], tuple(tests), beside)


def _in_order(kinds: Mapping[str, str], wanted: Sequence[str]) -> list[str]:
    """The folders of these kinds, in the kinds' order, and names that are the kind before names that begin with it."""
    found = [name for name, kind in kinds.items() if kind in wanted]
    return sorted(found, key=lambda name: (wanted.index(kinds[name]), name.lower() != kinds[name], name))


def named_splits(wanted: Sequence[str], folders: Sequence[str], where: str) -> Splits:
    """The splits that data.splits names, in any case. Raises UserError for a name that is no folder of images."""
    known = {name.lower(): name for name in folders}
    found = []
    for name in wanted:
        if name.lower() not in known:
            there = ", ".join(map(one_line, folders[:8])) or "none"
            raise UserError(
                f"data.splits={tuple(wanted)}: {one_line(where)} has no folder {name!r} with images; it has "
                f"{there}{nearest(name, folders)}"
            )
        found.append(known[name.lower()])
    beside = tuple(name for name in folders if name not in found)
    return Splits(found[0], tuple(found[1:]), beside)


def top_of(name: str) -> str:
    """The first folder of a name, "" if it is in none."""
    return name.partition("/")[0] if "/" in name else ""


def below(names: Iterable[str], folder: str) -> list[str]:
    """The names below a folder, relative to it."""
    return [name.removeprefix(f"{folder}/") for name in names if not folder or name.startswith(f"{folder}/")]


def only_folder(images: Sequence[str]) -> str:
    """The one folder that all images are in, as unpacked archives have it, if it is not the training split; else ""."""
    top = shared_folder(images)
    return "" if split_kind(top) in TRAIN_NAMES else top


def shared_folder(images: Iterable[str]) -> str:
    """The one folder that all images are in; "" if there is none."""
    tops = {top_of(name) for name in images}
    return tops.pop() if len(tops) == 1 else ""


def in_order(classes: Iterable[str]) -> tuple[str, ...]:
    """The names of classes, sorted: whole numbers by value."""
    names = set(classes)
    numbers = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if numbers else (0, name)))


def are_shards(images: Sequence[str]) -> bool:
    """Whether the folders of these names are shards of one set and no classes: they are named by numbers of one length
    of SHARD_DIGITS or more, and no file's name occurs in two, or the first of them is all zeros.
    """
    folders = sorted({top_of(name) for name in images})
    if len(folders) < 2 or not all(name.isascii() and name.isdigit() for name in folders):
        return False
    lengths = {len(name) for name in folders}
    if len(lengths) > 1 or lengths.pop() < SHARD_DIGITS:
        return False
    if int(folders[0]) == 0:
        return True
    stems = [PurePosixPath(name).stem for name in images]
    return len(set(stems)) == len(stems)


def run_on(images: Sequence[str]) -> bool:
    """Whether the files of folders named by numbers are numbered on from folder to folder, and the folders but the last
    hold equally many: shards, or classes that were numbered so.
    """
    numbers: dict[int, list[int]] = {}
    for name in images:
        folder, digits = top_of(name), re.findall(r"\d+", PurePosixPath(name).stem)
        if not folder.isdigit() or not digits:
            return False
        numbers.setdefault(int(folder), []).append(int(digits[-1]))
    rows = [sorted(numbers[folder]) for folder in sorted(numbers)]
    sizes = {len(row) for row in rows[:-1]}
    follow = all(row[-1] < after[0] for row, after in itertools.pairwise(rows))
    return len(rows) > 1 and len(sizes) == 1 and follow


def words_of(stems: Sequence[str]) -> Counter[str]:
    """How many files' names begin with each word, where almost all begin with one of a few; else nothing."""
    found = [match[1].rstrip(" _.-") for stem in stems if (match := BEGINS_WITH_A_WORD.fullmatch(stem))]
    counts = Counter(found)
    few = 2 <= len(counts) <= min(MOST_WORDS, len(stems) // 4)
    return counts if few and len(found) >= 0.9 * len(stems) and min(counts.values()) >= LEAST_OF_A_WORD else Counter()


def compiled(pattern: str, key: str) -> re.Pattern[str]:
    """A regular expression of one group. Raises UserError for another."""
    try:
        made = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{key}={pattern!r} is not a regular expression: {error}") from error
    if made.groups != 1:
        raise UserError(
            f"{key}={pattern!r} must have one group in parentheses, around what it takes, as in '{WORD_PATTERN}'"
        )
    return made


def taken(pattern: re.Pattern[str], name: str) -> str | None:
    """What the pattern's group matches at the start of a file's name, or of its path below the data's folder where the
    pattern holds a "/"; None where it does not match.
    """
    match = pattern.match(name if "/" in pattern.pattern else name.rpartition("/")[2])
    return match[1] if match and match[1] else None


def groups_of(pattern: str, names: Sequence[str]) -> list[str | None]:
    """The group of each file by data.group, a regular expression; None where it does not match. Raises UserError where
    it matches none.
    """
    made = compiled(pattern, "data.group")
    found = [taken(made, name) for name in names]
    if names and not any(found):
        raise UserError(
            f"{one_line(names[0])} does not match data.group={pattern!r}, nor does another of {len(names):,}: it must "
            "fit the start of a file's name, or with a / in it that of its path below the folder; change it, or leave "
            "it out"
        )
    return found

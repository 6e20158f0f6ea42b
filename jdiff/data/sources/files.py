"""What sources of many files share: finding them, holding a share out, trying each before training."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

import numpy as np
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.decode import NOT_IMAGES

TRAIN_NAMES = ("train", "training")  # of folders and splits, in any case
TEST_NAMES = ("test", "testing", "val", "valid", "validation")  # the first that is there is held out

HOLDOUT_SEED = 0
FEWEST_TO_SHARE = 20  # of fewer, none is held out

OnBadFile = Literal["error", "skip"]
Progress = Callable[[Iterable, int], Iterable]
LeftOut = tuple[tuple[str, str], ...]  # (file, why it is left out), each in one line
T = TypeVar("T")


def no_progress(items: Iterable, total: int) -> Iterable:
    return items


def images_below(top: Path) -> list[Path]:
    """Every file below `top` whose ending is that of an image, sorted by path."""
    known = _endings()
    return [path for path in files_below(top) if path.suffix.lower() in known]


def others_below(top: Path, besides: Iterable[str] = ()) -> str:
    """What to tell of the files below `top` that are not read, their endings being no image's; "" where there are none.
    besides: names of files that are read as something else.
    """
    known = _endings()
    others = [path for path in files_below(top) if path.suffix.lower() not in known and path.name not in besides]
    if not others:
        return ""
    counts = Counter(path.suffix.lower() or "without" for path in others)
    kinds = ", ".join(f"{count} {ending}" for ending, count in counts.most_common(5))
    return one_line(f"not read, having no image's ending: {kinds} (first: {others[0]})")


def _endings() -> set[str]:
    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN.keys() - NOT_IMAGES}


def files_below(top: Path) -> list[Path]:
    """Every file below `top`, sorted by path. Links are followed, circles of them once; hidden files and folders are
    not read. Raises UserError where a folder cannot be listed.
    """
    return sorted(_files(top))


def holds_images(top: Path) -> bool:
    """Whether there are images below `top`; a large folder is not read to its end for that."""
    known = _endings()
    return any(path.suffix.lower() in known for path in _files(top))


def _files(top: Path) -> Iterator[Path]:
    seen = set()  # real paths of folders: links may lead in a circle
    for folder, subfolders, names in os.walk(top, followlinks=True, onerror=_unlisted):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _unlisted(error: OSError) -> NoReturn:
    raise UserError(one_line(f"{error.filename} cannot be read: {error.strerror}")) from error


def one_line(text: object) -> str:
    """As a message may hold it: a file's name may hold ends of lines, a terminal's commands, and what is no Unicode."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def subfolders(top: Path) -> list[Path]:
    """The folders in `top`, sorted, without hidden ones. Raises UserError where it cannot be listed."""
    try:
        names = sorted(os.listdir(top))
    except OSError as error:
        _unlisted(error)
    return [top / name for name in names if not name.startswith(".") and os.path.isdir(top / name)]


def folder_of(root: str) -> Path:
    """data.dir as a path. Raises UserError where it is no folder."""
    top = Path(os.path.expanduser(root))
    if not root or not os.path.isdir(top):
        raise UserError(f"data.dir={root!r} is not a folder; give one with --config.data.dir=PATH")
    return top


def split_folders(top: Path) -> tuple[Path, list[Path]] | None:
    """(the folder of training images, those of held-out ones, the first of which counts) in `top`; None where its
    sub-folders are no splits: "train" may be a class among others. Raises UserError where that cannot be told.
    """
    by_name = {path.name.lower(): path for path in subfolders(top)}
    train = next((by_name[name] for name in TRAIN_NAMES if name in by_name), None)
    if train is None:
        return None
    tests = [by_name[name] for name in TEST_NAMES if name in by_name and holds_images(by_name[name])]
    splits = {*TRAIN_NAMES, *TEST_NAMES}
    others = [path for name, path in by_name.items() if name not in splits and holds_images(path)]
    if others and tests:
        raise UserError(
            f"{top} holds {train.name}/ and {tests[0].name}/, which are splits, beside {one_line(others[0].name)}/, "
            "which holds images too: put its images into the splits, or move it elsewhere"
        )
    return None if others else (train, tests)


def share_of(count: int, split: str, holdout: float) -> list[int]:
    """The numbers below `count`, rising, of the images that belong to `split` where the data have no test images of
    their own: round(holdout count) drawn by a fixed seed are "test" (none of fewer than 20), the others "train".
    """
    held_out = round(holdout * count) if count >= FEWEST_TO_SHARE else 0
    order = np.random.default_rng(HOLDOUT_SEED).permutation(count)
    return sorted((order[:held_out] if split == "test" else order[held_out:]).tolist())


def try_all(read: Callable[[int], T], count: int, progress: Progress) -> tuple[dict[int, T], dict[int, str]]:
    """(i -> read(i), i -> why it cannot be read, in one line) for i < count. Pillow decodes outside the GIL, so threads
    help.
    """

    def tried(i: int) -> tuple[T | None, str]:
        try:
            return read(i), ""
        except Exception as error:  # Pillow's plugins raise whatever they like on a damaged file
            return None, one_line(str(error) or type(error).__name__)

    with ThreadPoolExecutor() as pool:
        results = list(progress(ahead(pool, tried, range(count), 8 * (os.cpu_count() or 1)), count))
    faults = {i: why for i, (_, why) in enumerate(results) if why}
    return {i: result for i, (result, _) in enumerate(results) if i not in faults}, faults


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[int], T], arguments: Iterable[int], under_way: int
) -> Iterator[T]:
    """function of each argument, in order, so many at a time and no more."""
    waiting: deque[Future[T]] = deque()
    for argument in arguments:
        waiting.append(pool.submit(function, argument))
        if len(waiting) > under_way:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@lru_cache(maxsize=4096)
def shared(value: T) -> T:
    """The first of equal values: a million equal ones take the room of one."""
    return value


def refuse(faults: Sequence[str], on_bad_file: OnBadFile) -> None:
    """Raises UserError with the first of the faults, unless there are none or they are to be skipped."""
    if faults and on_bad_file == "error":
        more = f" ({len(faults) - 1} more like it)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}; mend or remove it, or set data.on_bad_file=skip")

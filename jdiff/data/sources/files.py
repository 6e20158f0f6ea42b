"""Sources of many files: listing them, holding out a share, decoding each once before training."""

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
from jdiff.common.paths import expanded
from jdiff.data.decode import NOT_IMAGES

TRAIN_NAMES = ("train", "training")  # of folders and splits, in any case
TEST_NAMES = ("test", "testing", "val", "valid", "validation")  # the first one present is the test split

HOLDOUT_SEED = 0
FEWEST_TO_SHARE = 20  # no image is held out of fewer

OnBadFile = Literal["error", "skip"]
Progress = Callable[[Iterable, int], Iterable]
LeftOut = tuple[tuple[str, str], ...]  # (file, reason) of each file left out, on one line
T = TypeVar("T")


def no_progress(items: Iterable, total: int) -> Iterable:
    """The items, without a progress bar."""
    return items


def images_below(top: Path) -> list[Path]:
    """All files below `top` with an image's extension, sorted by path."""
    known = _endings()
    return [path for path in files_below(top) if path.suffix.lower() in known]


def others_below(top: Path, besides: Iterable[str] = ()) -> str:
    """A note on the files below `top` without an image's extension, which are not read; "" if there are none.

    besides: names of files that are read as something else.
    """
    known = _endings()
    others = [path for path in files_below(top) if path.suffix.lower() not in known and path.name not in besides]
    if not others:
        return ""
    counts = Counter(path.suffix.lower() or "without" for path in others)
    kinds = ", ".join(f"{count} {ending}" for ending, count in counts.most_common(5))
    return one_line(f"not read, having no image's extension: {kinds} (first: {others[0]})")


def _endings() -> set[str]:
    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN.keys() - NOT_IMAGES}


def files_below(top: Path) -> list[Path]:
    """All files below `top`, sorted by path, without hidden ones. Symbolic links are followed, cycles once. Raises
    UserError if a folder cannot be listed.
    """
    return sorted(_files(top))


def holds_images(top: Path) -> bool:
    """Whether there is an image below `top`; the search stops at the first."""
    known = _endings()
    return any(path.suffix.lower() in known for path in _files(top))


def _files(top: Path) -> Iterator[Path]:
    seen = set()  # real paths of folders: links may form a cycle
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
    """`text` with unprintable characters escaped: file names may hold line ends, escape codes or lone surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def subfolders(top: Path) -> list[Path]:
    """The folders in `top`, sorted, without hidden ones. Raises UserError if `top` cannot be listed."""
    try:
        names = sorted(os.listdir(top))
    except OSError as error:
        _unlisted(error)
    return [top / name for name in names if not name.startswith(".") and os.path.isdir(top / name)]


def folder_of(root: str) -> Path:
    """data.dir as a path, ~ expanded. Raises UserError if it is not a folder."""
    top = expanded(root)
    if not root or not os.path.isdir(top):
        raise UserError(f"data.dir={root!r} is not a folder; give one with --config.data.dir=PATH")
    return top


def split_folders(top: Path) -> tuple[Path, Path | None]:
    """(the training folder, the test folder or None): sub-folders of `top`, or `top` itself and None if its sub-folders
    are not splits ("train" may be a class). Raises UserError if `top` holds both splits and other folders of images.
    """
    by_name = {path.name.lower(): path for path in subfolders(top)}
    train = next((by_name[name] for name in TRAIN_NAMES if name in by_name), None)
    if train is None:
        return top, None
    test = next((by_name[name] for name in TEST_NAMES if name in by_name and holds_images(by_name[name])), None)
    splits = {*TRAIN_NAMES, *TEST_NAMES}
    others = [path for name, path in by_name.items() if name not in splits and holds_images(path)]
    if others and test:
        raise UserError(
            f"{top} holds {train.name}/ and {test.name}/, which are splits, beside {one_line(others[0].name)}/, "
            "which holds images too: put its images into the splits, or move it elsewhere"
        )
    return (top, None) if others else (train, test)


def share_of(count: int, split: str, holdout: float) -> list[int]:
    """The sorted indices of `split` in data without a test split: a fixed random round(holdout * count) of them are
    "test" (none if count < 20), the others "train".
    """
    held_out = round(holdout * count) if count >= FEWEST_TO_SHARE else 0
    order = np.random.default_rng(HOLDOUT_SEED).permutation(count)
    return sorted((order[:held_out] if split == "test" else order[held_out:]).tolist())


def try_all(read: Callable[[int], T], count: int, progress: Progress) -> tuple[dict[int, T], dict[int, str]]:
    """({i: read(i)}, {i: the error as one line}) for i < count, in threads: Pillow decodes outside the GIL."""

    def tried(i: int) -> tuple[T | None, str]:
        try:
            return read(i), ""
        except Exception as error:  # Pillow's plugins have no common base class for errors
            return None, one_line(str(error) or type(error).__name__)

    with ThreadPoolExecutor() as pool:
        results = list(progress(ahead(pool, tried, range(count), 8 * (os.cpu_count() or 1)), count))
    faults = {i: why for i, (_, why) in enumerate(results) if why}
    return {i: result for i, (result, _) in enumerate(results) if i not in faults}, faults


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[int], T], arguments: Iterable[int], under_way: int
) -> Iterator[T]:
    """function(argument) for each argument, in order, computed in `pool` at most `under_way` ahead."""
    waiting: deque[Future[T]] = deque()
    for argument in arguments:
        waiting.append(pool.submit(function, argument))
        if len(waiting) > under_way:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@lru_cache(maxsize=4096)
def interned(value: T) -> T:
    """One object for equal values, so that a million of them take the memory of one."""
    return value


def refuse(faults: Sequence[str], on_bad_file: OnBadFile) -> None:
    """Raises UserError with the first fault if on_bad_file is "error"."""
    if faults and on_bad_file == "error":
        more = f" ({len(faults) - 1} more like it)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}; mend or remove it, or set data.on_bad_file=skip")

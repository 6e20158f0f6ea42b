"""Sources of many files: which are pictures, and looking at each once before training."""

import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Literal, TypeVar

from PIL import Image

from jdiff.common.errors import UserError
from jdiff.common.words import one_line
from jdiff.data import medical
from jdiff.data.decode import NOT_IMAGES
from jdiff.data.layout import below
from jdiff.data.trees import Stamp, Tree, called
from jdiff.data.verdicts import Verdicts

OnBadFile = Literal["error", "skip"]
Progress = Callable[[Iterable, int], Iterable]
LeftOut = tuple[tuple[str, str], ...]  # (file, reason) of each file left out, on one line
T = TypeVar("T")


def no_progress(items: Iterable, total: int) -> Iterable:
    """The items, without a progress bar."""
    return items


def pictures_of(tree: Tree) -> tuple[str, ...]:
    """The names of all picture files, sorted: by their extensions or, where no file has one, DICOM by its contents."""
    known = tuple(_endings())
    found = tuple(name for name in tree.files if name.lower().endswith(known))
    bare = [name for name in tree.files if medical.kind_of(name) == "dicom"]
    if found or not bare:
        return found
    return tuple(name for name in bare if _is_dicom(tree, name))


def _is_dicom(tree: Tree, name: str) -> bool:
    try:
        with tree.open(name) as stream:
            return medical.is_dicom(stream)
    except (OSError, ValueError):
        return False


@lru_cache(maxsize=1)
def _endings() -> frozenset[str]:
    images = {
        ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN.keys() - NOT_IMAGES
    }
    return frozenset((*images, *medical.ENDINGS))


def others_below(tree: Tree, folder: str, pictures: Collection[str], besides: Sequence[str] = ()) -> str:
    """A note on the files below `folder` that are neither pictures nor read as something else (by the ends of their
    names); "" if there are none.
    """
    known = set(pictures)
    prefix = f"{folder}/" if folder else ""
    others = [
        name
        for name in tree.files
        if name.startswith(prefix) and name not in known and not name.lower().endswith(tuple(besides))
    ]
    if not others:
        return ""
    counts = Counter(os.path.splitext(name)[1].lower() or "without" for name in others)
    kinds = ", ".join(f"{count} {ending}" for ending, count in counts.most_common(5))
    return one_line(f"not read, having no image's extension: {kinds} (first: {called(tree, others[0])})")


def folders_in(tree: Tree, folder: str) -> list[str]:
    """The names of the folders directly in `folder`, sorted."""
    return sorted(name for name in below(tree.folders, folder) if name and "/" not in name)


def look_at_all(
    tree: Tree,
    names: Sequence[str],
    look: Callable[[str], T],
    *,
    kind: str,
    finding: Callable[..., T],
    progress: Progress,
) -> tuple[dict[str, T], dict[str, str]]:
    """({name: look(name)}, {name: its error as one line}), of files unchanged since an earlier run as that found them.

    kind: what look finds, and by which options. finding: makes a finding of its fields. Faults are found anew: a
    library that was missing may be there by now.
    """
    verdicts = Verdicts(tree.where, kind, finding)
    stamps: dict[str, Stamp] = {}
    found: dict[str, T] = {}
    faults: dict[str, str] = {}
    for name in names:
        try:
            stamps[name] = tree.stamp(name)
        except (OSError, ValueError) as error:
            faults[name] = one_line(getattr(error, "strerror", None) or str(error))
            continue
        if (known := verdicts.get(name, stamps[name])) is not None:
            found[name] = known
    fresh = [name for name in names if name not in found and name not in faults]
    results, why_not = try_all(lambda i: look(fresh[i]), len(fresh), progress)
    new = {fresh[i]: result for i, result in results.items()}
    verdicts.add({name: (stamps[name], result) for name, result in new.items()})
    found |= new
    faults |= {fresh[i]: why for i, why in why_not.items()}
    in_order = {name: faults[name] for name in names if name in faults}
    return {name: found[name] for name in names if name in found}, in_order


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


def refuse(faults: Sequence[str], on_bad_file: OnBadFile) -> None:
    """Raises UserError with the first fault if on_bad_file is "error"."""
    if faults and on_bad_file == "error":
        more = f" ({len(faults) - 1} more like it)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}; mend or remove it, or set data.on_bad_file=skip")

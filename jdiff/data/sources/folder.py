"""A folder of images of any format, size and mode that Pillow reads.

    PATH/*.png                      no classes
    PATH/<class>/**/*.jpg           a class a sub-folder, in the order of their names
    PATH/{train,test}/...           either form, with its own held-out images ("val" where "test" is missing)

Without a test folder, a fixed share of the images is held out.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.decode import decode

HOLDOUT_SEED = 0


class Folder:
    """Images below `root`. Every file is decoded once here, so that a bad one is known before training, not during it.

    split: "train" or "test". holdout: the share of images held out where there is no test folder (none of fewer than 20
    images). on_bad_file: "error" raises UserError that names the first bad file; "skip" leaves bad ones out and says
    how many in `notes`. progress wraps the iteration over the files, to show a bar.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        channels: int = 3,
        holdout: float = 0.05,
        on_bad_file: Literal["error", "skip"] = "error",
        progress: Callable[[Iterable, int], Iterable] = lambda files, total: files,
    ):
        top = Path(root).expanduser()
        if not root or not top.is_dir():
            raise UserError(f"data.dir={root!r} is not a folder; give one with --config.data.dir=PATH")
        train_dir, test_dir = _split_dirs(top)
        files, self.class_names = _list(train_dir, channels)
        if split == "test" and test_dir:
            files, test_classes = _list(test_dir, channels)
            if test_classes != self.class_names:
                unlike = sorted(set(test_classes) ^ set(self.class_names))
                raise UserError(f"{train_dir} and {test_dir} hold different classes: {', '.join(unlike)}")
        elif not test_dir:
            held_out = round(holdout * len(files)) if len(files) >= 20 else 0
            order = np.random.default_rng(HOLDOUT_SEED).permutation(len(files))
            chosen = order[:held_out] if split == "test" else order[held_out:]
            files = [files[i] for i in sorted(chosen)]

        self.shape = (None, None, channels)
        self.notes: tuple[str, ...] = ()
        self._channels = channels
        bad = _bad_files([file for file, _ in files], channels, progress)
        if bad and on_bad_file == "error":
            (file, why), *others = bad.items()
            more = f" ({len(others)} more like it)" if others else ""
            raise UserError(f"{file} cannot be read: {why}{more}; mend or remove it, or set data.on_bad_file=skip")
        if bad:
            first = next(iter(bad))
            self.notes = (f"skipped {len(bad)} unreadable of {len(files)} {split} images below {top} (first: {first})",)
            files = [entry for entry in files if entry[0] not in bad]
        if split == "train" and not files:
            raise UserError(f"no readable image is left for training below {top}")
        self._files = [str(file) for file, _ in files]
        self._labels = [label for _, label in files]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            record: dict[str, Any] = {"image": decode(self._files[index], self._channels)}
        except (OSError, ValueError) as error:
            raise UserError(f"{self._files[index]} could be read at the start and cannot now: {error}") from error
        if self.class_names:
            record["label"] = self._labels[index]
        return record

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]


def _split_dirs(top: Path) -> tuple[Path, Path | None]:
    """(where training images lie, where held-out ones lie or None)."""
    tests = [top / name for name in ("test", "val") if (top / name).is_dir()]
    if tests and (top / "train").is_dir():
        return top / "train", tests[0]
    return top, None


def _list(top: Path, channels: int) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Every image file below `top` with its class's number (0 where there are no classes), sorted; and the classes."""
    known = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found = [
        path
        for path in sorted(top.rglob("*"))
        if path.suffix.lower() in known
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(top).parts)
    ]
    if not found:
        raise UserError(
            f"no images below {top}: it must hold files such as .png, .jpg or .webp, or sub-folders of them"
        )
    nested = [path for path in found if path.parent != top]
    if nested and len(nested) < len(found):
        loose = next(path for path in found if path.parent == top)
        raise UserError(
            f"{top} holds images both loose ({loose.name}, ...) and in sub-folders "
            f"({nested[0].relative_to(top)}, ...): "
            "put each into the sub-folder of its class, or all into one folder"
        )
    names = tuple(sorted({path.relative_to(top).parts[0] for path in nested}))
    number = {name: index for index, name in enumerate(names)}
    return [(path, number[path.relative_to(top).parts[0]] if names else 0) for path in found], names


def _bad_files(files: list[Path], channels: int, progress: Callable[[Iterable, int], Iterable]) -> dict[Path, str]:
    """The files that cannot be decoded whole, with the reason; Pillow decodes outside the GIL, so threads help."""

    def fault(file: Path) -> str | None:
        try:
            decode(file, channels)
        except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
            return f"{error or type(error).__name__}".replace("\n", " ")
        return None

    with ThreadPoolExecutor() as pool:
        faults = list(progress(pool.map(fault, files), len(files)))
    return {file: why for file, why in zip(files, faults, strict=True) if why}

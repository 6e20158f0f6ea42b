"""The bars of what takes long before training, or in its place; lines above any bar."""

import sys
from collections.abc import Callable, Iterable

from tqdm import tqdm

from jdiff.common.processes import is_first_process

Progress = Callable[[Iterable, int], Iterable]  # (items, how many) -> the items, counted while they are taken


def progress_bar(what: str, *, show: bool = True) -> Progress:
    """A bar on a terminal, named `what`; none elsewhere, or where show is false."""

    def shown(items: Iterable, total: int) -> Iterable:
        return tqdm(items, total=total, desc=what, leave=False, disable=None if show else True)

    return shown


def say(line: str) -> None:
    """Print a line, above the progress bar where there is one."""
    if is_first_process():
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

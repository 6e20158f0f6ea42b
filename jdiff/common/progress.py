"""The bars of what takes long before training, or in its place."""

from collections.abc import Callable, Iterable

from tqdm import tqdm

Progress = Callable[[Iterable, int], Iterable]  # (items, how many) -> the items, counted while they are taken


def progress_bar(what: str, *, show: bool = True) -> Progress:
    """A bar on a terminal, named `what`; none elsewhere, or where show is false."""

    def shown(items: Iterable, total: int) -> Iterable:
        return tqdm(items, total=total, desc=what, leave=False, disable=None if show else True)

    return shown

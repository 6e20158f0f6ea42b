"""The bars of what takes long before training, or in its place."""

from collections.abc import Iterable

from ml_collections import ConfigDict
from tqdm import tqdm

from jdiff.data.sources.files import Progress


def progress_bar(config: ConfigDict, what: str) -> Progress:
    """(items, how many) -> the items, a bar counting them on a terminal while they are taken, unless log.progress is
    off.
    """

    def shown(items: Iterable, total: int) -> Iterable:
        return tqdm(items, total=total, desc=what, leave=False, disable=None if config.log.progress else True)

    return shown

"""Files of a run, whole at any moment."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jdiff.common.processes import is_first_process


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Replace a file atomically by what `write` writes to the path given: readers, and whoever comes after a crash, see
    the file before or the file after. Raises OSError where it cannot be written.
    """
    fresh = path.with_name(f".{path.name}.tmp")  # one name, so that crashes leave one file at most
    try:
        write(fresh)
        with fresh.open("r+b") as written:
            os.fsync(written.fileno())  # otherwise a loss of power may leave the new name with no contents
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: str | bytes) -> None:
    """Replace a file's contents, as write_whole. Of several processes the first one writes."""
    if is_first_process():
        write_whole(path, lambda fresh: fresh.write_bytes(content.encode() if isinstance(content, str) else content))

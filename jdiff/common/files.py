"""Small files of a run, whole at any moment."""

import os
from pathlib import Path

from jdiff.common.processes import is_first_process


def replace_file(path: Path, content: str | bytes) -> None:
    """Replace a file's contents atomically: readers, and whoever comes after a crash, see those before or these.

    Of several processes the first one writes. Raises OSError where the file cannot be written.
    """
    if not is_first_process():
        return
    fresh = path.with_name(f".{path.name}.tmp")  # one name, so that crashes leave one file at most
    with fresh.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())  # otherwise a loss of power may leave the new name with no contents
    fresh.replace(path)

"""Paths as a user writes them."""

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """`path` with ~ and ~name in place of a home folder; as it is where nobody of that name has one."""
    return Path(os.path.expanduser(path))

"""What was found of files, kept between runs, so that no file is looked at twice: a second start reads names alone."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from jdiff.common.files import replace_file
from jdiff.common.paths import expanded
from jdiff.data.trees import Stamp

FOLDER = "JDIFF_CACHE"  # the environment's variable of where they are kept
VERSION = 1  # of the checks themselves: another one looks again

T = TypeVar("T")


def cache_folder() -> Path:
    """The folder that jdiff keeps what it can make again in: $JDIFF_CACHE, or ~/.cache/jdiff."""
    named = os.environ.get(FOLDER)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(named) if named else expanded(home) / "jdiff"


class Verdicts(Generic[T]):
    """The findings of one kind of look at the files of one place: name -> a finding (a frozen dataclass). They hold for
    files of the same size and time of change.

    where: the place. kind: what was looked at, and how. finding: makes a finding of its fields. What cannot be kept (a
    folder that is not writable) is looked at again next time.
    """

    def __init__(self, where: str, kind: str, finding: Callable[..., T]):
        place = where if "://" in where else os.path.realpath(where)
        name = hashlib.sha256(repr((VERSION, place, kind)).encode()).hexdigest()[:32]
        self._file = cache_folder() / "verdicts" / f"{name}.json"
        self._finding = finding
        self._known: dict[str, tuple[int, int, Any]] = {}
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # absent or torn: looked at again
            stored = json.loads(self._file.read_text("utf-8"))
            table = [finding(**one) for one in stored["findings"]]
            self._known = {
                file: (size, time, table[which])
                for file, size, time, which in zip(*(stored[part] for part in PARTS), strict=True)
            }

    def get(self, name: str, stamp: Stamp) -> T | None:
        """The finding of a file, or None where it has changed or was never looked at."""
        size, time, finding = self._known.get(name, (None, None, None))
        return finding if (size, time) == (stamp.size, stamp.time) else None

    def add(self, found: Mapping[str, tuple[Stamp, T]]) -> None:
        """Keep new findings."""
        if not found:
            return
        self._known |= {name: (stamp.size, stamp.time, finding) for name, (stamp, finding) in found.items()}
        table = {
            finding: k for k, finding in enumerate(dict.fromkeys(finding for _, _, finding in self._known.values()))
        }
        columns = zip(*((name, size, time, table[one]) for name, (size, time, one) in self._known.items()), strict=True)
        findings = [asdict(one) for one in table]
        stored = {"findings": findings, **dict(zip(PARTS, map(list, columns), strict=True))}
        with suppress(OSError, UnicodeError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._file, json.dumps(stored))


PARTS = ("names", "sizes", "times", "which")

"""Which files the ids of a table or of a published list name: 12, 12.png, images/12.png, or as it lay elsewhere,
/data/images/12.png.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from jdiff.common.errors import UserError
from jdiff.common.words import one_line
from jdiff.data.matching import stem_of


class Ids:
    """The files `names`, found by ids. An id names the file whose path ends in the most of the id's path, with its
    extension or without; the id's extension may be another than the file's.
    """

    def __init__(self, names: Iterable[str]):
        self._named: dict[str, list[str]] = {}
        for name in names:
            for key in {key for path in (_normal(name), stem_of(name)) for key in _ends(path)}:
                self._named.setdefault(key, []).append(name)

    def find(self, given: str, where: str) -> str:
        """The file that an id names; "" if none. Raises UserError, naming `where`, for an id that names several."""
        path = _normal(given)
        for key in (*_ends(path), *_ends(stem_of(path))):
            found = self._named.get(key, [])
            if len(found) > 1:
                some = " and ".join(map(one_line, found[:2]))
                raise UserError(f"{where}: {one_line(given)} may be {some}: write it with its folder")
            if found:
                return found[0]
        return ""


def id_of(row: dict[str, str], columns: Sequence[str]) -> str:
    """The id in a table's row: of the first of `columns` that it has, else of its first column."""
    return str(row[next((name for name in columns if name in row), next(iter(row)))])


def _normal(path: str) -> str:
    return unicodedata.normalize("NFC", path.strip().replace("\\", "/").strip("/").removeprefix("./"))


def _ends(path: str) -> Iterator[str]:
    """The path, and what is left without its first folders, one after another."""
    parts = path.split("/")
    return ("/".join(parts[k:]) for k in range(len(parts)))

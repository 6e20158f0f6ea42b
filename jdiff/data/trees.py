"""Where files lie: a folder, a .zip, a .tar, or the .tar shards of one data set, all read in place.

Names in a tree are relative to it, with "/" between their parts. Nothing is ever extracted, so a name in an archive
cannot reach a file outside it.
"""

import glob
import lzma
import os
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

from jdiff.common.errors import UserError, first_line
from jdiff.common.paths import expanded
from jdiff.common.words import many, one_line
from jdiff.data.layout import TEST_NAMES, TRAIN_NAMES

TARS = (".tar",)
ARCHIVES = (".zip", *TARS)
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
WHOLE = (
    "is compressed as a whole, so its images cannot be read in any order: unpack it into a folder, or make a .zip or a "
    "plain .tar of it"
)
MOST_BYTES = 1 << 30  # of a file: some formats are read whole
UTF8 = 0x800  # the flag of a .zip member's name
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Stamp:
    """What tells that a file is the one that was looked at: its size in bytes and the time of its last change, in
    nanoseconds.
    """

    size: int
    time: int


def _listed(top: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(top) if not name.startswith("."))
    except OSError as error:
        _unlisted(error)


def _unlisted(error: OSError) -> NoReturn:
    raise UserError(one_line(f"{error.filename} cannot be read: {error.strerror}")) from error


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _parents(names: Iterable[str]) -> set[str]:
    folders: set[str] = set()
    for name in names:
        while (name := name.rpartition("/")[0]) and name not in folders:
            folders.add(name)
    return folders


@runtime_checkable
class Tree(Protocol):
    """Files below a root.

    where: the root as messages name it. files: names of all files but hidden ones, sorted by their parts. folders:
    names of all folders, empty ones too, likewise. left_out: a note on what is not read, "" if nothing.
    """

    @property
    def where(self) -> str: ...
    @property
    def files(self) -> tuple[str, ...]: ...
    @property
    def folders(self) -> tuple[str, ...]: ...
    @property
    def left_out(self) -> str: ...
    def open(self, name: str) -> Any:
        """A context manager of a binary, seekable stream. Raises OSError or ValueError."""
        ...

    def stamp(self, name: str) -> Stamp: ...


@dataclass
class Disk:
    """A folder of the file system. Symbolic links are followed, cycles once."""

    where: str
    left_out: str = ""

    def __post_init__(self) -> None:
        files: list[str] = []
        folders: list[str] = []
        # Folder -> the real paths of it and of those above it: links may form a cycle.
        chain: dict[str, tuple[str, ...]] = {self.where: (os.path.realpath(self.where),)}
        for folder, subfolders, names in os.walk(self.where, followlinks=True, onerror=_unlisted):
            path = chain[folder]
            subfolders[:] = sorted(name for name in subfolders if not _is_hidden(name))
            for name in list(subfolders):
                real = os.path.realpath(os.path.join(folder, name))
                if real in path:  # a cycle
                    subfolders.remove(name)
                chain[os.path.join(folder, name)] = (*path, real)
            del chain[folder]
            start = os.path.relpath(folder, self.where).replace(os.sep, "/")
            prefix = "" if start == "." else f"{start}/"
            folders += [prefix.rstrip("/")] * bool(prefix)
            files += [prefix + name for name in names if not name.startswith(".")]
        self.files: tuple[str, ...] = tuple(sorted(files, key=by_parts))
        self.folders: tuple[str, ...] = tuple(sorted(folders, key=by_parts))

    def open(self, name: str) -> Any:
        """The file's stream: see open_file."""
        return open_file(os.path.join(self.where, name))

    def stamp(self, name: str) -> Stamp:
        return stamp_of(os.path.join(self.where, name))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "files": (), "folders": ()}  # workers open files by name, and list none


def stamp_of(path: str) -> Stamp:
    """The stamp of a file of the file system."""
    status = os.stat(path)
    return Stamp(status.st_size, status.st_mtime_ns)


@contextmanager
def open_file(path: str) -> Iterator[BufferedIOBase]:
    """A file's stream. Raises ValueError if it is not a regular file (a pipe may never end), or too large."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    _check_size(status.st_size)
    with open(path, "rb") as stream:
        yield stream


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 30} GiB")


def _opened(path: str) -> Any:
    """The file of a path or address, seekable."""
    if "://" not in path:
        return open(path, "rb")
    import fsspec

    return fsspec.open(path, "rb").open()


@contextmanager
def _reading(path: str, what: str) -> Iterator[None]:
    """Errors of opening an archive become UserErrors that name it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of zipfile, tarfile, the network or a plugin
        raise UserError(one_line(f"{path} cannot be read as {what}: {first_line(error)}")) from error


@dataclass
class Zip:
    """A .zip archive, each process's own handle opened when it first reads."""

    where: str
    _local: Any = field(default=None, repr=False)
    left_out: str = ""

    def __post_init__(self) -> None:
        with _reading(self.where, "a .zip archive"):
            members = _named(self._archive.infolist())
        shown = [(name, member) for name, member in members if name and not _is_hidden(name)]
        self._members = {name: member for name, member in shown if not member.is_dir()}
        if any(member.flag_bits & 1 for member in self._members.values()):
            raise UserError(f"{self.where} is encrypted: unpack it with its password")
        self.files = tuple(sorted(self._members, key=by_parts))
        empty = {name for name, member in shown if member.is_dir()}
        self.folders = tuple(sorted(_parents(self.files) | empty, key=by_parts))

    @property
    def _archive(self) -> zipfile.ZipFile:
        if self._local is None:
            self._local = zipfile.ZipFile(_opened(self.where))
        return self._local

    @contextmanager
    def open(self, name: str) -> Iterator[BufferedIOBase]:
        """The member's bytes. Raises ValueError if they are damaged or compressed in an unknown way."""
        _check_size(self._members[name].file_size)
        try:
            content = self._archive.read(self._members[name])
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"it is damaged in the archive: {first_line(error)}") from error
        yield BytesIO(content)

    def stamp(self, name: str) -> Stamp:
        return Stamp(self._members[name].file_size, self._members[name].CRC)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_local": None, "files": (), "folders": ()}


def _named(members: Sequence[zipfile.ZipInfo]) -> list[tuple[str, zipfile.ZipInfo]]:
    """(name, member) of each member: macOS writes UTF-8 without saying so, and some Windows programs backslashes."""
    names = [_in_utf8(member) for member in members]
    if not any("/" in name for name in names):
        names = [name.replace("\\", "/") for name in names]
    return [(_normal(name), member) for name, member in zip(names, members, strict=True)]


def _in_utf8(member: zipfile.ZipInfo) -> str:
    if not member.flag_bits & UTF8:
        with suppress(UnicodeError):
            return member.filename.encode("cp437").decode("utf-8")
    return member.filename


@dataclass
class Tar:
    """A plain .tar archive: its headers are read once, and each file by its place."""

    where: str
    left_out: str = ""

    def __post_init__(self) -> None:
        self._handle: Any = None
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}  # name -> (offset, size)
        self._time = 0 if "://" in self.where else os.stat(self.where).st_mtime_ns  # members keep no time of change
        folders: set[str] = set()
        others = 0
        with _reading(self.where, "a .tar archive"), _opened(self.where) as stream, tarfile.open(fileobj=stream) as tar:
            if tar.fileobj is not stream:
                raise UserError(f"{self.where} {WHOLE}")
            for member in tar:
                name = _normal(member.name)
                if not name or _is_hidden(name):
                    continue
                if member.isdir():
                    folders.add(name)
                elif member.isreg() and not member.issparse():
                    self._places[name] = (member.offset_data, member.size)
                elif member.islnk() and (place := self._places.get(_normal(member.linkname))):
                    self._places[name] = place  # a hard link, which stays in the archive
                else:
                    others += 1
        self.left_out = (
            f"not read in {self.where}: {many(others, 'link or special file', 'links and special files')}"
            if others
            else ""
        )
        self.files = tuple(sorted(self._places, key=by_parts))
        self.folders = tuple(sorted(_parents(self.files) | folders, key=by_parts))

    @contextmanager
    def open(self, name: str) -> Iterator[BufferedIOBase]:
        """The member's bytes. Raises ValueError if the archive ends within them."""
        offset, size = self._places[name]
        _check_size(size)
        with self._lock:
            if self._handle is None:
                self._handle = _opened(self.where)
            self._handle.seek(offset)
            content = self._handle.read(size)
        if len(content) < size:
            raise ValueError("the archive is cut short within it")
        yield BytesIO(content)

    def stamp(self, name: str) -> Stamp:
        return Stamp(self._places[name][1], self._time)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_lock": None, "files": (), "folders": ()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _normal(name: str) -> str:
    """A member's name without "./" and with neither a root nor ".." in it: it is a name, and no path."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


class Shards:
    """Several .tar files of one data set, as WebDataset has them: the names of all. Where shards are named by splits
    (train-000.tar, val-000.tar), each lies in a folder of its split; where two hold one name, each file's name begins
    with its shard's.
    """

    def __init__(self, where: str, shards: tuple[str, ...]):
        self.where = where
        self._tars = [Tar(shard) for shard in shards]
        stems = [Path(shard.partition("?")[0]).stem for shard in shards]
        splits = [split_of_shard(stem) for stem in stems]
        names = [name for tar in self._tars for name in tar.files]
        twice = len(set(names)) < len(names)
        self._place: dict[str, tuple[int, str]] = {}
        for k, (tar, stem) in enumerate(zip(self._tars, stems, strict=True)):
            for name in tar.files:
                folder, _, file = name.rpartition("/")
                own = f"{stem}_{file}" if twice else file
                parts = (splits[k] if any(splits) else "", folder, own)
                self._place["/".join(filter(None, parts))] = (k, name)
        self.files = tuple(sorted(self._place, key=by_parts))
        self.folders = tuple(sorted(_parents(self.files), key=by_parts))
        different = {re.sub(r"\d+", "", stem) for stem in stems}
        notes = [tar.left_out for tar in self._tars if tar.left_out]
        if len(different) > 1 and not any(splits):
            notes.append(
                f"the shards {one_line(', '.join(sorted(stems)[:3]))}, ... are read as one set; if each is a class, "
                "unpack each into a folder of its own"
            )
        self.left_out = "; ".join(notes)

    def open(self, name: str) -> Any:
        """The member's bytes."""
        k, own = self._place[name]
        return self._tars[k].open(own)

    def stamp(self, name: str) -> Stamp:
        k, own = self._place[name]
        return self._tars[k].stamp(own)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "files": (), "folders": ()}


def split_of_shard(stem: str) -> str:
    """The split that a shard's name speaks of as one of its words: train, val, ...; "" of none."""
    words = [word for word in re.split(r"[^a-z]+", stem.lower()) if word]
    return next((word for word in words if word in (*TRAIN_NAMES, *TEST_NAMES)), "")


def called(tree: Tree, name: str) -> str:
    """A file's or folder's name in messages."""
    return os.path.join(tree.where, name) if name else tree.where


def by_parts(name: str) -> list[str]:
    """The order of names: a folder's files are together."""
    return name.split("/")


def open_tree(root: str, key: str = "data.dir") -> Tree:
    """The tree at `root`: a folder, a .zip or .tar, a folder of .tar shards or their names with {000..007} or *, also
    by an address that fsspec knows (s3://, gs://, https://, ...). Raises UserError if there is none.
    """
    exists = root and "://" not in root and os.path.exists(expanded(root))
    if not exists and (several := _shards(root)):
        return Shards(root, tuple(several))
    if "://" in root:
        _check_archive(root, key)
        return _archive(root)
    top = expanded(root)
    if root and os.path.isfile(top):
        _check_archive(str(top), key)
        return _archive(str(top))
    if not root or not os.path.isdir(top):
        raise UserError(f"{key}={root!r} is not a folder; give one with --config.{key}=PATH")
    if tars := _only_tars(top):
        return Shards(str(top), tuple(tars)) if len(tars) > 1 else Tar(tars[0])
    return Disk(str(top))


def _archive(path: str) -> Tree:
    return Zip(path) if path.partition("?")[0].lower().endswith(".zip") else Tar(path)


def _check_archive(path: str, key: str) -> None:
    name = path.partition("?")[0].lower()
    if name.endswith(COMPRESSED):
        raise UserError(f"{key}={path!r} {WHOLE}")
    if not name.endswith(ARCHIVES):
        what, give = ("no archive", "") if "://" in path else ("neither a folder nor an archive", "a folder, ")
        raise UserError(f"{key}={path!r} is {what}; give {give}a .zip, a .tar or .tar shards")


def _shards(root: str) -> list[str]:
    """The files of a name with {000..007} or *."""
    if found := BRACES.search(root):
        first, last = found.groups()
        numbers = (f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1))
        names = [root[: found.start()] + number + root[found.end() :] for number in numbers]
        shards = [name if "://" in name else str(expanded(name)) for name in names]
        missing = [name for name in shards if "://" not in name and not os.path.isfile(name)]
        if missing:
            raise UserError(f"data.dir={root!r}: there is no {missing[0]}")
        return shards
    if "*" in root and "://" not in root:
        return sorted(glob.glob(str(expanded(root))))
    return []


def _only_tars(top: Path) -> list[str]:
    """The .tar files of a folder that holds no other files but small ones beside them."""
    names = _listed(top)
    tars = [str(top / name) for name in names if name.lower().endswith(TARS)]
    rest = [name for name in names if not name.lower().endswith(TARS)]
    plain = all(name.lower().endswith((".json", ".txt", ".md", ".idx", ".parquet")) for name in rest)
    return tars if tars and plain else []


def read_bytes(tree: Tree, name: str) -> bytes:
    """All bytes of a file."""
    with tree.open(name) as stream:
        return stream.read()

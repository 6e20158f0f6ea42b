"""A folder is written by one command at a time."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from jdiff.common.errors import UserError
from jdiff.common.files import replace_file
from jdiff.common.paths import expanded
from jdiff.common.processes import is_first_process

LOCK = ".lock"  # the system's lock of this file ends with its holder, however that ends
OWNER = "owner.json"  # who holds it, for people
PATIENCE = 2.0  # seconds: for a command that is ending, and until a new holder has written down who it is


@contextlib.contextmanager
def owned(folder: Path, flag: str) -> Iterator[None]:
    """`folder`, made if need be, as this command's own; the first of several processes holds it for all.

    flag: by which another folder is given. Raises UserError that names the process which holds it; OSError where the
    folder cannot be written.
    """
    if not is_first_process():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise UserError(
            f"{folder} is in use: {_holder(folder)} writes there; wait for it, stop it, or give another {flag}"
        ) from None
    me = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    try:
        replace_file(folder / OWNER, json.dumps(me) + "\n")
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / OWNER).unlink()
        lock.release()


def check_clear(out: Path, folders: Sequence[str], *, begun: bool, reads: str = "") -> None:
    """Raises UserError where writing to `folders` below --out=`out` would meet files of others: those below the folder
    `reads`, or, unless this command has `begun` there, any.
    """
    place, source = out.resolve(), expanded(reads).resolve()
    if reads and source.is_dir() and (place.is_relative_to(source) or source.is_relative_to(place)):
        raise UserError(f"--out={out} and {reads}, which is read, lie one within the other: give another --out")
    for name in folders:
        if not begun and (out / name).is_dir() and any((out / name).iterdir()):
            raise UserError(f"{out / name} holds files that this command did not write: give another --out")


def _holder(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER).read_text())
        return f"process {owner['process']} on {owner['host']}, since {owner['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

"""A run's folder is written by one training at a time."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from jdiff.common.errors import UserError, writing_to
from jdiff.common.files import replace_file
from jdiff.common.processes import is_first_process

LOCK = ".lock"  # the system's lock of this file ends with its holder, however that ends
OWNER = "owner.json"  # who holds it, for people
PATIENCE = 2.0  # seconds: for a training that is ending, and until a new holder has written down who it is


@contextlib.contextmanager
def owned(workdir: Path) -> Iterator[None]:
    """`workdir`, made if need be, as this training's own; the first of several processes holds it for all.

    Raises UserError that names the process which holds it.
    """
    if not is_first_process():
        yield
        return
    with writing_to(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(workdir / LOCK)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise UserError(
                f"{workdir} is in use: {_holder(workdir)} trains there; wait for it, stop it, or give another --workdir"
            ) from None
        me = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        replace_file(workdir / OWNER, json.dumps(me) + "\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (workdir / OWNER).unlink()
        lock.release()


def _holder(workdir: Path) -> str:
    try:
        owner = json.loads((workdir / OWNER).read_text())
        return f"process {owner['process']} on {owner['host']}, since {owner['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

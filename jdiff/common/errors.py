"""Errors that a user can mend."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class UserError(ValueError):
    """A user's mistake, or a fault in what they gave us (a file, a key, a disk).

    The message is one line that names what is wrong and says what to do; the command prints it without a
    traceback and exits with status 1.
    """


def first_line(error: BaseException) -> str:
    """What an error of some library says, short enough for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def writing_to(workdir: Path) -> Iterator[None]:
    """An OSError within becomes a UserError: the run's folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}; give another folder with --workdir") from error

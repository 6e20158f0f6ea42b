"""Errors that a user can fix."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class UserError(ValueError):
    """A user's mistake, or a fault of a file, a config key or a disk.

    The message is one line with the fault and its remedy. The command prints it without a traceback and exits with
    status 1.
    """


DISTRIBUTION = "jdiff-diffusion"  # what pip calls this package


def install(extra: str) -> str:
    """The command that installs an extra of pyproject.toml beside this package."""
    return f'pip install "{DISTRIBUTION}[{extra}]"'


class DrawingError(UserError):
    """Images that cannot be drawn or scored: memory ran out, or they are not finite. Training goes on without them."""


OUT_OF_MEMORY = ("resource_exhausted", "out_of_memory", "out of memory")  # in an error of XLA, in any case


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host's or a device's memory ran out."""
    of_xla = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")  # by name: data workers do without JAX
    return isinstance(error, MemoryError) or (of_xla and any(words in str(error).lower() for words in OUT_OF_MEMORY))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters; its type's name if it is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def writing_to(workdir: Path) -> Iterator[None]:
    """An OSError within becomes a UserError that names `workdir`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}; give another folder with --workdir") from error


@contextlib.contextmanager
def keeping_in(out: Path) -> Iterator[None]:
    """An OSError within, of work whose parts are kept in `out` as they come, becomes a UserError that says how it goes
    on.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {out}: {error}; make room, and the same command goes on, or give another folder with "
            "--out"
        ) from error

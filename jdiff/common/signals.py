"""Signals that ask a command to stop."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

# Where a system has them: Ctrl-C, a scheduler's end and its warning before, a terminal that was closed.
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")


def heeded() -> list[int]:
    """Those that this process is to heed: not those that it was started to ignore, as SIGHUP under nohup. None outside
    the main thread, which alone handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    numbers = [int(getattr(signal, name)) for name in NAMES if hasattr(signal, name)]
    return [number for number in numbers if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]


def in_words(number: int) -> str:
    """A signal as people call it."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def stderr_descriptor() -> int:
    """The file descriptor of what people read as stderr: of several processes it is not 2 (see distributed.py)."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # no stderr, a closed one, or one in memory
        return 2


def leave(status: int) -> NoReturn:
    """End the process here, waiting for nothing that runs on devices or in other processes."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(status)


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Each of these signals ends the process within; once the function given is called, it raises KeyboardInterrupt(its
    number) instead. What is ignored by then stays so.
    """
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True

    def stop(number: int, frame: FrameType | None) -> None:
        if begun:
            raise KeyboardInterrupt(number)
        with contextlib.suppress(OSError):
            os.write(stderr_descriptor(), b"jdiff: stopped while starting; nothing is lost\n")
        os._exit(128 + number)  # an exception within an import in C may be lost there, or crash it

    before = {number: signal.signal(number, stop) for number in heeded()}
    try:
        yield begin
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)

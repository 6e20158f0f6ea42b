"""Signals that end a command: the first one once what is under way is whole, the second one at once."""

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from jdiff.common.signals import heeded, in_words, stderr_descriptor

ASK_EVERY = 2.0  # seconds: several processes ask each other whether a signal has come
SAME = 0.1  # seconds: a terminal and a wrapper, such as timeout, pass on one signal twice


@runtime_checkable
class Work(Protocol):
    """What signals end, in words. Asked from another thread, at any moment."""

    def ending(self) -> str | None:
        """What is done first; None where the process ends at once."""

    def left(self) -> str:
        """What is lost or kept where the process ends at once."""


@dataclass
class Training:
    """step: the last step trained, None before the first. saved: the step of the last checkpoint on disk, if any."""

    step: int | None = None
    saved: Callable[[], int | None] = lambda: None

    def ending(self) -> str | None:
        """Saving; before the first step there is nothing to save."""
        return None if self.step is None else "saving, then stopping"

    def left(self) -> str:
        """What is lost since the last checkpoint."""
        step, saved = self.step, self.saved() or 0
        if step is None:
            since = f"since the checkpoint of step {saved}" if saved else "yet"
            return f"stopped; nothing was trained {since}, and nothing is lost"
        if saved >= step:
            return f"stopped at step {step}; nothing is lost, step {saved} is saved"
        since = f"the checkpoint of step {saved}" if saved else "the start, as there is no checkpoint yet,"
        return f"stopped at step {step}; the {step - saved} steps since {since} are lost"


T = TypeVar("T")
W = TypeVar("W", bound=Work)


class _Break(BaseException):
    """Ends a call that may be ended by a signal."""


class Interrupt(Generic[W]):
    """A context that answers signals at once in words, from a thread: while JAX compiles or computes, Python's handlers
    wait.

    The first one is recorded in `signal`, for the loop within to end; where the work has nothing to bring to an end,
    the process ends. So it does at the second one.
    """

    def __init__(self, work: W) -> None:
        self.work = work
        self.signal: int | None = None
        self._first = -float("inf")
        self._may_break = False
        self._asked = (0, 0.0)  # at which step, and when, several processes asked each other
        self._ask_after = 1  # steps
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt[W]":
        numbers = heeded()
        if not numbers:
            return self
        self._terminals = [file for file in (1, stderr_descriptor()) if os.isatty(file)]
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():  # once all is saved, the process ends: more signals are no news
            signal.signal(number, signal.SIG_IGN if self.signal else handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._write.send(b"\0")
        self._thread.join()
        self._read.close()
        self._write.close()

    def asked(self, step: int, every: int) -> bool:
        """Whether a signal has come. Several processes ask each other, which waits for the devices: about every
        ASK_EVERY seconds, at steps that follow from the slowest one's time, and after `every` steps at the latest.
        """
        if jax.process_count() == 1:
            return self.signal is not None
        before, then = self._asked
        if step - before < self._ask_after:
            return False
        from jax.experimental import multihost_utils

        mine = np.array([self.signal or 0, time.monotonic() - then], np.float32)
        asked, seconds = multihost_utils.process_allgather(mine).reshape(-1, 2).max(axis=0).tolist()
        self._asked = (step, time.monotonic())
        at_this_speed = (step - before) * ASK_EVERY / max(seconds, 1e-6)
        # The first steps are slow, and others may be: twice as rarely at most.
        self._ask_after = int(max(1, min(at_this_speed, 2 * self._ask_after, every)))
        self.signal = self.signal or (int(signal.SIGTERM) if asked else None)
        return bool(asked)

    def unless_asked(self, call: Callable[[], T]) -> T | None:
        """The result of a call that a signal ends, and prevents: then None. Several processes end theirs together, so
        there the call is made as it is.
        """
        if jax.process_count() > 1:
            return call()
        try:
            try:
                self._may_break = True
                return call() if self.signal is None else None
            finally:
                self._may_break = False
        except _Break:
            return None
        except Exception:
            if self.signal is None:  # else it fails for the signal, which reaches processes that read data too
                raise
            return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Called between two lines of Python of the main thread."""
        self.signal = self.signal or number
        if self._may_break:
            self._may_break = False
            raise _Break

    def _watch(self) -> None:
        """Told of every signal by the system, whatever the main thread does."""
        while number := self._read.recv(1)[0]:
            if number in self._before:
                self._answer(number)

    def _answer(self, number: int) -> None:
        name = in_words(number)
        self._leave_closed_terminals()
        now, ending = time.monotonic(), self.work.ending()
        if self._first < 0 and ending:
            self._first, self.signal = now, self.signal or number
            _tell(f"{name}: {ending}; a second {name} stops without")
        elif now - self._first > SAME:
            _end(number, f"{name}: {self.work.left()}")

    def _leave_closed_terminals(self) -> None:
        """A terminal that has been closed takes no more words, and writing them there would fail before the save."""
        for file in self._terminals:
            if not os.isatty(file):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, file)
                os.close(nowhere)


def _tell(words: str) -> None:
    file = stderr_descriptor()
    with contextlib.suppress(OSError):  # past a progress bar, and past any lock
        os.write(file, f"{chr(10) * os.isatty(file)}jdiff: {words}\n".encode())


def _end(number: int, words: str) -> None:
    """End the process where it stands: what is being saved is left aside, and swept at the next start."""
    _tell(words)
    with contextlib.suppress(Exception):
        for child in multiprocessing.active_children():
            child.terminate()
    os._exit(128 + number)

"""Signals that end training between two steps instead of within one."""

import signal
from types import FrameType
from typing import Any

import jax
import numpy as np


class Interrupt:
    """A context that records the first SIGINT or SIGTERM in `signal`; the second one has its usual effect."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def asked(self, step: int, every: int) -> bool:
        """Whether a signal has come; several processes ask each other, at every so many steps alone (asking waits for
        the devices).
        """
        if jax.process_count() == 1:
            return self.signal is not None
        if step % every:
            return False
        from jax.experimental import multihost_utils

        asked = bool(multihost_utils.process_allgather(np.int32(self.signal or 0)).max())
        self.signal = self.signal or (int(signal.SIGTERM) if asked else None)
        return asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

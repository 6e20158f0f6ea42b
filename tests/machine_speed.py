"""How slow a shared machine is while something else is timed, so that a bound in seconds means the same on all."""

import threading
import time
from types import TracebackType

import numpy as np

REFERENCE = 0.0176  # CPU seconds of `_work` where the main job took 161 s (benchmarks/RESULTS.md, "Digits")


def _work() -> None:
    """Sums of products and exponentials in float32, on one thread (a matrix product of BLAS would take several)."""
    patches, kernel = np.full((2048, 216), 0.5, np.float32), np.ones((216, 24), np.float32)
    for _ in range(4):
        np.exp(-np.einsum("pi,ic->pc", patches, kernel))
        np.exp(patches)


class Slowness:
    """`with Slowness() as slow:` takes samples in the background; then `slow.factor` is this machine's CPU time over
    the reference's, at least 1.

    A sample counts its own thread's CPU time: what shares the cores by turns does not enter, but a slower processor, a
    neighbour on the same core and a crowded memory do. The samples take about 1 % of one core.
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def factor(self) -> float:
        return max(1.0, float(np.mean(self._seconds)) / REFERENCE)

    def __enter__(self) -> "Slowness":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            begun = time.thread_time()
            _work()
            self._seconds.append(time.thread_time() - begun)
            if self._ended.wait(2.0):
                return

"""How fast training is."""

import time


class Clock:
    """Training speed between log points, the time for checkpoints and pictures left out."""

    def __init__(self, step: int):
        self._step, self._since, self._stopped_at = step, time.monotonic(), 0.0

    def speed(self, step: int, batch_size: int) -> dict[str, float]:
        """Since the last call: images/s and seconds a step."""
        now = time.monotonic()
        seconds = (now - self._since) / (step - self._step)
        self._step, self._since = step, now
        return {"images_per_s": batch_size / seconds, "seconds_per_step": seconds}

    def stopped(self) -> "Clock":
        return self

    def __enter__(self) -> None:
        self._stopped_at = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        self._since += time.monotonic() - self._stopped_at

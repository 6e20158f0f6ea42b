"""What to say where memory runs out in training."""

from collections.abc import Iterator


def smaller_steps(batch_size: int, accumulate: int, devices: int, *, remat: bool) -> str:
    """The settings under which a step takes less memory, in words, with values that `devices` divide."""
    advice = []
    if parts := next(_dividing(batch_size, accumulate, devices), None):
        advice.append(f"train.accumulate={parts} (the same batch in {parts} parts)")
    if not remat:
        advice.append("network.remat=True (more time)")
    each = devices * accumulate
    if half := batch_size // 2 // each * each:
        advice.append(f"train.batch_size={half}")
    return "set " + ", or ".join(advice) if advice else "a smaller network fits, or a larger device"


def _dividing(batch_size: int, accumulate: int, devices: int) -> Iterator[int]:
    """Numbers of parts of at most half the size that divide a batch on every device."""
    return (parts for parts in range(2 * accumulate, batch_size + 1) if batch_size % (parts * devices) == 0)

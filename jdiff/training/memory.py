"""What to say and to save where memory runs out in training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jdiff.common.errors import UserError, is_out_of_memory
from jdiff.config import saved
from jdiff.training.checkpoints import Checkpoints
from jdiff.training.step import TrainState


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


def advanced(
    next_state: Callable[[TrainState, PyTree], Any],
    state: TrainState,
    batch: PyTree,
    config: ConfigDict,
    checkpoints: Checkpoints,
) -> Any:
    """(state, logs) after a step. Where memory runs out, what has been learnt is saved, if the step took none of it."""
    try:
        return next_state(state, batch)
    except Exception as error:
        whole = not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
        if is_out_of_memory(error) and whole and jax.process_count() == 1 and state.step:
            checkpoints.save(state, config=saved(config), score=None)
        raise


@contextmanager
def memory_told(config: ConfigDict, mesh: Mesh, checkpoints: Checkpoints) -> Iterator[None]:
    """Where memory runs out within, one line says what takes less, and where training goes on from."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        checkpoints.wait()
        train, step = config.train, checkpoints.latest()
        smaller = smaller_steps(train.batch_size, train.accumulate, mesh.size, remat=config.network.remat)
        kept = f"step {step} is saved, and the same command goes on from there" if step else "nothing is saved yet"
        raise UserError(
            f"out of memory in a step of train.batch_size={train.batch_size} images: {smaller}; {kept}"
        ) from error

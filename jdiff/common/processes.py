"""Several processes that train one model (jax.distributed). Free of JAX until it is asked: data workers do without."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from jdiff.common.errors import UserError

T = TypeVar("T")


def is_first_process() -> bool:
    """Whether this is the process that writes the run's files."""
    import jax

    return jax.process_index() == 0


def wait_for_all_processes(name: str) -> None:
    """Wait until all processes have come to the point of this name."""
    import jax

    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def of_first_process(find: Callable[[], T]) -> T:
    """What the first process finds, of JSON's types, on every process, which must all call it; so is a UserError."""
    import jax

    if jax.process_count() == 1:
        return find()
    from jax.experimental import multihost_utils

    answer = b""
    if is_first_process():
        try:
            answer = json.dumps({"found": find()}).encode()
        except UserError as error:
            answer = json.dumps({"error": str(error)}).encode()
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(answer))))
    sent = np.frombuffer(answer.ljust(length), np.uint8)
    told = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(sent)).astype(np.uint8).tobytes())
    if "error" in told:
        raise UserError(told["error"])
    return told["found"]


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """What is done within is done by the first process, and after that by the others, who find its files."""
    if not is_first_process():
        wait_for_all_processes("the first process is done")
    try:
        yield
    finally:  # of an error too, which the others come to by themselves
        if is_first_process():
            wait_for_all_processes("the first process is done")

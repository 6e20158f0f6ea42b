"""Several processes that train one model (jax.distributed). Free of JAX until it is asked: data workers do without."""

import contextlib
from collections.abc import Iterator


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


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """What is done within is done by the first process, and after that by the others, who find its files."""
    if not is_first_process():
        wait_for_all_processes("the first process is done")
    yield
    if is_first_process():
        wait_for_all_processes("the first process is done")

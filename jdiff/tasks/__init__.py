"""What is trained. A task is a frozen dataclass with two functions, and that is all that training knows of it:

    init(key, batch) -> params, state
    loss(params, state, batch, key, step, *, train) -> loss, (state, logs)

`loss` is the mean over the batch; with train=False nothing random but what the objective itself draws from the key (no
dropout, no dropped condition), which is how held-out images are scored. `state` is what a task keeps beside its
parameters ({} for most); logs are scalars by name.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, PyTree


@runtime_checkable
class Task(Protocol):
    """What training knows of a task (see above)."""

    def init(self, key: Array, batch: Any) -> tuple[PyTree, PyTree]:
        """(params, state) at initialisation; of `batch` the shapes alone matter."""

    def loss(
        self, params: PyTree, state: PyTree, batch: Any, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        """(loss, (state, logs))."""

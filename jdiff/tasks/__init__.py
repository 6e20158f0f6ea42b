"""What is trained. A task is a frozen dataclass; training knows of it what the protocol `Task` says, no more."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, PyTree

from jdiff.common.weights import Weights
from jdiff.spaces import Space


@runtime_checkable
class Task(Protocol):
    """space: what its x lives in. averaged: the top groups of params that are averaged and that samplers load; (): all.
    sampling_task: the task that a sampler uses, which is this one for most. reads_average: the loss finds the averaged
    weights in the state, under "average" (and does with its own where they are not there).

    init(key, batch) -> params, state
    loss(params, state, batch, key, step, *, train) -> loss, (state, logs)
        The mean over the batch; logs are scalars by name. train=False: nothing is random but the objective's own draws
        from the key (no dropout, no dropped condition), which is how held-out images are scored.
    merged(weights) -> the weights of `sampling_task`, given this task's averaged ones
    init_from(weights, pretrained) -> initial weights for training, given random ones and pretrained ones of
        `sampling_task`
    """

    @property
    def space(self) -> Space: ...
    @property
    def averaged(self) -> tuple[str, ...]: ...
    @property
    def reads_average(self) -> bool:
        return False

    @property
    def sampling_task(self) -> "Task": ...
    def init(self, key: Array, batch: Any) -> tuple[PyTree, PyTree]: ...
    def loss(
        self, params: PyTree, state: PyTree, batch: Any, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]: ...
    def merged(self, weights: Weights) -> Weights: ...
    def init_from(self, weights: Weights, pretrained: Weights) -> Weights: ...


__all__ = ["Task", "Weights"]

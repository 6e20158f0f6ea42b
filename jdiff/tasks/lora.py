"""Another task with its network frozen, and low-rank parts beside the kernels in its place (networks/lora.py)."""

from dataclasses import dataclass

from jaxtyping import Array, PyTree

from jdiff.common.keys import named
from jdiff.networks import lora
from jdiff.networks.conditioning import is_conditioner
from jdiff.tasks.diffusion import DiffusionTask


@dataclass(frozen=True, kw_only=True)
class LoRATask:
    """task: whose weights are frozen, under "frozen" in the task's state, which checkpoints leave out. rank, alpha,
    layers: see networks/lora.py. The conditions' embedders are trained whole: they may be new.
    """

    task: DiffusionTask
    rank: int
    alpha: float
    layers: tuple[str, ...] = lora.LAYERS

    def init(self, key: Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        frozen, state = self.task.init(key, batch)
        network = frozen["network"]
        parts = lora.init(named(key, "lora"), network, rank=self.rank, layers=self.layers)
        return {"parts": parts, **_conditioner(network)}, {**state, "frozen": frozen}

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        loss, (_, logs) = self.task.loss(self.whole(params, state["frozen"]), {}, batch, key, step, train=train)
        return loss, (state, logs)

    def whole(self, params: PyTree, frozen: PyTree) -> PyTree:
        """The task's weights with the low-rank parts merged in."""
        network = {**frozen["network"], **_conditioner(params)}
        return {**frozen, "network": lora.merged(network, params["parts"], alpha=self.alpha)}

    def with_conditioner(self, params: PyTree, frozen: PyTree) -> PyTree:
        """`params` with the conditions' embedders of these frozen weights, which training goes on from."""
        return {**params, **_conditioner(frozen["network"])}


def _conditioner(params: PyTree) -> PyTree:
    return {name: part for name, part in params.items() if is_conditioner(name)}

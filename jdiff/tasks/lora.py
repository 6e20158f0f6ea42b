"""Fine-tuning of a diffusion task's network by low-rank adaptation."""

from dataclasses import dataclass

from jaxtyping import Array, PyTree

from jdiff.common.keys import named
from jdiff.networks import lora
from jdiff.networks.conditioning import is_conditioner
from jdiff.tasks.diffusion import DiffusionTask


@dataclass(frozen=True, kw_only=True)
class LoRATask:
    """Train W' = W + (alpha / rank) A B with W frozen (networks/lora.py) by the loss of `task`, and the conditions'
    embedders whole, since they may be new. The frozen weights are state["frozen"], which checkpoints leave out.
    """

    task: DiffusionTask
    rank: int
    alpha: float
    layers: tuple[str, ...] = lora.LAYERS

    def init(self, key: Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        """({"parts": the factors A and B, the embedders}, the state of `task` and "frozen")."""
        frozen, state = self.task.init(key, batch)
        network = frozen["network"]
        parts = lora.init(named(key, "lora"), network, rank=self.rank, layers=self.layers)
        return {"parts": parts, **_conditioner(network)}, {**state, "frozen": frozen}

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        """The loss of `task` with the merged weights."""
        loss, (_, logs) = self.task.loss(self.whole(params, state["frozen"]), {}, batch, key, step, train=train)
        return loss, (state, logs)

    def whole(self, params: PyTree, frozen: PyTree) -> PyTree:
        """The weights of `task` with A B merged into W."""
        network = {**frozen["network"], **_conditioner(params)}
        return {**frozen, "network": lora.merged(network, params["parts"], alpha=self.alpha)}

    def with_conditioner(self, params: PyTree, frozen: PyTree) -> PyTree:
        """`params` with the conditions' embedders of the frozen weights, from which training starts."""
        return {**params, **_conditioner(frozen["network"])}


def _conditioner(params: PyTree) -> PyTree:
    return {name: part for name, part in params.items() if is_conditioner(name)}

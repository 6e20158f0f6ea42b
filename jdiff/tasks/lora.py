"""Low-rank adaptation: another task with its network frozen, and low-rank parts beside the kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
from jaxtyping import Array, PyTree

from jdiff.common.keys import named
from jdiff.networks import lora
from jdiff.networks.conditioning import is_conditioner
from jdiff.spaces import Space
from jdiff.tasks import Weights
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training.step import FROZEN


@dataclass(frozen=True, kw_only=True, eq=False)
class LoRATask:
    """The loss of `task` with W + (alpha / rank) A B in place of each adapted kernel W (Hu et al., arXiv 2106.09685).

    The frozen weights lie under "frozen" in the state, which checkpoints leave out. rank, alpha, layers: see
    networks/lora.py. The conditions' embedders are trained whole: they may be new.
    """

    task: DiffusionTask
    rank: int
    alpha: float
    layers: tuple[str, ...] = lora.LAYERS
    averaged: tuple[str, ...] = ()

    @property
    def space(self) -> Space:
        return self.task.space

    @property
    def sampling_task(self) -> DiffusionTask:
        return self.task

    def init(self, key: Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        frozen, state = self.task.init(key, batch)
        network = frozen["network"]
        parts = lora.init(named(key, "lora"), network, rank=self.rank, layers=self.layers)
        return {"parts": parts, **_conditioner(network)}, {**state, FROZEN: frozen}

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        own = {name: part for name, part in state.items() if name != FROZEN}
        loss, (own, logs) = self.task.loss(self._merged(params, state[FROZEN]), own, batch, key, step, train=train)
        return loss, ({**own, FROZEN: state[FROZEN]}, logs)

    def merged(self, weights: Weights) -> Weights:
        """The task's weights with the low-rank parts merged in."""
        own = {name: part for name, part in weights.state.items() if name != FROZEN}
        return Weights(self._merge_compiled(weights.params, weights.state[FROZEN]), own)

    def init_from(self, weights: Weights, pretrained: Weights) -> Weights:
        """The parts stand beside `pretrained`, which stays frozen; training goes on from copies of its embedders."""
        params = {**weights.params, **_conditioner(pretrained.params["network"])}
        return Weights(params, {**weights.state, **pretrained.state, FROZEN: pretrained.params})

    @cached_property
    def _merge_compiled(self) -> Callable[[PyTree, PyTree], PyTree]:
        return jax.jit(self._merged)  # traced once, not at every picture

    def _merged(self, params: PyTree, frozen: PyTree) -> PyTree:
        network = {**frozen["network"], **_conditioner(params)}
        return {**frozen, "network": lora.merged(network, params["parts"], alpha=self.alpha)}


def _conditioner(params: PyTree) -> PyTree:
    return {name: part for name, part in params.items() if is_conditioner(name)}

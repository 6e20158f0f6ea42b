"""A task of denoisers whose network is frozen, with small parts that are trained beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array, PyTree

from jdiff.common.keys import named
from jdiff.networks import lora
from jdiff.networks.adapter import ADAPTER
from jdiff.networks.conditioning import is_conditioner
from jdiff.spaces import Space
from jdiff.tasks import Weights
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.tasks.flow_map import FlowMapTask
from jdiff.training.step import AVERAGE, FROZEN


@runtime_checkable
class Parts(Protocol):
    """What is trained beside a frozen network's parameters."""

    def init(self, key: Array, network: PyTree) -> PyTree:
        """The parts' parameters beside random weights."""
        ...

    def beside(self, parts: PyTree, network: PyTree) -> PyTree:
        """The parts' parameters beside pretrained weights, where training starts."""
        ...

    def frozen(self, network: PyTree) -> PyTree:
        """What stays of the network's parameters."""
        ...

    def merged(self, network: PyTree, parts: PyTree) -> PyTree:
        """The parameters of the frozen network with its parts."""
        ...


@dataclass(frozen=True)
class LowRank:
    """W + (alpha / rank) A B in place of each adapted kernel W (Hu et al., arXiv 2106.09685); see networks/lora.py.

    The conditions' embedders are trained whole: they may be new.
    """

    rank: int
    alpha: float
    layers: tuple[str, ...] = lora.LAYERS

    def init(self, key: Array, network: PyTree) -> PyTree:
        parts = lora.init(named(key, "lora"), network, rank=self.rank, layers=self.layers)
        return {"parts": parts, **_conditioner(network)}

    def beside(self, parts: PyTree, network: PyTree) -> PyTree:
        return {**parts, **_conditioner(network)}

    def frozen(self, network: PyTree) -> PyTree:
        return network

    def merged(self, network: PyTree, parts: PyTree) -> PyTree:
        return lora.merged({**network, **_conditioner(parts)}, parts["parts"], alpha=self.alpha)


@dataclass(frozen=True)
class Adapted:
    """The network's adapter (Zhang et al., arXiv 2302.05543); see networks/adapter.py."""

    def init(self, key: Array, network: PyTree) -> PyTree:
        return {ADAPTER: network[ADAPTER]}

    def beside(self, parts: PyTree, network: PyTree) -> PyTree:
        return {ADAPTER: network[ADAPTER]}

    def frozen(self, network: PyTree) -> PyTree:
        return {name: part for name, part in network.items() if name != ADAPTER}

    def merged(self, network: PyTree, parts: PyTree) -> PyTree:
        return {**network, **parts}


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenTask:
    """The loss of `task`, whose network is frozen but for `parts`.

    The frozen weights lie under "frozen" in the state, which checkpoints leave out.
    """

    task: DiffusionTask | FlowMapTask
    parts: Parts
    averaged: tuple[str, ...] = ()

    @property
    def space(self) -> Space:
        return self.task.space

    @property
    def sampling_task(self) -> DiffusionTask:
        return self.task.sampling_task

    @property
    def reads_average(self) -> bool:
        return self.task.reads_average

    def init(self, key: Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        params, state = self.task.init(key, batch)
        return self.parts.init(key, params["network"]), {**state, FROZEN: self.frozen(params)}

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        own = {name: part for name, part in state.items() if name not in (FROZEN, AVERAGE)}
        average = {AVERAGE: self._merged(state[AVERAGE], state[FROZEN])} if AVERAGE in state else {}
        merged = self._merged(params, state[FROZEN])
        loss, (after, logs) = self.task.loss(merged, {**own, **average}, batch, key, step, train=train)
        return loss, ({**state, **{name: part for name, part in after.items() if name != AVERAGE}}, logs)

    def merged(self, weights: Weights) -> Weights:
        """The task's weights with the parts merged in."""
        own = {name: part for name, part in weights.state.items() if name != FROZEN}
        return Weights(self._merge_compiled(weights.params, weights.state[FROZEN]), own)

    def init_from(self, weights: Weights, pretrained: Weights) -> Weights:
        """The parts stand beside `pretrained`, which stays frozen."""
        params = self.parts.beside(weights.params, pretrained.params["network"])
        return Weights(params, {**weights.state, **pretrained.state, FROZEN: self.frozen(pretrained.params)})

    def frozen(self, params: PyTree) -> PyTree:
        """What stays of the task's parameters."""
        return {**params, "network": self.parts.frozen(params["network"])}

    @cached_property
    def _merge_compiled(self) -> Callable[[PyTree, PyTree], PyTree]:
        return jax.jit(self._merged)  # traced once, not at every picture

    def _merged(self, params: PyTree, frozen: PyTree) -> PyTree:
        return {**frozen, "network": self.parts.merged(frozen["network"], params)}


def _conditioner(params: PyTree) -> PyTree:
    return {name: part for name, part in params.items() if is_conditioner(name)}

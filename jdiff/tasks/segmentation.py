"""The segmentation task: a network that names the class of each pixel of an image, without diffusion."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jdiff.common.keys import named
from jdiff.conditions import Condition
from jdiff.spaces.masks import Masks
from jdiff.tasks import Weights

SMOOTH = 1.0  # pixels, in both halves of the Dice loss, which is 0 for an empty mask that is found empty


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentationTask:
    """loss = mean over images of CE + Dice of p, the classes' probabilities by softmax of the network's logits:

        CE = mean over pixels of -ln p[true class],     Dice = mean over k >= 1 of 1 - (2 sum p_k t_k + 1) / (sum p_k +
        sum t_k + 1)

    (Isensee et al., nnU-Net, Nature Methods 18, 2021). t: the mask, one-hot; class 0 is the background. network: that
    of a diffusion model of these masks, which is shown an empty x at c_noise = 0, and the conditions.
    """

    network: nn.Module
    space: Masks
    conditions: tuple[Condition, ...]
    averaged: tuple[str, ...] = ("network",)

    reads_average = False

    @property
    def sampling_task(self) -> "SegmentationTask":
        return self

    def init(self, key: Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        x = jnp.zeros((len(batch["x0"]), *self.space.shape))
        return {"network": self.network.init(key, x, jnp.zeros(len(x)), self._known(batch["cond"]))["params"]}, {}

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        dropout = named(key, "dropout") if train else None
        ln_p = self.ln_probabilities(Weights(params, state), batch["cond"], dropout)
        truth = jax.nn.one_hot(self.space.numbers(batch["x0"]), ln_p.shape[-1])
        entropy = -jnp.mean(jnp.sum(truth * ln_p, axis=-1))
        p, t = jnp.exp(ln_p)[..., 1:], truth[..., 1:]
        shared, sizes = jnp.sum(p * t, axis=(1, 2)), jnp.sum(p + t, axis=(1, 2))
        dice = jnp.mean((2 * shared + SMOOTH) / (sizes + SMOOTH))
        return entropy + 1 - dice, (state, {"cross_entropy": entropy, "soft_dice": dice})

    def ln_probabilities(
        self, weights: Weights, cond: Any, dropout: Array | None = None
    ) -> Float[Array, "b h w classes"]:
        """Of each pixel's class, given the conditions. dropout: its key; None: off."""
        known = self._known(cond)
        count = len(jax.tree.leaves(known)[0])
        x, rngs = jnp.zeros((count, *self.space.shape)), {} if dropout is None else {"dropout": dropout}
        params = {"params": weights.params["network"]}
        logits: Any = self.network.apply(params, x, jnp.zeros(count), known, train=bool(rngs), rngs=rngs)
        return self.space.of_logits(logits)

    def merged(self, weights: Weights) -> Weights:
        return weights

    def init_from(self, weights: Weights, pretrained: Weights) -> Weights:
        return pretrained

    def _known(self, cond: Any) -> dict[str, Any]:
        """What the network is told; `conditions` are never dropped."""
        return {each.name: each.encode(cond[each.name]) for each in self.conditions if each.name in cond}

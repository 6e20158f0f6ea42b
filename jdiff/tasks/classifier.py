"""The classifier task: which class an image is of."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Num, PyTree

from jdiff.common.keys import named
from jdiff.spaces import Space
from jdiff.tasks import Weights


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierTask:
    """loss = mean over images of -ln softmax(logits)[label]. network: x [B, h, w, c] -> (logits, features)."""

    network: nn.Module
    space: Space
    averaged: tuple[str, ...] = ()

    reads_average = False

    @property
    def sampling_task(self) -> "ClassifierTask":
        return self

    def init(self, key: Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        return self.network.init(key, jnp.zeros((len(batch["x0"]), *self.space.shape)))["params"], {}

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        labels = batch["cond"]["label"]
        x = self.space.encode(Weights(params, state), batch["x0"], named(key, "encode"))
        logits, _ = self.network.apply({"params": params}, x, train=train, rngs={"dropout": key} if train else None)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (state, {"accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == labels)})

    def classify(self, weights: Weights, images: Num[Array, "b h w c"]) -> tuple[Array, Array]:
        """(logits [B, classes], features [B, F]) of images."""
        return self.logits(weights, self.space.encode(weights, images, None))

    def logits(self, weights: Weights, x: Float[Array, "b h w c"]) -> tuple[Array, Array]:
        """(logits [B, classes], features [B, F]) of images as the space has them."""
        return self.network.apply({"params": weights.params}, x)  # type: ignore[return-value]

    def merged(self, weights: Weights) -> Weights:
        return weights

    def init_from(self, weights: Weights, pretrained: Weights) -> Weights:
        return pretrained


@struct.dataclass
class ClassProbability:
    """(x, sigma, cond) -> ln p(cond["label"] | x) [B] by a classifier of clean images, with its weights."""

    task: ClassifierTask = struct.field(pytree_node=False)
    weights: Any

    def __call__(self, x: Float[Array, "b h w c"], sigma: Array, cond: Any) -> Float[Array, " b"]:
        logits, _ = self.task.logits(self.weights, x)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), cond["label"][:, None], axis=1)[:, 0]

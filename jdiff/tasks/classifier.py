"""The classifier task."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Num, PyTree

from jdiff.common.pictures import to_float


@dataclass(frozen=True, kw_only=True)
class ClassifierTask:
    """Learn the class of an image: loss = mean over images of -ln softmax(logits)[label]."""

    network: nn.Module  # images -> (logits, features)

    def init(self, key: Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        """(params, {}) for images of the shape of batch["x0"]."""
        return self.network.init(key, to_float(batch["x0"]))["params"], {}

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        """Cross-entropy with batch["cond"]["label"]; logs the accuracy."""
        labels = batch["cond"]["label"]
        rngs = {"dropout": key} if train else None
        logits, _ = self._apply(params, batch["x0"], train=train, rngs=rngs)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (state, {"accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == labels)})

    def classify(self, params: PyTree, images: Num[Array, "b h w c"]) -> tuple[Array, Array]:
        """(logits [B, classes], features [B, F]) of images."""
        return self._apply(params, images)

    def _apply(self, params: PyTree, images: Array, **kwargs: Any) -> Any:
        return self.network.apply({"params": params}, to_float(images), **kwargs)

"""LPIPS, the learned perceptual distance of two images, version 0.1 (Zhang et al., arXiv 1801.03924).

d(x, y) = sum_l mean_pixels w_l . (f_l(x) - f_l(y))^2, where f_l is the l-th layer of a classifier with each pixel's
channels divided by their length, and w_l >= 0 is learned.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jdiff.networks.layers import Conv

SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)


class VGG16(nn.Module):
    """x -> the five layers relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 (Simonyan & Zisserman, arXiv 1409.1556)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> list[Array]:
        layers = []
        for stage, (features, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
            if stage:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for layer in range(depth):
                x = nn.relu(Conv(features, name=f"conv{stage + 1}_{layer + 1}")(x))
            layers.append(x)
        return layers


class AlexNet(nn.Module):
    """x -> the outputs of its five convolutions after ReLU (Krizhevsky, arXiv 1404.5997)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> list[Array]:
        layers = [nn.relu(Conv(64, 11, stride=4, padding=(2, 2), name="conv1")(x))]
        for index, (features, size) in enumerate(((192, 5), (384, 3), (256, 3), (256, 3)), start=2):
            x = nn.max_pool(layers[-1], (3, 3), (2, 2)) if index < 4 else layers[-1]
            layers.append(nn.relu(Conv(features, size, name=f"conv{index}")(x)))
        return layers


class LPIPS(nn.Module):
    """Two batches of images of [-1, 1] -> their distances [B], float32. Sides are at least 16 pixels with VGG, 31 with
    AlexNet.
    """

    tower: Literal["vgg", "alex"]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], y: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
        with jax.default_matmul_precision("highest"):
            both = (jnp.concatenate([x, y]) - SHIFT) / SCALE
            layers = (VGG16 if self.tower == "vgg" else AlexNet)(name="tower")(both)
            distance = jnp.zeros(x.shape[0])
            for index, layer in enumerate(layers):
                # A root has no derivative at 0, where a pixel's channels are all off.
                length = jnp.sqrt(jnp.maximum(jnp.sum(layer**2, axis=-1, keepdims=True), 1e-20))
                fx, fy = jnp.split(layer / (length + 1e-10), 2)
                weight = self.param(f"weight_{index}", nn.initializers.ones, (layer.shape[-1], 1))
                distance += jnp.mean(((fx - fy) ** 2) @ weight, axis=(1, 2, 3))
            return distance

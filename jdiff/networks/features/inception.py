"""The Inception-v3 of FID: TensorFlow's graph of 2015-12-05 (Szegedy et al., arXiv 1512.00567), for inference.

It differs from later Inception-v3s (torchvision's): 1,008 classes, average pools that do not count the padding, and a
max pool in the last block. Modules have torchvision's names; in TensorFlow's graph Mixed_5b ... Mixed_7c are mixed ...
mixed_10.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jdiff.networks.features.space import Input
from jdiff.networks.layers import Dense

NAME = "inception-2015-12-05"
SIDE = 299
_128, _127 = (128.0,) * 3, (127.5,) * 3
# torch-fidelity, EDM and the original: inside the network there.
TF1 = Input(resize="tf1", size=SIDE, offset=_128, scale=_128)
PYTORCH_FID = Input(resize="torch", size=SIDE, offset=_127, scale=_127)
CLEAN = Input(resize="clean", size=SIDE, offset=_128, scale=_128)


class InceptionFeatures(NamedTuple):
    """What is read from the network, float32. A jitted function computes what it returns alone.

    block_64, block_192, block_768: mean over pixels after the first and second max pool, and after Mixed_6e
    spatial: the first 7 channels of Mixed_6d's 1x1 branch at each of 17 x 17 pixels, sFID's (Nash et al., arXiv
    2103.03841)
    pool: the mean over the last 8 x 8 pixels, FID's
    logits_unbiased, logits: of 1,008 classes, without and with the last layer's bias. Inception Scores use the former.
    """

    block_64: Float[Array, "b 64"]
    block_192: Float[Array, "b 192"]
    block_768: Float[Array, "b 768"]
    spatial: Float[Array, "b 2023"]
    pool: Float[Array, "b 2048"]
    logits_unbiased: Float[Array, "b 1008"]
    logits: Float[Array, "b 1008"]


DIMENSIONS = {"block_64": 64, "block_192": 192, "block_768": 768, "spatial": 2023, "pool": 2048}
DIMENSIONS |= {"logits_unbiased": 1008, "logits": 1008}


class Inception(nn.Module):
    """Images [B, 299, 299, 3] of [-1, 1] (`TF1`, `PYTORCH_FID` and `CLEAN` make them) -> InceptionFeatures, all in full
    float32.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b 299 299 3"]) -> InceptionFeatures:
        with jax.default_matmul_precision("highest"):
            x = _conv(32, 3, "Conv2d_1a_3x3", x, stride=2, padding="VALID")
            x = _conv(32, 3, "Conv2d_2a_3x3", x, padding="VALID")
            x = _conv(64, 3, "Conv2d_2b_3x3", x)
            x = block_64 = _halved(x)
            x = _conv(80, 1, "Conv2d_3b_1x1", x)
            x = _conv(192, 3, "Conv2d_4a_3x3", x, padding="VALID")
            x = block_192 = _halved(x)
            x = MixedA(32, name="Mixed_5b")(x)
            x = MixedA(64, name="Mixed_5c")(x)
            x = MixedA(64, name="Mixed_5d")(x)
            x = MixedB(name="Mixed_6a")(x)
            x = MixedC(128, name="Mixed_6b")(x)
            x = MixedC(160, name="Mixed_6c")(x)
            x = MixedC(160, name="Mixed_6d")(x)
            spatial = x[..., :7].reshape(x.shape[0], -1)  # a block's output begins with its 1x1 branch
            x = block_768 = MixedC(192, name="Mixed_6e")(x)
            x = MixedD(name="Mixed_7a")(x)
            x = MixedE("avg", name="Mixed_7b")(x)
            x = MixedE("max", name="Mixed_7c")(x)
            pool = _mean(x)
            logits = Dense(1008, use_bias=False, name="fc")(pool)
            bias = self.param("fc_bias", nn.initializers.zeros, (1008,))
        return InceptionFeatures(
            _mean(block_64), _mean(block_192), _mean(block_768), spatial, pool, logits, logits + bias
        )


class ConvNorm(nn.Module):
    """relu(scale (conv(x) - mean) / sqrt(var + 1e-3) + bias), with stored mean and variance."""

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        scale, bias, mean, var = (
            self.param(name, init, (self.features,))
            for name, init in (("scale", ones), ("bias", zeros), ("mean", zeros), ("var", ones))
        )
        if self.kernel == (1, 1):  # XLA:CPU is slow at convolutions of 1x1
            y = x @ kernel[0, 0]
        else:
            dimensions = ("NHWC", "HWIO", "NHWC")
            y = lax.conv_general_dilated(x, kernel, (self.stride,) * 2, self.padding, dimension_numbers=dimensions)
        factor = scale * lax.rsqrt(var + 1e-3)
        return nn.relu(y * factor + (bias - mean * factor))


class MixedA(nn.Module):
    """35 x 35 pixels: branches of 1x1, 5x5, two of 3x3, and a pool."""

    pool_features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        ones = _conv(64, 1, "branch1x1", x)
        fives = _conv(48, 1, "branch5x5_1", x)
        fives = _conv(64, 5, "branch5x5_2", fives)
        threes = _conv(64, 1, "branch3x3dbl_1", x)
        threes = _conv(96, 3, "branch3x3dbl_2", threes)
        threes = _conv(96, 3, "branch3x3dbl_3", threes)
        pooled = _conv(self.pool_features, 1, "branch_pool", _avg_pool(x))
        return jnp.concatenate([ones, fives, threes, pooled], axis=-1)


class MixedB(nn.Module):
    """35 x 35 -> 17 x 17 pixels."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        three = _conv(384, 3, "branch3x3", x, stride=2, padding="VALID")
        threes = _conv(64, 1, "branch3x3dbl_1", x)
        threes = _conv(96, 3, "branch3x3dbl_2", threes)
        threes = _conv(96, 3, "branch3x3dbl_3", threes, stride=2, padding="VALID")
        return jnp.concatenate([three, threes, _halved(x)], axis=-1)


class MixedC(nn.Module):
    """17 x 17 pixels: branches of 1x1, 1x7 and 7x1 once and twice, and a pool."""

    inner: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        ones = _conv(192, 1, "branch1x1", x)
        once = _conv(self.inner, 1, "branch7x7_1", x)
        once = _conv(self.inner, (1, 7), "branch7x7_2", once)
        once = _conv(192, (7, 1), "branch7x7_3", once)
        twice = _conv(self.inner, 1, "branch7x7dbl_1", x)
        twice = _conv(self.inner, (7, 1), "branch7x7dbl_2", twice)
        twice = _conv(self.inner, (1, 7), "branch7x7dbl_3", twice)
        twice = _conv(self.inner, (7, 1), "branch7x7dbl_4", twice)
        twice = _conv(192, (1, 7), "branch7x7dbl_5", twice)
        pooled = _conv(192, 1, "branch_pool", _avg_pool(x))
        return jnp.concatenate([ones, once, twice, pooled], axis=-1)


class MixedD(nn.Module):
    """17 x 17 -> 8 x 8 pixels."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        three = _conv(192, 1, "branch3x3_1", x)
        three = _conv(320, 3, "branch3x3_2", three, stride=2, padding="VALID")
        sevens = _conv(192, 1, "branch7x7x3_1", x)
        sevens = _conv(192, (1, 7), "branch7x7x3_2", sevens)
        sevens = _conv(192, (7, 1), "branch7x7x3_3", sevens)
        sevens = _conv(192, 3, "branch7x7x3_4", sevens, stride=2, padding="VALID")
        return jnp.concatenate([three, sevens, _halved(x)], axis=-1)


class MixedE(nn.Module):
    """8 x 8 pixels: branches of 1x1, of 1x3 beside 3x1 after a 1x1 and after a 3x3, and a pool ("avg" or "max")."""

    pool: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        ones = _conv(320, 1, "branch1x1", x)
        once = _conv(384, 1, "branch3x3_1", x)
        once_split = [_conv(384, (1, 3), "branch3x3_2a", once), _conv(384, (3, 1), "branch3x3_2b", once)]
        twice = _conv(448, 1, "branch3x3dbl_1", x)
        twice = _conv(384, 3, "branch3x3dbl_2", twice)
        twice_split = [_conv(384, (1, 3), "branch3x3dbl_3a", twice), _conv(384, (3, 1), "branch3x3dbl_3b", twice)]
        pooled = _avg_pool(x) if self.pool == "avg" else nn.max_pool(x, (3, 3), (1, 1), "SAME")
        return jnp.concatenate([ones, *once_split, *twice_split, _conv(192, 1, "branch_pool", pooled)], axis=-1)


def _conv(
    features: int, kernel: int | tuple[int, int], name: str, x: Array, stride: int = 1, padding: str = "SAME"
) -> Array:
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    return ConvNorm(features, size, stride, padding, name=name)(x)


def _halved(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def _avg_pool(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _mean(x: Array) -> Array:
    return x.mean(axis=(1, 2))

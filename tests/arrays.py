"""Arrays for tests: noise, and parameters of a module."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def drawn(module, *inputs):
    """Parameters away from the zeros that some layers start with; drawn by NumPy, since compiling `init` takes long."""
    rng = np.random.default_rng(1)
    static = [value for value in inputs if isinstance(value, bool)]  # a block's `train`, which comes last
    arrays = inputs[: len(inputs) - len(static)]

    def draw(path, leaf):
        around = 1.0 if path[-1].key == "scale" else 0.0
        values = around + rng.normal(size=leaf.shape) / math.sqrt(max(1, math.prod(leaf.shape[:-1])))
        return jnp.asarray(values, jnp.float32)

    abstract = jax.eval_shape(lambda *arrays: module.init(jax.random.key(0), *arrays, *static), *arrays)
    return jax.tree.map_with_path(draw, abstract)


def perturbed(network, x, cond):
    """`drawn` parameters of a denoising network."""
    return drawn(network, x, np.zeros(len(x), np.float32), cond)

"""Low-rank adaptation (Hu et al., arXiv 2106.09685) of frozen kernels W [n, f] by trained factors A and B:

    W' = W + (alpha / r) A B,   A [n, r] ~ N(0, 1/n) and B [r, f] = 0 at initialisation

A convolution's kernel [h, w, c, f] is taken as the matrix [h w c, f].
"""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, PyTree

from jdiff.common.keys import named
from jdiff.networks.conditioning import is_conditioner

ATTENTION = ("q", "k", "v", "out")  # names of the layers of `MultiHead`
LAYERS = ("attention", "convolution")


def adapted(params: PyTree, layers: Iterable[str]) -> dict[tuple[str, ...], Any]:
    """The adapted kernels (arrays or shapes) by path: those of `layers`, except in the conditions' embedders."""

    def kind(path: tuple[str, ...], leaf: Any) -> str:
        if path[-1] != "kernel":
            return ""
        if len(leaf.shape) == 4:
            return "convolution"
        return "attention" if path[-2] in ATTENTION else ""

    flat = flatten_dict({name: part for name, part in params.items() if not is_conditioner(name)})
    return {path: leaf for path, leaf in flat.items() if kind(path, leaf) in layers}


def init(key: Array, params: PyTree, *, rank: int, layers: Iterable[str]) -> PyTree:
    """The initial factors, {..., "kernel": {"a": [n, r], "b": [r, f]}} for each adapted kernel of `params`."""
    factors = {}
    for path, kernel in adapted(params, layers).items():
        rows, features = _matrix(kernel)
        a = jax.random.normal(named(key, "/".join(path)), (rows, rank)) / jnp.sqrt(rows)
        factors[path] = {"a": a, "b": jnp.zeros((rank, features))}
    return unflatten_dict(factors)


def merged(params: PyTree, factors: PyTree, *, alpha: float) -> PyTree:
    """`params` with W' in place of each adapted W."""
    flat, flat_factors = flatten_dict(params), flatten_dict(factors)
    for *path, name in flat_factors:
        if name == "a":
            a, b = (flat_factors[*path, factor] for factor in "ab")
            kernel = flat[tuple(path)]
            flat[tuple(path)] = kernel + (alpha / a.shape[1]) * (a @ b).reshape(kernel.shape)
    return unflatten_dict(flat)


def _matrix(kernel: Any) -> tuple[int, int]:
    *rows, features = kernel.shape
    return math.prod(rows), features

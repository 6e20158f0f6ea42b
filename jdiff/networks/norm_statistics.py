"""The statistics of a network's group norms, taken from one input and used for others.

A group norm's mean and variance are over the pixels of its input, so that parts of an image that are computed apart
would each be normalised otherwise.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Statistics = Mapping[tuple[str, ...], tuple[Array, Array]]  # a norm's path -> mean and variance, [B, 1, 1, C] each


def norm_statistics(network: Callable[[Array], Any], x: Float[Array, "b h w c"]) -> Statistics:
    """Those of the group norms of network(x), an image's and a group's each."""
    taken: dict[tuple[str, ...], tuple[Array, Array]] = {}

    def take(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if _is_norm(context):
            h = args[0].astype(jnp.float32)
            width = h.shape[-1] // context.module.num_groups
            grouped = h.reshape(*h.shape[:-1], -1, width)
            mean, variance = grouped.mean((1, 2, 4), keepdims=True), grouped.var((1, 2, 4), keepdims=True)
            a_channel = partial(jnp.repeat, repeats=width, axis=-1)
            taken[context.module.path] = a_channel(mean[..., 0]), a_channel(variance[..., 0])
        return call(*args, **kwargs)

    with nn.intercept_methods(take):
        network(x)
    return taken


def with_norm_statistics(network: Callable[[Array], Any], statistics: Statistics) -> Callable[[Array], Any]:
    """The network, each group norm being scale (h - mean) / sqrt(variance + eps) + shift with the statistics given."""

    def use(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if not _is_norm(context):
            return call(*args, **kwargs)
        norm, (mean, variance) = context.module, statistics[context.module.path]
        learned = norm.variables["params"]
        h = (args[0].astype(jnp.float32) - mean) * jax.lax.rsqrt(variance + norm.epsilon)
        return (h * learned["scale"] + learned["bias"]).astype(norm.dtype)

    def called(x: Array) -> Any:
        with nn.intercept_methods(use):
            return network(x)

    return called


def _is_norm(context: nn.module.InterceptorContext) -> bool:
    return isinstance(context.module, nn.GroupNorm) and context.method_name == "__call__"

"""Optimizers, from optax."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree


def make_optimizer(
    name: Literal["adam", "adamw"],
    *,
    learning_rate: float,
    warmup_steps: int,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba, arXiv 1412.6980) or AdamW (Loshchilov & Hutter, 1711.05101) with a linear warmup to a constant
    learning rate, after clipping of the gradient's global norm to clip_norm (0: no clipping).
    """
    rate: optax.ScalarOrSchedule = learning_rate
    if warmup_steps:
        rate = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, max(1, warmup_steps - 1))
    if name == "adam":
        rule = optax.adam(rate, b1=b1, b2=b2, eps=eps)
    else:
        rule = optax.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(clip_norm), rule) if clip_norm else rule


def carried_over(state: PyTree, optimizer: optax.GradientTransformation, params: PyTree) -> PyTree:
    """The state of another optimizer of this family as one of `optimizer`: the same moments and count of steps, at the
    places that clipping, weight decay and a schedule give them here.
    """
    wanted = jax.eval_shape(optimizer.init, params)
    if str(jax.tree.structure(wanted)) == str(jax.tree.structure(state)):
        return state
    parts = {name: optax.tree_utils.tree_get_all_with_path(state, name)[0][1] for name in ("mu", "nu", "count")}
    # Copies: the state is donated, and no buffer can be given away twice.
    return jax.tree.map(jnp.copy, optax.tree_utils.tree_set(wanted, **parts))

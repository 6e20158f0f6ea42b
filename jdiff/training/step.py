"""One training step: loss, gradient, update, average; pure, jitted once, its state donated.

A step whose loss or gradient is not finite changes nothing but the counters.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, PyTree

from jdiff.common.keys import folded, wrapped
from jdiff.training.ema import Ema, groups

FROZEN = "frozen"  # a part of a task's state that no checkpoint holds: it comes from where it came from at first

Logs: TypeAlias = dict[str, Float[Array, ""]]
# (params, state, batch, key, step) -> loss, (state, logs)
Loss: TypeAlias = Callable[[PyTree, PyTree, PyTree, Array, Array], tuple[Array, tuple[PyTree, Logs]]]


@struct.dataclass
class TrainState:
    """All that a run is at a step; the batch and the noise of step k follow from `key` and k.

    Leaves are arrays, or what stands for them: shapes, shardings.
    """

    step: Any  # int32 []
    key: Any  # the data of a typed key, uint32 [...], as checkpoints hold it
    params: PyTree
    ema: PyTree
    task_state: PyTree  # what a task keeps beside its parameters, such as a codebook's averages
    opt_state: PyTree
    skipped: Any  # int32 []: steps skipped since the start, for a loss or gradient that was not finite
    skipped_in_row: Any  # int32 []


def init_state(
    params: PyTree,
    task_state: PyTree,
    optimizer: optax.GradientTransformation,
    key: Array,
    averaged: tuple[str, ...] = (),
) -> TrainState:
    """The state before the first step. averaged: see `train_step`."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        key=jax.random.key_data(key),
        params=params,
        ema=jax.tree.map(
            jnp.copy, groups(params, averaged)
        ),  # copies: the state is donated, and no buffer can be given away twice
        task_state=task_state,
        opt_state=optimizer.init(params),
        skipped=jnp.copy(zero),
        skipped_in_row=jnp.copy(zero),
    )


def train_step(
    state: TrainState,
    batch: PyTree,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    ema: Ema,
    averaged: tuple[str, ...] = (),
    batch_size: int,
    accumulate: int = 1,
) -> tuple[TrainState, Logs]:
    """The state after one step, and what to log: the task's logs, the loss and the gradient's norm.

    averaged: the top groups of params that are averaged; (): all.
    accumulate: the batch goes through in so many parts, whose gradients are averaged.
    """
    key = folded(wrapped(state.key), state.step)
    gradient = partial(_gradient, loss, state.params, step=state.step)
    if accumulate == 1:
        grads, task_state, logs = gradient(state.task_state, batch, key)
    else:
        grads, task_state, logs = _accumulated(gradient, state.task_state, batch, key, accumulate)

    logs["grad_norm"] = optax.global_norm(grads)
    finite = jnp.isfinite(logs["loss"]) & jnp.isfinite(logs["grad_norm"])
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = ema.update(state.ema, groups(params, averaged), state.step, batch_size)
    after = (params, average, task_state, opt_state)
    before = (state.params, state.ema, state.task_state, state.opt_state)
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
    skipped = state.skipped + ~finite
    skipped_in_row = jnp.where(finite, 0, state.skipped_in_row + 1)
    params, average, task_state, opt_state = kept
    return TrainState(
        step=state.step + 1,
        key=state.key,
        params=params,
        ema=average,
        task_state=task_state,
        opt_state=opt_state,
        skipped=skipped,
        skipped_in_row=skipped_in_row,
    ), logs


def _gradient(loss: Loss, params: PyTree, task_state: PyTree, batch: PyTree, key: Array, *, step: Array) -> Any:
    (value, (task_state, logs)), grads = jax.value_and_grad(loss, has_aux=True)(params, task_state, batch, key, step)
    return grads, task_state, {"loss": value, **logs}


def _accumulated(gradient: Callable, task_state: PyTree, batch: PyTree, key: Array, parts: int) -> Any:
    """Mean gradients and logs over `parts` parts of the batch, one after the other."""
    # Part j is rows j, j + parts, ...: every device holds its share of each part.
    split = jax.tree.map(lambda rows: rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1), batch)

    def add(carry, now):
        task_state, total = carry
        part, index = now
        grads, task_state, logs = gradient(task_state, part, folded(key, index))
        return (task_state, jax.tree.map(lambda t, new: t + new / parts, total, (grads, logs))), None

    first = jax.tree.map(lambda rows: rows[0], split)
    grads, _, logs = jax.eval_shape(gradient, task_state, first, key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (grads, logs))
    # XLA:CPU runs convolutions' gradients inside a loop some twenty times slower than outside: unroll there.
    unroll = parts if jax.default_backend() == "cpu" else 1
    (task_state, (grads, logs)), _ = jax.lax.scan(add, (task_state, zeros), (split, jnp.arange(parts)), unroll=unroll)
    return grads, task_state, logs

"""The training step, a pure function of state and batch."""

from collections.abc import Callable
from dataclasses import field, replace
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, PyTree

from jdiff.common.arrays import microbatches
from jdiff.common.keys import folded, wrapped
from jdiff.training.ema import Ema, PowerEma, groups

AVERAGE = "average"  # in a task's state, while a loss is computed that reads the averaged weights
NO_PROFILES = PowerEma()
FROZEN = "frozen"  # a part of a task's state that no checkpoint holds: it comes from where it came from at first

Logs: TypeAlias = dict[str, Float[Array, ""]]
# (params, state, batch, key, step) -> loss, (state, logs)
Loss: TypeAlias = Callable[[PyTree, PyTree, PyTree, Array, Array], tuple[Array, tuple[PyTree, Logs]]]


@struct.dataclass
class TrainState:
    """The state of a run. The random numbers of step k follow from `key` and k.

    The leaves are arrays, or their shapes or shardings.
    """

    step: Any  # int32 []
    key: Any  # uint32 [2], the data of a typed key, which orbax cannot save
    params: PyTree
    ema: PyTree
    task_state: PyTree  # of the task, beside its parameters, such as a codebook's averages
    opt_state: PyTree
    skipped: Any  # int32 []: skipped steps so far
    skipped_in_row: Any  # int32 []: skipped steps since the last good one
    profiles: PyTree = field(default_factory=dict)  # of a PowerEma; {} where none is kept


def init_state(
    params: PyTree,
    task_state: PyTree,
    optimizer: optax.GradientTransformation,
    key: Array,
    averaged: tuple[str, ...] = (),
    profiles: PowerEma = NO_PROFILES,
) -> TrainState:
    """The state of step 0. averaged, profiles: see `train_step`."""
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
        profiles=profiles.init(groups(params, averaged)),
    )


def train_step(
    state: TrainState,
    batch: PyTree,
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    ema: Ema,
    averaged: tuple[str, ...] = (),
    reads_average: bool = False,
    profiles: PowerEma = NO_PROFILES,
    batch_size: int,
    accumulate: int = 1,
) -> tuple[TrainState, Logs]:
    """The state after one step, and logs: the task's, the loss, and the gradient's norm.

    A step whose loss or gradient is not finite is skipped: only the counters change. averaged: the top groups of params
    that are averaged; (): all. reads_average: whether the loss finds the averaged weights in the task's state, under
    "average". profiles: the averages that are kept besides. accumulate: the number of microbatches, whose gradients are
    averaged.
    """
    key = folded(wrapped(state.key), state.step)
    gradient = partial(_gradient, loss, state.params, step=state.step)
    given = {**state.task_state, AVERAGE: state.ema} if reads_average else state.task_state
    if accumulate == 1:
        grads, task_state, logs = gradient(given, batch, key)
    else:
        grads, task_state, logs = _accumulated(gradient, given, batch, key, accumulate)
    if reads_average:
        task_state = {name: part for name, part in task_state.items() if name != AVERAGE}

    logs["grad_norm"] = optax.global_norm(grads)
    finite = jnp.isfinite(logs["loss"]) & jnp.isfinite(logs["grad_norm"])
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    now = groups(params, averaged)
    after = replace(
        state,
        params=params,
        ema=ema.update(state.ema, now, state.step, batch_size),
        task_state=task_state,
        opt_state=opt_state,
        profiles=profiles.update(state.profiles, now, batch_size),
    )
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
    return replace(
        kept,
        step=state.step + 1,
        skipped=state.skipped + ~finite,
        skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
    ), logs


def _gradient(loss: Loss, params: PyTree, task_state: PyTree, batch: PyTree, key: Array, *, step: Array) -> Any:
    (value, (task_state, logs)), grads = jax.value_and_grad(loss, has_aux=True)(params, task_state, batch, key, step)
    return grads, task_state, {"loss": value, **logs}


def _accumulated(gradient: Callable, task_state: PyTree, batch: PyTree, key: Array, count: int) -> Any:
    """The means of gradients and logs over `count` microbatches, computed one after the other."""
    parts = jax.tree.map(lambda rows: microbatches(rows, count), batch)

    def add(carry, now):
        task_state, total = carry
        microbatch, index = now
        grads, task_state, logs = gradient(task_state, microbatch, folded(key, index))
        return (task_state, jax.tree.map(lambda t, new: t + new / count, total, (grads, logs))), None

    first = jax.tree.map(lambda rows: rows[0], parts)
    grads, _, logs = jax.eval_shape(gradient, task_state, first, key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (grads, logs))
    # XLA:CPU runs convolutions' gradients inside a loop some twenty times slower than outside: unroll there.
    unroll = count if jax.default_backend() == "cpu" else 1
    inputs = (parts, jnp.arange(count))
    (task_state, (grads, logs)), _ = jax.lax.scan(add, (task_state, zeros), inputs, unroll=unroll)
    return grads, task_state, logs

"""Checkpoints by orbax, written asynchronously and atomically.

The checkpoint of step k holds three items:

    weights   for sampling: the averaged parameters and the task's state, without its part "frozen"
    training  for resuming, besides: parameters, optimizer state, key, step, counters
    meta      JSON: the config and the data position (batches consumed)
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jdiff.common.errors import UserError
from jdiff.training.step import FROZEN, TrainState

METRIC = "holdout_loss"


class Checkpoints:
    """The checkpoints in `directory`; a context manager that waits for the last save on exit.

    keep_last: the number of newest checkpoints to keep, beside the one with the lowest held-out loss. read_only:
    nothing is written or deleted, so that a run can be read while it trains. Raises UserError where `directory` is
    not writable.
    """

    def __init__(self, directory: Path, *, keep_last: int = 3, read_only: bool = False):
        self.directory = Path(directory).absolute()
        policies = [
            preservation_policy.LatestN(keep_last),
            preservation_policy.BestN(
                get_metric_fn=lambda metrics: -metrics[METRIC], n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        try:
            self._manager = ocp.CheckpointManager(
                self.directory,
                item_names=("weights", "training", "meta"),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
                    best_fn=lambda metrics: -metrics[METRIC],  # without it, orbax saves no metrics
                    cleanup_tmp_directories=not read_only,  # left by a crash during a save
                    create=not read_only,
                ),
            )
        except OSError as error:
            raise UserError(f"cannot write checkpoints to {self.directory}: {error}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is None:
            self.wait()
        self._manager.close()

    def latest(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step with the lowest held-out loss, or the newest where no loss is known."""
        scored = [(self._manager.metrics(step), step) for step in self._manager.all_steps()]
        losses = [(metrics[METRIC], step) for metrics, step in scored if metrics]
        return min(losses)[1] if losses else self.latest()

    def find(self, wanted: str) -> int | None:
        """The step of "latest", "best" or a number; None without any checkpoint. Raises UserError for other values."""
        if wanted in ("latest", "best"):
            return self.latest() if wanted == "latest" else self.best()
        steps = self.steps()
        if not wanted.isdigit() or (steps and int(wanted) not in steps):
            raise UserError(f"checkpoint {wanted!r}: there are {', '.join(map(str, steps))}, and latest, best")
        return int(wanted) if steps else None

    def steps(self) -> list[int]:
        """The steps that there are, ascending."""
        return sorted(self._manager.all_steps())

    def config(self, step: int) -> dict[str, Any]:
        """The config that the checkpoint of `step` was saved with."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]["config"]

    def set_aside(self, steps: Iterable[int], reason: str) -> Path:
        """Move the checkpoints of `steps` out of the run's way, into a folder beside this one that is named after the
        reason; the folder.
        """
        self.wait()
        folder = self.directory.parent / "set_aside" / reason
        while folder.exists():
            folder = folder.with_name(folder.name + "_again")
        if jax.process_index() == 0:
            folder.mkdir(parents=True)
            for step in steps:
                (self.directory / str(step)).rename(folder / str(step))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints are set aside")
        self._manager.reload()
        return folder

    def save(self, state: TrainState, *, config: Mapping[str, Any], holdout_loss: float | None) -> None:
        """Start saving `state`, after the save before. Raises UserError where the disk is full or not writable."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        weights, training = _split(state)
        items = ocp.args.Composite(
            weights=ocp.args.PyTreeSave(weights),
            training=ocp.args.PyTreeSave(training),
            meta=ocp.args.JsonSave({"config": dict(config), "batches_consumed": step}),
        )
        known = holdout_loss is not None and math.isfinite(holdout_loss)
        metrics = {METRIC: holdout_loss} if known else None
        try:
            self._manager.save(step, args=items, metrics=metrics)
        except Exception as error:
            raise self._refused(error) from error

    def wait(self) -> None:
        """Wait until the last save is on disk. Raises UserError where the disk is full or not writable."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._refused(error) from error

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state of `step` with the shapes, dtypes and shardings of `abstract`, and its part "frozen", if any."""
        weights, training = _split(abstract)
        items = ocp.args.Composite(weights=_restore(weights), training=_restore(training))
        restored = self._manager.restore(step, args=items)
        state = TrainState(**restored["weights"], **restored["training"])
        frozen = {name: part for name, part in abstract.task_state.items() if name == FROZEN}
        return dataclasses.replace(state, task_state={**state.task_state, **frozen})

    def restore_weights(self, step: int, abstract: PyTree) -> PyTree:
        """The item "weights" of `step`: {"ema", "task_state"} with the shapes, dtypes and shardings of `abstract`."""
        items = ocp.args.Composite(weights=_restore(_without_frozen(abstract)))
        return self._manager.restore(step, args=items)["weights"]

    def _refused(self, error: Exception) -> UserError:
        kept = ocp.utils.checkpoint_steps(self.directory)
        last = f"the checkpoint of step {max(kept)} is intact" if kept else "no earlier checkpoint exists"
        system = re.search(r": ([^:]+) \[os_error_code", str(error))  # as tensorstore words it
        why = system[1] if system else " ".join(str(error).split())[:300] or type(error).__name__
        return UserError(
            f"could not save a checkpoint in {self.directory}: {why}; {last}: make room or mend the permissions, "
            "then run the same command again to resume"
        )


def _restore(abstract: PyTree) -> ocp.args.PyTreeRestore:
    """The arrays of `abstract` alone: earlier checkpoints also average parameters that samplers do not load."""
    where = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(item=abstract, restore_args=where, partial_restore=True)


def _split(state: TrainState) -> tuple[PyTree, PyTree]:
    """The items (weights, training) of a state."""
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    weights = {name: parts.pop(name) for name in ("ema", "task_state")}
    return _without_frozen(weights), parts


def _without_frozen(weights: PyTree) -> PyTree:
    task_state = {name: part for name, part in weights["task_state"].items() if name != FROZEN}
    return {**weights, "task_state": task_state}

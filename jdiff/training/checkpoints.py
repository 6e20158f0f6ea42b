"""Checkpoints by orbax, written asynchronously and atomically.

The checkpoint of step k holds three items:

    weights   for sampling: the averaged parameters and the task's state, without its part "frozen"; power-function
              averages, where they are kept
    training  for resuming, besides: parameters, optimizer state, key, step, counters
    meta      JSON: the config and the data position (batches consumed)

and DIGESTS, by which files are known that are no longer as they were saved; it comes and goes with its checkpoint.

Which there are is read from the disk at every question: while a run trains, others read it, and its checkpoints come
and go.
"""

import dataclasses
import hashlib
import json
import math
import re
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore as ts
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jdiff.common import distributed
from jdiff.common.errors import UserError, first_line
from jdiff.common.files import replace_file
from jdiff.common.processes import is_first_process, of_first_process, wait_for_all_processes
from jdiff.training.step import FROZEN, TrainState

METRIC = "holdout_loss"
OF_SAMPLES = ("weights", "meta")
ALL = ("weights", "training", "meta")
DIGESTS = "digests.json"  # {file: digest}
ARRAYS = {".zarray": "zarr", "zarr.json": "zarr3"}  # an array's own file -> tensorstore's driver
SWEPT_WITHIN = 1.0  # seconds: a checkpoint that cannot be read and is still there is not being swept


class DamagedError(UserError):
    """A checkpoint cannot be read. fault: which, and why. earlier: the step of the newest whole one before it."""

    def __init__(self, fault: str, earlier: int | None):
        remedy = (
            f"the one of step {earlier} is whole: take it with sample.checkpoint={earlier}, or copy this one again"
            if earlier
            else "no earlier one is whole: copy it again"
        )
        super().__init__(f"{fault}; {remedy}")
        self.fault, self.earlier = fault, earlier


class Checkpoints:
    """The checkpoints in `directory`; a context manager that waits for the last save on exit.

    keep_last: the number of newest checkpoints to keep, beside the best one and that of step `keep`. best_by: the name
    of the score that is lowest at the best one. Raises UserError where `directory` is not writable.
    """

    def __init__(self, directory: Path, *, keep_last: int = 3, keep: int = 0, best_by: str = METRIC):
        self.directory = Path(directory).absolute()
        for step in steps(self.directory):
            _forget_torn_metrics(self.directory / str(step))
        self._keep_last, self._keep, self._best_by = keep_last, keep, best_by
        self._saving: int | None = None
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        policies = [
            preservation_policy.LatestN(self._keep_last),
            preservation_policy.CustomSteps([self._keep]),
            preservation_policy.BestN(get_metric_fn=self._goodness, n=1, keep_checkpoints_without_metrics=False),
        ]
        try:
            return ocp.CheckpointManager(
                self.directory,
                item_names=("weights", "training", "meta"),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
                    best_fn=self._goodness,  # without it, orbax saves no metrics
                    cleanup_tmp_directories=True,  # left by a crash during a save
                    # In the thread that saves and by the first process, before the checkpoint gets its name.
                    async_options=ocp.options.AsyncOptions(post_finalization_callback=self._digest),
                ),
            )
        except OSError as error:
            raise UserError(f"cannot write checkpoints to {self.directory}: {error}") from error

    def _goodness(self, metrics: Mapping[str, float]) -> float:
        return -metrics.get(self._best_by, math.inf)  # of checkpoints that were told apart by another score

    def _digest(self) -> None:
        """Write the digests of what is being saved."""
        name = str(self._saving)
        unfinished = self.directory.glob(f"{name}{ocp.utils.TMP_DIR_SUFFIX}*")
        folder = next(unfinished, self.directory / name)
        replace_file(folder / DIGESTS, json.dumps(_digests(folder), indent=1) + "\n")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is None:
            self.wait()
        self._manager.close()

    def latest(self) -> int | None:
        """The newest step on disk, or None."""
        return self.find("latest")

    def best(self) -> int | None:
        """The step with the lowest score, or the newest where none is known."""
        return self.find("best")

    def find(self, wanted: str) -> int | None:
        """The step of "latest", "best" or a number; None without any checkpoint. Raises UserError for other values."""
        return find(self.directory, wanted)

    def steps(self) -> list[int]:
        """The steps that there are, rising."""
        return steps(self.directory)

    def config(self, step: int) -> dict[str, Any]:
        """The config that the checkpoint of `step` was saved with. Raises DamagedError where it cannot be read."""
        return config_of(self.directory, step)

    def set_aside(self, steps: Iterable[int], reason: str) -> Path:
        """Move the checkpoints of `steps` out of the run's way, so that it can save these steps again: into a folder
        beside this one that is named after the reason; the folder.
        """
        self.wait()
        folder = self.directory.parent / "set_aside" / reason
        while folder.exists():
            folder = folder.with_name(folder.name + "_again")
        wait_for_all_processes(f"name {folder.name}")
        if is_first_process():
            folder.mkdir(parents=True)
            for step in steps:
                (self.directory / str(step)).rename(folder / str(step))
        wait_for_all_processes(f"set aside {folder.name}")
        self._manager.reload()
        return folder

    def save(self, state: TrainState, *, config: Mapping[str, Any], score: float | None) -> None:
        """Start saving `state`, after the save before. score: that of best_by, or None where it is not known. Raises
        UserError where the disk is full or not writable.
        """
        step = int(state.step)
        self.wait()
        if step in steps(self.directory):
            return
        self._saving = step
        weights, training = _split(state)
        items = ocp.args.Composite(
            weights=ocp.args.PyTreeSave(weights),
            training=ocp.args.PyTreeSave(training),
            meta=ocp.args.JsonSave({"config": dict(config), "batches_consumed": step}),
        )
        metrics = {self._best_by: score} if score is not None and math.isfinite(score) else None
        try:
            self._manager.save(step, args=items, metrics=metrics)
        except Exception as error:
            raise self._refused(error) from error

    def wait(self) -> None:
        """Wait until the last save is on disk. Raises UserError where the disk is full or not writable."""
        try:
            self._manager.wait_until_finished()
        except FileNotFoundError as error:
            if self._saving not in steps(self.directory):
                raise self._refused(error) from error
            self._manager = self._open()  # another sweeps too, and was quicker: what was saved is there
        except Exception as error:
            raise self._refused(error) from error

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state of `step` with the shapes, dtypes and shardings of `abstract`, and its part "frozen", if any.

        Raises DamagedError where it cannot be read.
        """
        _check_whole(self.directory, step, ALL)
        weights, training = _split(abstract)
        restored = _restored(self.directory / str(step), weights=weights, training=training)
        state = TrainState(**restored["weights"], **restored["training"])
        frozen = {name: part for name, part in abstract.task_state.items() if name == FROZEN}
        return dataclasses.replace(state, task_state={**state.task_state, **frozen})

    def _refused(self, error: Exception) -> UserError:
        kept = ocp.utils.checkpoint_steps(self.directory)
        last = f"the checkpoint of step {max(kept)} is intact" if kept else "no earlier checkpoint exists"
        system = re.search(r": ([^:]+) \[os_error_code", str(error))  # as tensorstore words it
        if not system:
            distributed.wait_for_verdict()  # a save takes all processes
        why = system[1] if system else " ".join(str(error).split())[:300] or type(error).__name__
        return UserError(
            f"could not save a checkpoint in {self.directory}: {why}; {last}: make room or mend the permissions, "
            "then run the same command again to resume"
        )


def config_of(directory: Path, step: int) -> dict[str, Any]:
    """The config that the checkpoint of `step` was saved with. Raises DamagedError where it cannot be read."""
    _check_whole(directory, step, ("meta",))
    return json.loads((directory / str(step) / "meta" / "metadata").read_bytes())["config"]


def steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in `directory`, rising."""
    try:
        return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
    except FileNotFoundError:
        return []


def find(directory: Path, wanted: str) -> int | None:
    """The step of "latest", "best" or a number; None without any checkpoint. Raises UserError for other values."""
    there = steps(directory)
    if wanted == "best":
        scored = {step: score for step in there if (score := _score(directory / str(step)))}
        of_newest = scored[max(scored)][0] if scored else ""  # a run may have gone on with another score
        losses = [(value, step) for step, (name, value) in scored.items() if name == of_newest]
        return min(losses)[1] if losses else max(there, default=None)
    if wanted == "latest" or not there:
        return max(there, default=None)
    if not wanted.isdigit() or int(wanted) not in there:
        raise UserError(f"checkpoint {wanted!r}: there are {', '.join(map(str, there))}, and latest, best")
    return int(wanted)


def read_weights(directory: Path, wanted: str, abstract: PyTree) -> tuple[int, PyTree] | None:
    """(step, parts of the item "weights", such as {"ema", "task_state"}, with the shapes, dtypes and shardings of
    `abstract`) of "latest", "best" or a step; None without any checkpoint. Where the run's training sweeps it
    meanwhile, of the one that is wanted then. Raises DamagedError where it cannot be read.
    """
    while True:
        found = of_first_process(partial(_found, directory, wanted))
        if found is None:
            return None
        step, why, earlier = found
        if why:
            raise DamagedError(why, earlier)
        path = directory / str(step)
        try:
            return step, _restored(path, weights=_without_frozen(abstract))["weights"]
        except UserError:
            if jax.process_count() > 1 or not damage(path, OF_SAMPLES):  # else it has been swept since
                raise


def _found(directory: Path, wanted: str) -> tuple[int, str, int | None] | None:
    """(the step that is wanted; what is wrong with it, "" where it is whole; the newest whole one before it). None
    without any checkpoint.
    """
    while True:
        step = find(directory, wanted)
        if step is None:
            return None
        path = directory / str(step)
        if not (why := damage(path, OF_SAMPLES)):
            return step, "", None
        until = time.monotonic() + SWEPT_WITHIN
        while path.is_dir() and time.monotonic() < until:
            time.sleep(0.05)
        if path.is_dir() and find(directory, wanted) == step:
            return step, *_fault(directory, step, why, OF_SAMPLES)


def damage(path: Path, items: Sequence[str]) -> str:
    """What is wrong with a checkpoint, by a full read of these items; "" where it is whole."""
    digests = _saved_digests(path)
    for item in items:
        try:
            if saved := {name: digest for name, digest in digests.items() if name.startswith(f"{item}/")}:
                for name, digest in saved.items():
                    if _digest_of(path / name) != digest:
                        return f"{name} is not as it was saved"
            elif item == "meta":
                json.loads((path / item / "metadata").read_bytes())
            else:
                _read_all(path / item)
        except FileNotFoundError as error:
            return f"{Path(error.filename).relative_to(path)} is missing"
        except (OSError, ValueError):  # whatever JSON and tensorstore meet in a file that is cut short
            return f"its part {item} is cut short, or a file of it is damaged or missing"
    return ""


def _digests(path: Path) -> dict[str, str]:
    """{file of an item: its digest} of a checkpoint."""
    files = sorted(file for item in ALL for file in (path / item).rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): _digest_of(file) for file in files}


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _saved_digests(path: Path) -> dict[str, str]:
    """Empty where they are missing or damaged: the checkpoint may be whole all the same."""
    try:
        return dict(json.loads((path / DIGESTS).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _read_all(item: Path, at_once: int = 64) -> None:
    """Read and decode all arrays of an item. Raises ValueError or OSError where one cannot be; other values that can be
    decoded are not seen.
    """
    for file in (item / "_METADATA", *(item / "array_metadatas").glob("*")):
        json.loads(file.read_bytes())
    files = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{item.resolve()}/"}}
    store = ts.KvStore.open(files).result()
    names = [name.decode() for name in store.list().result()]
    if not names:
        raise ValueError(f"{item} holds no arrays")
    for first in range(0, len(names), at_once):
        for value in [store.read(name) for name in names[first : first + at_once]]:
            if not value.result().value:  # in a file that is lost
                raise ValueError(f"{item} lacks arrays")
    for name in names:
        array, _, kind = name.rpartition("/")
        if driver := ARRAYS.get(kind):
            ts.open({"driver": driver, "kvstore": {**files, "path": f"{array}/"}}).result().read().result()


def _check_whole(directory: Path, step: int, items: Sequence[str]) -> None:
    """Raises DamagedError where these items are not whole. The first process reads, for all to go on alike."""

    def fault() -> tuple[str, int | None] | None:
        why = damage(directory / str(step), items)
        return _fault(directory, step, why, ALL) if why else None

    if found := of_first_process(fault):
        raise DamagedError(*found)


def _fault(directory: Path, step: int, why: str, items: Sequence[str]) -> tuple[str, int | None]:
    """The arguments of a DamagedError."""
    before = (other for other in reversed(steps(directory)) if other < step)
    earlier = next((other for other in before if not damage(directory / str(other), items)), None)
    return f"the checkpoint {directory / str(step)} is damaged ({why})", earlier


def _restored(path: Path, **abstract: PyTree) -> Mapping[str, PyTree]:
    """Items of a whole checkpoint. Raises UserError where their arrays are not like `abstract`."""
    items = {name: _restore(item) for name, item in abstract.items()}
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(path, args=ocp.args.Composite(**items))
    except Exception as error:  # orbax and tensorstore raise of every kind
        distributed.wait_for_verdict()  # it may be another process that failed
        raise UserError(f"the checkpoint {path} cannot be read as this model's: {first_line(error)}") from error


def _score(path: Path) -> tuple[str, float] | None:
    """(name, value) of what tells whether a checkpoint is the best."""
    try:
        ((name, value),) = json.loads((path / "metrics" / "metrics").read_bytes()).items()
        return str(name), float(value)
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def _forget_torn_metrics(path: Path) -> None:
    """Orbax reads them of all checkpoints, and would read none."""
    file = path / "metrics" / "metrics"
    if file.is_file() and _score(path) is None:
        warnings.warn(f"{file} is damaged: the score of step {path.name} is not known", stacklevel=2)
        if is_first_process():
            file.unlink()


def _restore(abstract: PyTree) -> ocp.args.PyTreeRestore:
    """The arrays of `abstract` alone: earlier checkpoints also average parameters that samplers do not load."""
    where = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(item=abstract, restore_args=where, partial_restore=True)


def _split(state: TrainState) -> tuple[PyTree, PyTree]:
    """The items (weights, training) of a state."""
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    weights = {name: parts.pop(name) for name in ("ema", "task_state", "profiles")}
    if not weights["profiles"]:
        del weights["profiles"]
    return _without_frozen(weights), parts


def _without_frozen(weights: PyTree) -> PyTree:
    if "task_state" not in weights:
        return weights
    task_state = {name: part for name, part in weights["task_state"].items() if name != FROZEN}
    return {**weights, "task_state": task_state}

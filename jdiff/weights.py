"""Weights that there are (a run's, an exported run's, another library's model's), and training that starts there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

import jdiff.config
from jdiff import build, interop
from jdiff.build.networks import settings_of
from jdiff.common.errors import UserError
from jdiff.common.keys import named
from jdiff.interop import tensors
from jdiff.tasks import Task
from jdiff.tasks.lora import LoRATask
from jdiff.training import sharding
from jdiff.training.checkpoints import Checkpoints
from jdiff.training.step import TrainState
from jdiff.training.writers import say

EXPORTED = "weights.safetensors"  # in place of checkpoints, in a run's folder that was exported
# What a run keeps of its network when others start from it: the rest of the group is theirs to choose.
OWN_CHOICE = ("dropout", "dtype", "remat")


def of_run(config: ConfigDict, workdir: Path, checkpoint: str, mesh: Mesh) -> tuple[Task, PyTree, int]:
    """(task, averaged weights, step) of the run in `workdir`: of its checkpoint "latest", "best" or of a step.

    Low-rank parts come merged with the weights that they stand beside. Raises UserError where something is missing.
    """
    task, folder = build.task(config), workdir / "checkpoints"
    if (workdir / EXPORTED).is_file():
        return plain(task), *_exported(plain(task), config, workdir, mesh)
    nothing = f"{workdir} holds no checkpoint yet; train it first: --config=FILE --workdir={workdir}"
    if not folder.is_dir():
        raise UserError(nothing)
    with Checkpoints(folder, read_only=True) as checkpoints:
        step = checkpoints.find(checkpoint)
        if step is None:
            raise UserError(nothing)
        params, state = jax.eval_shape(lambda: task.init(jax.random.key(0), build.example(config)))
        weights = checkpoints.restore_weights(step, sharding.abstract(mesh, {"ema": params, "task_state": state}))
    params = weights["ema"]
    if isinstance(task, LoRATask):
        params = jax.jit(task.whole)(params, started(config, mesh)[0])
    return plain(task), params, step


def whole(task: Task, state: TrainState) -> PyTree:
    """The averaged weights of `plain(task)`."""
    return jax.jit(task.whole)(state.ema, state.task_state["frozen"]) if isinstance(task, LoRATask) else state.ema


def plain(task: Task) -> Task:
    """The task whose weights a sampler takes."""
    return task.task if isinstance(task, LoRATask) else task


def export(params: PyTree, config: ConfigDict, folder: Path, *, step: int) -> None:
    """Write weights and config as a run's folder with safetensors in place of checkpoints: `jdiff.load` reads it."""
    arrays = {".".join(path): np.asarray(leaf) for path, leaf in flatten_dict(params).items()}
    merged = config.copy_and_resolve_references()
    merged.lora.rank, merged.train.initial = 0, ""  # low-rank parts are merged: there is nothing to stand beside
    tensors.write(folder, arrays, merged.to_dict(), file=EXPORTED, metadata={"step": str(step)})


def _exported(task: Task, config: ConfigDict, workdir: Path, mesh: Mesh) -> tuple[PyTree, int]:
    abstract = sharding.abstract(mesh, jax.eval_shape(lambda: task.init(jax.random.key(0), build.example(config)))[0])
    read, metadata = tensors.read_file(workdir / EXPORTED)
    made = {}
    for path, leaf in flatten_dict(abstract).items():
        name = ".".join(path)
        if name not in read or read[name].shape != leaf.shape:
            there = list(read[name].shape) if name in read else "not there"
            raise UserError(f"{workdir / EXPORTED}: the tensor {name} is {there}; it must be {list(leaf.shape)}")
        made[path] = jax.device_put(read.pop(name), leaf.sharding)
    if read:
        raise UserError(
            f"{workdir / EXPORTED} holds the tensor {min(read)}, which {jdiff.config.FILE} has no layer for"
        )
    return unflatten_dict(made), int(metadata.get("step", 0))


@dataclass(frozen=True)
class Initial:
    """What training starts from: `network` are the keys that make their network, `model` those of the group `model`
    that the weights were trained under (None where that is not known), `params` the network's weights, by path.
    """

    path: Path
    network: Mapping[str, Any]
    model: Mapping[str, Any] | None
    class_names: tuple[str, ...] | None
    params: dict[tuple[str, ...], np.ndarray]


def initial(path: str) -> Initial:
    """The weights in a folder: a run, an exported run, or a model of diffusers. Raises UserError for anything else."""
    folder = Path(path).expanduser()
    if not (folder / jdiff.config.FILE).is_file():
        raise UserError(f"train.initial={path!r} holds no {jdiff.config.FILE}: give a run's folder, or a model's")
    if "_class_name" in tensors.read_config(folder):
        theirs, params = interop.load(folder)
        return Initial(folder, settings_of(theirs), None, None, flatten_dict(params))
    config = jdiff.config.of_run(folder)
    _, params, _ = of_run(config, folder, "latest", sharding.make_mesh())
    if "network" not in params:
        raise UserError(
            f"train.initial={path!r} is a run of task={config.task!r}; a diffusion model starts from another"
        )
    arrays = jax.tree.map(np.asarray, params["network"])
    network = {name: value for name, value in config.network.items() if name not in OWN_CHOICE}
    return Initial(folder, network, config.model.to_dict(), config.data.class_names, flatten_dict(arrays))


def with_initial(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config with the network that the weights of train.initial are of. A run that has begun keeps its own.

    Raises UserError where what the network predicts, and at which noise, is not what these weights learned.
    """
    if not config.train.initial:
        return config
    config = config.copy_and_resolve_references()
    if (workdir / jdiff.config.FILE).is_file():
        own = jdiff.config.of_run(workdir)
        if own.train.initial == config.train.initial:
            for name in set(own.network) - set(OWN_CHOICE):
                config.network[name] = own.network[name]
            return config
    start = initial(config.train.initial)
    for name, value in start.network.items():
        config.network[name] = value
    for name in ("prediction", "schedule", "sigma_data", "schedule_steps", "learned_variance"):
        if start.model is not None and config.model[name] != start.model[name]:
            raise UserError(
                f"model.{name} is {start.model[name]!r} in train.initial={start.path} and {config.model[name]!r} here; "
                "start from weights of the same kind, or set it alike"
            )
    return config


def overlaid(params: PyTree, start: Initial, class_names: tuple[str, ...]) -> tuple[PyTree, list[str]]:
    """(`params`, a network's, with the weights of `start` in place of all that is there too; notes of what is new).

    New may be what belongs to the conditions alone, such as another number of classes. Raises UserError that names the
    first other array that differs.
    """
    ours, theirs = flatten_dict(params), dict(start.params)
    made, new = {}, []
    other_classes = start.class_names is not None and start.class_names != class_names
    for path, leaf in ours.items():
        name, found = "/".join(path), theirs.pop(path, None)
        renamed = other_classes and path[-1] == "table" and "label" in path[-2]
        if found is not None and found.shape == leaf.shape and not renamed:
            made[path] = jnp.asarray(found)
            continue
        there = "not there" if found is None else f"{list(found.shape)} there"
        if not path[0].startswith("conditioner"):
            raise UserError(f"train.initial={start.path}: {name} is {list(leaf.shape)} here and {there}")
        made[path] = leaf
        new.append(f"{name} {list(leaf.shape)} is new ({'of other classes' if renamed else there})")
    if left := sorted("/".join(path) for path in theirs if not path[0].startswith("conditioner")):
        raise UserError(f"train.initial={start.path}: {left[0]} is there, and this network has no such array")
    new += [f"{'/'.join(path)} of {start.path} is left out" for path in sorted(theirs)]
    return unflatten_dict(made), new


def started(config: ConfigDict, mesh: Mesh) -> tuple[PyTree, list[str]]:
    """(the diffusion model's weights as training starts with them from train.initial, notes)."""
    key, task = jax.random.key(config.seed), plain(build.task(config))
    params, _ = task.init(named(key, "init"), build.example(config))
    start = initial(config.train.initial)
    network, notes = overlaid(params["network"], start, config.data.class_names)
    made = {**params, "network": network}
    where = jax.tree.map(lambda leaf: leaf.sharding, sharding.abstract(mesh, made))
    return jax.device_put(made, where), notes


def begun(config: ConfigDict, task: Task, mesh: Mesh, state: TrainState, *, fresh: bool) -> TrainState:
    """A run's state, new ("fresh") or restored, with the weights of train.initial where they belong."""
    if not config.train.initial or not (fresh or isinstance(task, LoRATask)):
        return state
    found, notes = started(config, mesh)
    for note in notes if fresh else ():
        say(note)
    if isinstance(task, LoRATask):
        state = replace(state, task_state={**state.task_state, "frozen": found})
        params = task.beginning(state.params, found)
    else:
        params = found
    # Copies: the state is donated, and no buffer can be given away twice.
    return replace(state, params=_copied(params), ema=_copied(params)) if fresh else state


def _copied(params: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, params)

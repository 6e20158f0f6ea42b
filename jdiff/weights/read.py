"""Weights that there are: a run's, an exported run's, another library's model's; and as a network takes them over."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

import jdiff.config
from jdiff import from_config, interop
from jdiff.common.arrays import fingerprint
from jdiff.common.errors import UserError
from jdiff.common.keys import named, root_key
from jdiff.common.paths import expanded
from jdiff.from_config.networks import settings_of
from jdiff.interop import pipelines, tensors
from jdiff.interop.pipelines import Pipeline
from jdiff.interop.schedulers import network_folder
from jdiff.networks.adapter import ADAPTER, with_copies
from jdiff.networks.conditioning import is_conditioner
from jdiff.spaces import AUTOENCODER, as_state
from jdiff.tasks import Task, Weights
from jdiff.tasks.frozen import FrozenTask
from jdiff.training import sharding
from jdiff.training.checkpoints import read_weights
from jdiff.training.ema import groups
from jdiff.training.step import FROZEN
from jdiff.weights.export import EXPORTED, as_tensors, is_exported, of_tensors
from jdiff.weights.posthoc import check_ema_of_exported, of_width

NULL = ("embedders_text", "null")  # the last names of the path of what stands in for a dropped text

# What a run keeps of its network when others start from it: the rest of the group is theirs to choose.
OWN_CHOICE = ("dropout", "dtype", "remat")


def of_run(config: ConfigDict, workdir: Path, checkpoint: str, mesh: Mesh) -> tuple[Task, Weights, int]:
    """(the task that a sampler uses, its averaged weights, step) of the run in `workdir`: of its checkpoint "latest",
    "best" or of a step, and of the average of width sample.ema, where that is set. Raises UserError where something is
    missing.
    """
    task, folder = from_config.task(config, train=False), workdir / "checkpoints"
    if is_exported(workdir):
        check_ema_of_exported(config, workdir)
        weights, step = _exported(task.sampling_task, config, workdir, mesh)
        state = {**weights.state, **autoencoder_weights(config, workdir, mesh)}
        return task.sampling_task, Weights(weights.params, state), step
    nothing = f"{workdir} holds no checkpoint yet; train it first: --config=FILE --workdir={workdir}"
    params, state = _shapes(task, config)
    abstract = {"ema": groups(params, task.averaged), "task_state": state}
    found = read_weights(folder.absolute(), checkpoint, sharding.abstract(mesh, abstract))
    if found is None:
        raise UserError(nothing)
    step, saved = found
    params = of_width(config.sample.ema, workdir, step, abstract["ema"], mesh) if config.sample.ema else saved["ema"]
    state = {**saved["task_state"], **autoencoder_weights(config, workdir, mesh)}
    if isinstance(task, FrozenTask):
        state = {**state, FROZEN: task.frozen(pretrained_weights(config, mesh)[0].params)}
    return task.sampling_task, task.merged(Weights(params, state)), step


def autoencoder_weights(config: ConfigDict, workdir: Path, mesh: Mesh) -> PyTree:
    """The part of a model's state that holds the autoencoder in the run's folder; {} where the space is pixels."""
    if config.model.space != "latents":
        return {}
    folder = workdir / AUTOENCODER
    if not is_exported(folder):
        raise UserError(f"{folder / EXPORTED} is missing, this run's autoencoder: copy the run's folder whole")
    _, weights, _ = of_run(jdiff.config.of_run(folder), folder, "latest", mesh)
    return as_state(weights)


def names_another_autoencoder(config: ConfigDict, workdir: Path) -> bool:
    """Whether space.autoencoder is not where the run in `workdir` has its autoencoder from."""
    return (
        config.model.space == "latents" and config.space.autoencoder != jdiff.config.of_run(workdir).space.autoencoder
    )


def _shapes(task: Task, config: ConfigDict) -> tuple[PyTree, PyTree]:
    """(params, state) of a task as shapes and dtypes."""
    return jax.eval_shape(lambda: task.init(root_key(0), from_config.example(config)))


def _exported(task: Task, config: ConfigDict, workdir: Path, mesh: Mesh) -> tuple[Weights, int]:
    params, state = _shapes(task, config)
    abstract = sharding.abstract(mesh, as_tensors(Weights(groups(params, task.averaged), state)))
    file = workdir / EXPORTED
    read, metadata = tensors.read_file(file)
    not_averaged = set(params) - set(groups(params, task.averaged))  # exports of version 1 hold these too
    read = {name: array for name, array in read.items() if name.split(".")[0] not in not_averaged}
    made = {}
    for name, leaf in abstract.items():
        if name not in read or read[name].shape != leaf.shape:
            there = list(read[name].shape) if name in read else "not there"
            raise UserError(f"{file}: the tensor {name} is {there}; it must be {list(leaf.shape)}")
        made[name] = jax.device_put(read.pop(name), leaf.sharding)
    if read:
        raise UserError(f"{file} holds the tensor {min(read)}, which {jdiff.config.FILE} has no layer for")
    return of_tensors(made), int(metadata.get("step", 0))


@dataclass(frozen=True)
class Pretrained:
    """What training starts from: `network` are the keys that make their network, `params` its weights, by path, and
    `config` and `step` those of the run that trained them, None and 0 of another library's model. pipeline: of which
    this model is the network.
    """

    path: Path
    network: Mapping[str, Any]
    params: dict[tuple[str, ...], Array | np.ndarray]
    config: ConfigDict | None
    step: int = 0
    pipeline: Pipeline | None = None


def read_pretrained(path: str, checkpoint: str = "latest") -> Pretrained:
    """The weights in a folder: a run (of a checkpoint, "latest", "best" or a step), an exported run, or a model of
    diffusers. Raises UserError for anything else.
    """
    place = expanded(path)
    pipeline = pipelines.read(place) if pipelines.is_known(place) else None
    folder = pipeline.network if pipeline else network_folder(place)
    if not (folder / jdiff.config.FILE).is_file():
        raise UserError(f"train.initial={path!r} holds no {jdiff.config.FILE}: give a run's folder, or a model's")
    if "_class_name" in tensors.read_config(folder):
        theirs, params = interop.load(folder)
        flat = flatten_dict(params)
        if pipeline and pipeline.text_length:  # zeros in the form of the empty text's features (see empty_text.py)
            null = next(name for name in flat if name[-2:] == NULL)
            flat[null] = np.zeros((pipeline.text_length, *flat[null].shape[-1:]), np.float32)
        return Pretrained(folder, settings_of(theirs), flat, None, pipeline=pipeline)
    config = jdiff.config.of_run(folder)
    _, weights, step = of_run(config, folder, checkpoint, sharding.make_mesh())
    if "network" not in weights.params:
        raise UserError(
            f"train.initial={path!r} is a run of task={config.task!r}; a diffusion model starts from another"
        )
    arrays = jax.tree.map(np.asarray, weights.params["network"])
    network = {name: value for name, value in config.network.items() if name not in OWN_CHOICE}
    return Pretrained(folder, network, flatten_dict(arrays), config, step)


def other_conditions(config: ConfigDict, theirs: ConfigDict | None) -> dict[str, str]:
    """Conditions whose embedders another run's weights are not for, whatever their shapes, with the reason."""
    if theirs is None:
        return {}
    other = {}
    for name in set(config.model.conditions) & set(theirs.model.conditions):
        ours, has = config.condition.get(name, {}), theirs.condition.get(name, {})
        changed = [key for key in ours if key not in ("drop_rate", "on_long") and ours[key] != has[key]]
        if changed:
            other[name] = f"condition.{name}.{changed[0]} is {has[changed[0]]!r} there"
    return other


def overlaid(params: PyTree, start: Pretrained, config: ConfigDict) -> tuple[PyTree, list[str]]:
    """(`params`, a network's, with the weights of `start` in place of all that is there too; notes of what is new).

    New may be what belongs to the conditions alone, such as classes of other names. Raises UserError that names the
    first other array that differs.
    """
    theirs, adapter = dict(start.params), None
    if ADAPTER in params and not any(path[0] == ADAPTER for path in theirs):
        adapter = params[ADAPTER]
    ours = flatten_dict({name: part for name, part in params.items() if part is not adapter})
    made, new = {}, []
    other = other_conditions(config, start.config)
    for path, leaf in ours.items():
        name, found = "/".join(path), theirs.pop(path, None)
        why = next((why for condition, why in other.items() if f"embedders_{condition}" in path), None)
        if is_conditioner(path[0]) and path[-2:] == ("embedders_label", "table"):
            made[path], note = _label_table(leaf, found, start, config)
            new += [f"{name}: {note}"] if note else []
            continue
        if found is not None and found.shape == leaf.shape and not why:
            made[path] = jnp.asarray(found)
            continue
        there = "not there" if found is None else why or f"{list(found.shape)} there"
        if not is_conditioner(path[0]):
            raise UserError(f"train.initial={start.path}: {name} is {list(leaf.shape)} here and {there}")
        made[path] = leaf
        new.append(f"{name} {list(leaf.shape)} is new ({there})")
    if left := sorted("/".join(path) for path in theirs if not is_conditioner(path[0])):
        raise UserError(f"train.initial={start.path}: {left[0]} is there, and this network has no such array")
    new += [f"{'/'.join(path)} of {start.path} is left out" for path in sorted(theirs)]
    if new and ADAPTER in params:
        raise UserError(
            f"train.initial={start.path}: {new[0]}, and a model that is frozen beside an adapter learns nothing new: "
            "keep its conditions and classes, and add the image"
        )
    network = unflatten_dict(made)
    if adapter is not None:
        network[ADAPTER] = with_copies(adapter, network)
        new.append("the adapter begins as a copy of the encoder, with joints of zeros")
    return network, new


def _label_table(
    new: Array, found: Array | np.ndarray | None, start: Pretrained, config: ConfigDict
) -> tuple[Array, str]:
    """(a table of classes and the null for these classes; a note of what is new): of a class of the same name, and the
    null's row, as there. Where labels are new altogether, zeros, so that training starts with what is known without.
    """
    if found is None or found.shape[1:] != new.shape[1:]:
        return jnp.zeros_like(new), f"all {len(new) - 1} classes are new"
    ours = config.data.class_names
    theirs = ours[: len(found) - 1]
    if start.config is not None:
        theirs = start.config.data.class_names
    elif start.pipeline:
        theirs = start.pipeline.class_names
    kept = [(ours.index(name), theirs.index(name)) for name in ours if name in theirs]
    rows = jnp.array([(len(new) - 1, len(found) - 1), *kept]).T
    note = f"{len(ours) - len(kept)} of {len(ours)} classes are new" if len(kept) < len(ours) else ""
    return new.at[rows[0]].set(found[rows[1]]), note


def pretrained_weights(config: ConfigDict, mesh: Mesh) -> tuple[Weights, list[str]]:
    """(the weights that training starts with, those of train.initial in place; notes of what is new)."""
    trained = from_config.task(config)
    task = trained.sampling_task
    params, state = jax.jit(lambda: task.init(named(root_key(config.seed), "init"), from_config.example(config)))()
    start = read_pretrained(config.train.initial, config.train.initial_checkpoint)
    network, notes = overlaid(params["network"], start, config)
    made = Weights({**params, "network": network}, state)
    where = jax.tree.map(lambda leaf: leaf.sharding, sharding.abstract(mesh, made))
    made = jax.device_put(made, where)
    known = config.train.initial_fingerprint
    if known and isinstance(trained, FrozenTask) and known != fingerprint(trained.frozen(made.params)):
        raise UserError(
            f"train.initial={config.train.initial} holds other weights than those that this run was trained "
            "beside: give the folder and train.initial_checkpoint of these"
        )
    return made, notes

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
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

import jdiff.config
from jdiff import build, interop
from jdiff.build.networks import settings_of
from jdiff.common.errors import UserError
from jdiff.common.keys import named
from jdiff.interop import tensors
from jdiff.networks.conditioning import is_conditioner
from jdiff.tasks import Task
from jdiff.tasks.lora import LoRATask
from jdiff.training import sharding
from jdiff.training.checkpoints import Checkpoints
from jdiff.training.step import TrainState
from jdiff.training.writers import say

EXPORTED = "weights.safetensors"  # in place of checkpoints, in a run's folder that was exported
# What a run keeps of its network when others start from it: the rest of the group is theirs to choose.
OWN_CHOICE = ("dropout", "dtype", "remat")
# Keys of the group `model` that say what weights mean: what the network predicts, and at which noise.
PROCESS = (
    *("prediction", "sigma_data", "learned_variance", "flow_shift"),
    *("schedule", "schedule_steps", "beta_start", "beta_end", "zero_terminal_snr"),
)


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
        params = jax.jit(task.whole)(params, pretrained_params(config, mesh)[0])
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
class Pretrained:
    """What training starts from: `network` are the keys that make their network, `params` its weights, by path, and
    `config` and `step` those of the run that trained them, None and 0 of another library's model.
    """

    path: Path
    network: Mapping[str, Any]
    params: dict[tuple[str, ...], np.ndarray]
    config: ConfigDict | None
    step: int = 0


def read_pretrained(path: str, checkpoint: str = "latest") -> Pretrained:
    """The weights in a folder: a run (of a checkpoint, "latest", "best" or a step), an exported run, or a model of
    diffusers. Raises UserError for anything else.
    """
    folder = Path(path)
    if not (folder / jdiff.config.FILE).is_file():
        raise UserError(f"train.initial={path!r} holds no {jdiff.config.FILE}: give a run's folder, or a model's")
    if "_class_name" in tensors.read_config(folder):
        theirs, params = interop.load(folder)
        return Pretrained(folder, settings_of(theirs), flatten_dict(params), None)
    config = jdiff.config.of_run(folder)
    _, params, step = of_run(config, folder, checkpoint, sharding.make_mesh())
    if "network" not in params:
        raise UserError(
            f"train.initial={path!r} is a run of task={config.task!r}; a diffusion model starts from another"
        )
    arrays = jax.tree.map(np.asarray, params["network"])
    network = {name: value for name, value in config.network.items() if name not in OWN_CHOICE}
    return Pretrained(folder, network, flatten_dict(arrays), config, step)


def with_pretrained_network(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config with the network that the weights of train.initial are of. A run that has begun keeps its own.

    Raises UserError where what the network predicts, and at which noise, is not what these weights learned.
    """
    if not config.train.initial:
        return config
    config = config.copy_and_resolve_references()
    config.train.initial = str(Path(config.train.initial).expanduser().resolve())  # read again from other folders
    if (workdir / jdiff.config.FILE).is_file():
        own = jdiff.config.of_run(workdir)
        if own.train.initial == config.train.initial:
            for name in set(own.network) - set(OWN_CHOICE):
                config.network[name] = own.network[name]
            config.train.initial_checkpoint = own.train.initial_checkpoint
            return config
    start = read_pretrained(config.train.initial, config.train.initial_checkpoint)
    config.train.initial_checkpoint = str(start.step)  # where low-rank parts stand, whatever that run does later
    for name, value in start.network.items():
        config.network[name] = value
    for name in PROCESS:
        if start.config is not None and config.model[name] != start.config.model[name]:
            raise UserError(
                f"model.{name} is {start.config.model[name]!r} in train.initial={start.path} and "
                f"{config.model[name]!r} here; start from weights of the same kind, or set it alike"
            )
    return config


def pretrained_tokenizer(config: ConfigDict) -> Path | None:
    """The tokenizer of the run that training starts from, where texts mean here what they mean there."""
    file = Path(config.train.initial) / build.TOKENIZER
    if not config.train.initial or not file.is_file():
        return None
    return None if "text" in _other_conditions(config, jdiff.config.of_run(file.parent)) else file


def _other_conditions(config: ConfigDict, theirs: ConfigDict | None) -> dict[str, str]:
    """Conditions whose embedders another run's weights are not for, whatever their shapes, with the reason."""
    if theirs is None:
        return {}
    other = {}
    for name in set(config.model.conditions) & set(theirs.model.conditions):
        ours, has = config.condition[name], theirs.condition[name]
        changed = [key for key in ours if key not in ("drop_rate", "on_long") and ours[key] != has[key]]
        if changed:
            other[name] = f"condition.{name}.{changed[0]} is {has[changed[0]]!r} there"
    return other


def overlaid(params: PyTree, start: Pretrained, config: ConfigDict) -> tuple[PyTree, list[str]]:
    """(`params`, a network's, with the weights of `start` in place of all that is there too; notes of what is new).

    New may be what belongs to the conditions alone, such as classes of other names. Raises UserError that names the
    first other array that differs.
    """
    ours, theirs = flatten_dict(params), dict(start.params)
    made, new = {}, []
    other = _other_conditions(config, start.config)
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
    return unflatten_dict(made), new


def _label_table(new: Array, found: np.ndarray | None, start: Pretrained, config: ConfigDict) -> tuple[Array, str]:
    """(a table of classes and the null for these classes; a note of what is new): of a class of the same name, and the
    null's row, as there. Where labels are new altogether, zeros, so that training starts with what is known without.
    """
    if found is None or found.shape[1:] != new.shape[1:]:
        return jnp.zeros_like(new), f"all {len(new) - 1} classes are new"
    ours = config.data.class_names
    theirs = start.config.data.class_names if start.config is not None else ours[: len(found) - 1]
    kept = [(ours.index(name), theirs.index(name)) for name in ours if name in theirs]
    rows = jnp.array([(len(new) - 1, len(found) - 1), *kept]).T
    note = f"{len(ours) - len(kept)} of {len(ours)} classes are new" if len(kept) < len(ours) else ""
    return new.at[rows[0]].set(found[rows[1]]), note


def pretrained_params(config: ConfigDict, mesh: Mesh) -> tuple[PyTree, list[str]]:
    """(the diffusion model's weights as training starts with them from train.initial, notes)."""
    key, task = jax.random.key(config.seed), plain(build.task(config))
    params = jax.jit(lambda: task.init(named(key, "init"), build.example(config))[0])()
    network, notes = overlaid(
        params["network"], read_pretrained(config.train.initial, config.train.initial_checkpoint), config
    )
    made = {**params, "network": network}
    where = jax.tree.map(lambda leaf: leaf.sharding, sharding.abstract(mesh, made))
    return jax.device_put(made, where), notes


def with_pretrained_params(config: ConfigDict, task: Task, mesh: Mesh, state: TrainState, *, fresh: bool) -> TrainState:
    """A run's state, new ("fresh") or restored, with the weights of train.initial where they belong."""
    if not config.train.initial or not (fresh or isinstance(task, LoRATask)):
        return state
    found, notes = pretrained_params(config, mesh)
    for note in notes if fresh else ():
        say(note)
    if isinstance(task, LoRATask):
        state = replace(state, task_state={**state.task_state, "frozen": found})
        params = task.with_conditioner(state.params, found)
    else:
        params = found
    # Copies: the state is donated, and no buffer can be given away twice.
    return replace(state, params=_copied(params), ema=_copied(params)) if fresh else state


def _copied(params: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, params)

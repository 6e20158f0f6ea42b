"""A pipeline of diffusers as a config and weights: what is sampled, and where training starts; and written again."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

import jdiff.config
from jdiff import from_config, interop
from jdiff.common.errors import UserError, writing_to
from jdiff.common.processes import is_first_process
from jdiff.config import config_value, items
from jdiff.data.frozen_text import same_model
from jdiff.from_config.conditions import frozen_text
from jdiff.interop.pipelines import Pipeline
from jdiff.spaces import AUTOENCODER
from jdiff.tasks import Task, Weights
from jdiff.training import sharding
from jdiff.weights.autoencoder import read_autoencoder, with_autoencoder
from jdiff.weights.empty_text import empty_text, with_null
from jdiff.weights.export import of_one_network
from jdiff.weights.read import read_pretrained

STEPS = 50  # of a pipeline's own call
# Groups that training takes from a pipeline, and keys of theirs that are the user's.
TAKEN = ("model.", "space.", "condition.text.")
FREE = (
    *("model.drop_rate", "condition.text.drop_rate", "condition.text.on_long"),
    *("space.sampled", "space.prepared", "space.tile", "space.dtype"),
)
PLACES = ("space.autoencoder", "condition.text.path")  # keys that say where a part lies


def keys_of(pipeline: Pipeline) -> dict[str, Any]:
    """Keys of the config, by dotted names, that say what a pipeline's weights mean."""
    keys: dict[str, Any] = {
        **{f"model.{name}": value for name, value in pipeline.process.items()},
        "model.space": "latents",
        "space.autoencoder": str(pipeline.autoencoder),
        "space.mean": (pipeline.mean,) * pipeline.latents,
        "space.std": (pipeline.std,) * pipeline.latents,
    }
    if pipeline.text_encoder:
        keys |= {
            "condition.text.encoder": "frozen",
            "condition.text.path": str(pipeline.text_encoder),
            "condition.text.length": pipeline.text_length,
            "condition.text.projected": False,
            "condition.text.padding": "read",
            "condition.text.null": "empty",
        }
    return keys


def conditions_of(pipeline: Pipeline) -> tuple[str, ...]:
    """Names of what the pipeline's network is given."""
    return ("text",) if pipeline.text_encoder else ("label",) if pipeline.class_names else ()


def load(pipeline: Pipeline, mesh: Mesh) -> tuple[ConfigDict, Task, Weights]:
    """(config, task, weights) of the pipeline as it lies in its folder."""
    start = read_pretrained(str(pipeline.folder))
    config = _with(jdiff.config.defaults(), {**keys_of(pipeline), **pipeline.sampling, "sample.steps": STEPS})
    config.model.conditions = conditions_of(pipeline)
    config.objective.draw = "steps" if "schedule_steps" in pipeline.process else "uniform"
    config.data.name, config.data.class_names = "folder", pipeline.class_names
    config.data.shape = (*pipeline.sides, pipeline.channels)
    for name, value in start.network.items():
        config.network[name] = value
    if pipeline.text_encoder:
        config.data.text_width = frozen_text(config).width
        config.data.captions_per_image = 1
    config = with_autoencoder(config, pipeline.folder)
    task = from_config.task(config)
    weights = Weights({"network": unflatten_dict(start.params)}, read_autoencoder(config, mesh))
    where = jax.tree.map(lambda leaf: leaf.sharding, sharding.abstract(mesh, weights))
    weights = jax.device_put(weights, where)
    return config, task, Weights(with_null(weights.params, empty_text(config)), weights.state)


def save(weights: Weights, config: ConfigDict, like: Pipeline, folder: Path) -> None:
    """Write a model as a pipeline's folder: its network and its autoencoder, and the other parts of `like`.

    Raises UserError where the model means something else than `like`, or the folder cannot be written.
    """
    if folder.resolve() == like.folder.resolve():
        raise UserError(f"{folder} is the pipeline itself: give another folder")
    _check_same(config, like)
    weights = jax.tree.map(sharding.whole, weights)
    if not is_first_process():
        return
    parts = (like.network.name, like.autoencoder.name)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for entry in like.folder.iterdir():
            if entry.is_dir() and entry.name not in parts:
                shutil.copytree(entry, folder / entry.name, dirs_exist_ok=True)
            elif entry.is_file():
                shutil.copy(entry, folder / entry.name)
    interop.save_like(of_one_network(weights), like.network, folder / like.network.name)
    own = of_one_network(Weights(**weights.state[AUTOENCODER]))
    interop.save_like(own, like.autoencoder, folder / like.autoencoder.name)


def _check_same(config: ConfigDict, like: Pipeline) -> None:
    """Raises UserError where a model of this config is another than the pipeline's, its weights aside."""
    for name, value in {**keys_of(like), "model.conditions": conditions_of(like)}.items():
        ours = config_value(config, name)
        if name not in PLACES and not same_value(ours, value):
            raise UserError(f"this model is not of {like.folder}'s kind: {name} is {ours!r} here and {value!r} there")
    if like.class_names and config.data.class_names != like.class_names:
        raise UserError(f"this model knows other classes than {like.folder}, whose names these are")
    ours, theirs = Path(config.condition.text.path), like.text_encoder
    if theirs and ours.is_dir() and not same_model(ours, theirs):
        raise UserError(f"this model reads texts by {ours}, which is another encoder than {theirs}")


def same_value(ours: Any, theirs: Any) -> bool:
    """Whether two values of a key mean the same: numbers within 1e-6 of each other."""
    if isinstance(theirs, tuple):
        return len(ours) == len(theirs) and all(map(same_value, ours, theirs))
    return math.isclose(ours, theirs, rel_tol=1e-6) if isinstance(theirs, float) else ours == theirs


def with_pipeline(config: ConfigDict, pipeline: Pipeline) -> ConfigDict:
    """The config of a training that starts from this pipeline: what its weights mean, what its network is given, and
    images of its size unless the config says another.
    """
    own = tuple(name for name in config.model.conditions if name not in conditions_of(pipeline))
    config = _with(config, keys_of(pipeline))
    config.model.conditions = (*conditions_of(pipeline), *own)
    if not config.data.image_size:
        height, width = pipeline.sides
        with config.data.ignore_type():  # a number or two
            config.data.image_size = height if height == width else (height, width)
    return config


def with_own(config: ConfigDict, own: ConfigDict) -> ConfigDict:
    """The config with the keys that `own`, of the run that goes on, has of the pipeline that it began with, if it did
    with one.
    """
    if own.model.space != "latents" or Path(own.space.autoencoder).parent != Path(own.train.initial):
        return config
    names = [name for name, _ in items(own) if name.startswith(TAKEN) and name not in FREE]
    config = _with(config, {name: config_value(own, name) for name in names})
    if not config.data.image_size:
        with config.data.ignore_type():
            config.data.image_size = own.data.image_size
    return config


def _with(config: ConfigDict, keys: Mapping[str, Any]) -> ConfigDict:
    for name, value in keys.items():
        group, _, key = name.rpartition(".")
        config_value(config, group)[key] = value
    return config

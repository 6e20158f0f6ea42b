"""The first training step of every config that ships, traced without a number computed: shapes, dtypes and keys fit."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from jdiff import config, from_config
from jdiff.data.sources import Picture
from jdiff.resolve import resolve
from jdiff.weights.autoencoder import unscaled
from tests.conftest import REPOSITORY

SHARED = {"__init__", "base", "networks", "autoencoders", "flow_maps"}
NAMES = sorted({file.stem for file in (REPOSITORY / "configs").glob("*.py")} - SHARED)
OWN_SHAPES = {
    "digits": (8, 8, 1),
    "tfds:mnist": (28, 28, 1),
    "tfds:fashion_mnist": (28, 28, 1),
    "tfds:cifar10": (32, 32, 3),
}
PLAIN_FLIPS = {"data.flip": True, "data.augment": 0.0}


@dataclass(frozen=True)
class StandIn:
    """What a config expects of its data; there are no records."""

    pictures: dict[str, Picture]
    class_names: tuple[str, ...] = tuple("abcdefghij")
    labels_per_image: int = 1
    captions: tuple[str, ...] = ("a red heart",)
    scalar_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def shape(self):
        return self.pictures["image"].shape

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        raise AssertionError("no record is to be read")

    __getitems__ = __getitem__


def stand_in(settings) -> StandIn:
    data = settings.data
    pictures = {"image": Picture(OWN_SHAPES.get(data.name, (None, None, data.channels or 3)))}
    if data.name == "pairs":
        other = next(name for name in data.names if name != "image")
        mask = Picture((None, None, 1), kind="mask", values=(0, 255))
        return StandIn(pictures | {other: mask if other in data.masks else pictures["image"]}, class_names=())
    return StandIn(pictures)


def shipped(name: str) -> ConfigDict:
    return config.load(REPOSITORY / "configs" / f"{name}.py")


def to_trace() -> Iterator[Any]:
    """All configs; slow where one before it has the same task and networks."""
    seen = set()
    for name in NAMES:
        settings = shipped(name)
        networks = (settings.task, str(settings.network), str(settings.autoencoder))
        yield pytest.param(name, {}, id=name, marks=pytest.mark.slow if networks in seen else ())
        seen.add(networks)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_config_fits_its_data(name: str):
    settings = shipped(name)
    config.check(settings)
    resolve(settings, stand_in(settings))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *to_trace(),
        pytest.param("cifar10", {"model.conditions": ()}, id="cifar10, unconditional"),
        pytest.param("cifar10", PLAIN_FLIPS, id="cifar10, plain flips"),
        pytest.param("cifar10", {**PLAIN_FLIPS, "model.conditions": ()}, id="cifar10, unconditional, plain flips"),
    ],
)
def test_the_loss_of_every_shipped_config_can_be_traced(name: str, changed: dict[str, Any]):
    settings = shipped(name)
    with settings.unlocked():
        settings.update_from_flattened_dict(changed)
    config.check(settings)
    settings = resolve(settings, stand_in(settings))
    if settings.model.space == "latents":  # the loss sees what the autoencoder of the config's name says of images
        theirs = shipped(Path(settings.space.autoencoder).name)
        settings.autoencoder.update(theirs.autoencoder)
        settings = unscaled(settings)
        settings.space.prepared = "latents"
    task = from_config.task(settings)
    key, step, batch = jax.random.key(0), jnp.int32(0), from_config.example(settings, 2)
    params, state = jax.eval_shape(task.init, key, batch)
    loss, (new_state, logs) = jax.eval_shape(task.loss, params, state, batch, key, step)
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    assert all(log.shape == () for log in logs.values())
    assert jax.tree.map(jnp.shape, new_state) == jax.tree.map(jnp.shape, state)

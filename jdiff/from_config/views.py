"""What becomes of a record."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jdiff.conditions import Condition
from jdiff.config import one_of
from jdiff.data.augment import NonLeaky, Turn
from jdiff.data.resize import Resize, Rule, by_no_chance
from jdiff.data.sources import Picture
from jdiff.data.sources.moments import MIRRORED
from jdiff.data.views import View
from jdiff.from_config.autoencoders import bottleneck
from jdiff.from_config.conditions import CONDITIONS, conditions
from jdiff.from_config.networks import pixels_a_side


def view(config: ConfigDict, *, train: bool) -> View:
    """What makes an example of a record; nothing is done at random to held-out images."""
    if config.space.prepared:
        return _of_latents(config, train=train)
    data, masks = config.data, frozenset(config.data.masks)
    height, width, channels = data.shape
    rule = one_of("data.resize", data.resize, get_args(Rule))
    low, high = data.range
    wanted = _conditions(config)
    lowest = {name: one.low for condition in wanted for name, one in condition.pictures.items()}
    return View(
        target=data.target,
        picture=Picture((None, None, channels), data.dtype, low=low, high=high),
        resize=Resize(
            rule if train else by_no_chance(rule),  # type: ignore[arg-type]
            height,
            width,
            masks=masks,
            alpha=frozenset(data.alpha),
            fill={name: value for name, value in {data.target: low, **lowest}.items() if name not in masks},
        ),
        turn=Turn(horizontal=data.flip, vertical=data.flip_vertical, quarters=data.quarter_turns) if train else None,
        augment=NonLeaky(data.augment, masks) if train and data.augment else None,
        conditions=wanted,
        texts_vary=train and "text" in config.model.conditions and _texts_vary(config),
        raters=masks if data.several == "raters" else frozenset(),
        shapes=data.shapes,
    )


def _of_latents(config: ConfigDict, *, train: bool) -> View:
    """The same of latents that were prepared."""
    stride = pixels_a_side(config)
    height, width, channels = (*(side // stride for side in config.data.shape[:2]), bottleneck(config).features)
    return View(
        picture=Picture((height, width, channels), "float16", low=-1.0, high=1.0),
        resize=Resize("centre", height, width),
        conditions=_conditions(config),
        texts_vary=train and "text" in config.model.conditions and _texts_vary(config),
        mirrored=MIRRORED if train and config.data.flip else "",
    )


def _conditions(config: ConfigDict) -> tuple[Condition, ...]:
    """What the model is given, and classes wherever there are some: a classifier learns them, whatever it is given."""
    others = config.data.class_names and "label" not in config.model.conditions
    return (*conditions(config), *((CONDITIONS["label"](config, 0.0),) if others else ()))


def _texts_vary(config: ConfigDict) -> bool:
    text = config.condition.text
    return config.data.captions_per_image > 1 or text.shuffle_tags or text.drop_tags > 0


def example(config: ConfigDict, rows: int = 1) -> Any:
    """A batch of zeros of the form that a resolved config's data have."""
    return jax.tree.map(jnp.asarray, view(config, train=True).example(rows))

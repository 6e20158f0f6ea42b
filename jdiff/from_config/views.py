"""What becomes of a record."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jdiff.config import one_of
from jdiff.data.augment import NonLeaky, Turn
from jdiff.data.resize import Resize, Rule, by_no_chance
from jdiff.data.sources import Picture
from jdiff.data.views import View
from jdiff.from_config.conditions import CONDITIONS, conditions


def view(config: ConfigDict, *, train: bool) -> View:
    """What makes an example of a record; nothing is done at random to held-out images."""
    data, masks = config.data, frozenset(config.data.masks)
    height, width, channels = data.shape
    rule = one_of("data.resize", data.resize, get_args(Rule))
    low, high = data.range
    wanted = conditions(config)
    # Classes are read wherever there are some: a classifier learns them, whatever it is given.
    others = (CONDITIONS["label"](config, 0.0),) if data.class_names and "label" not in config.model.conditions else ()
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
        conditions=(*wanted, *others),
        texts_vary=train and "text" in config.model.conditions and _texts_vary(config),
        raters=masks if data.several == "raters" else frozenset(),
        shapes=data.shapes,
    )


def _texts_vary(config: ConfigDict) -> bool:
    text = config.condition.text
    return config.data.captions_per_image > 1 or text.shuffle_tags or text.drop_tags > 0


def example(config: ConfigDict, rows: int = 1) -> Any:
    """A batch of zeros of the form that a resolved config's data have."""
    return jax.tree.map(jnp.asarray, view(config, train=True).example(rows))

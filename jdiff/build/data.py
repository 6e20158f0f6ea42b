"""Where images come from, and what becomes of a record."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from tqdm import tqdm

from jdiff.build.names import pick
from jdiff.build.texts import frozen
from jdiff.common.errors import UserError
from jdiff.config import one_of
from jdiff.data.sources import Source
from jdiff.data.sources.digits import Digits
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.tfds import SplitMissingError, Tfds
from jdiff.data.transforms import CHANNEL_CHANGES, Grey, ImageView, Thumbnail


def sources(config: ConfigDict) -> tuple[Source, Source | None]:
    """(training images, held-out images or None)."""
    data = config.data
    family, _, name = data.name.partition(":")

    def folder(split: str) -> Source:
        bar = partial(tqdm, desc=f"checking {split} images", leave=False, disable=None if config.log.progress else True)
        on_bad_file = one_of("data.on_bad_file", data.on_bad_file, ("error", "skip"))
        return Folder(
            data.dir,
            split,
            channels=one_of_channels(data.channels or 3),
            holdout=data.holdout,
            on_bad_file=on_bad_file,  # type: ignore[arg-type]
            labels=data.labels,
            scalars=config.condition.scalars.names if "scalars" in config.model.conditions else (),
            progress=lambda files, total: bar(files, total=total),
        )

    families: dict[str, Callable[[str], Source]] = {
        "digits": Digits,
        "folder": folder,
        "tfds": lambda split: Tfds(name, split, data.dir),
    }
    make = pick("data.name", family, families)
    if family == "tfds" and not name:
        raise UserError("data.name='tfds:' lacks the name of a data set, as in tfds:cifar10")
    train = make("train")
    try:
        test = make("test")
    except SplitMissingError:
        return train, None
    return train, test if len(test) else None


def one_of_channels(channels: int) -> int:
    if channels not in (1, 3, 4):
        raise UserError(f"data.channels={channels} must be 1 (grey), 3 (colour) or 4 (with transparency)")
    return channels


def resolve(config: ConfigDict, source: Source) -> ConfigDict:
    """The config with what the data decide filled in: shape, classes, and the conditions that there are."""
    config = config.copy_and_resolve_references()
    height, width, channels = source.shape
    if config.data.image_size:
        height = width = config.data.image_size
    if height is None or width is None:
        raise UserError("these images have many sizes: give one with --config.data.image_size=64")
    wanted = config.data.channels or channels
    if wanted != channels and (channels, wanted) not in CHANNEL_CHANGES:
        raise UserError(f"data.channels={wanted}: {config.data.name} has images of {channels} channels; leave it at 0")
    config.data.shape = (height, width, wanted)
    config.data.class_names = source.class_names
    config.data.labels_per_image = source.labels_per_image
    if not source.class_names:
        config.model.conditions = tuple(name for name in config.model.conditions if name != "label")
    wanted_conditions, names = config.model.conditions, config.condition.scalars.names
    if "text" in wanted_conditions and not source.captions:
        raise UserError(
            f"model.conditions holds 'text', and data.name={config.data.name!r} has no captions; a folder has them in "
            "metadata.jsonl or metadata.csv (file_name, text)"
        )
    if "scalars" in wanted_conditions:
        unknown = [name for name in names if name not in source.scalar_names]
        if unknown or not names:
            known = ", ".join(source.scalar_names) or "none"
            raise UserError(f"condition.scalars.names={names}: data.name={config.data.name!r} has {known}")
    if "text" in wanted_conditions and config.condition.text.encoder == "frozen":
        config.data.text_width = frozen(config).width
    if not config.model.conditions and config.guidance.method in ("classifier_free", "cfg_plus_plus"):
        config.sample.guidance_scale = None
    return config


def view(config: ConfigDict, *, train: bool) -> ImageView:
    """What makes an example of a record; held-out images are not flipped."""
    data, conditions, condition = config.data, config.model.conditions, config.condition
    pictures: dict[str, Callable[[], Thumbnail | Grey]] = {
        "thumbnail": lambda: Thumbnail(condition.image.factor),
        "grey": Grey,
    }
    return ImageView(
        shape=data.shape,
        flip=data.flip and train,
        labels=data.labels_per_image if data.class_names else 0,
        image=pick("condition.image.view", condition.image.view, pictures)() if "image" in conditions else None,
        text=(condition.text.length, data.text_width) if "text" in conditions else None,
        scalars=condition.scalars.names if "scalars" in conditions else (),
    )


def example(config: ConfigDict, rows: int = 1) -> Any:
    """A batch of zeros of the form that a resolved config's data have."""
    return jax.tree.map(jnp.asarray, view(config, train=False).example(rows))

"""What the data decide of a config: filled in when training starts, so that sampling needs no data."""

from dataclasses import replace
from pathlib import Path

from ml_collections import ConfigDict

import jdiff.config
from jdiff.common.errors import UserError
from jdiff.conditions.aspect import Aspect
from jdiff.conditions.scalars import spread
from jdiff.data import buckets
from jdiff.data.sources import Picture, Source
from jdiff.data.sources.prepared import sizes_of
from jdiff.data.transforms import CHANNEL_CHANGES
from jdiff.from_config import multiple
from jdiff.from_config.conditions import frozen_text


def resolve(config: ConfigDict, source: Source) -> ConfigDict:
    """The config with what the data decide filled in: shape, range, classes, and the conditions that there are."""
    config = config.copy_and_resolve_references()
    picture = _picture(config, source, "data.target", config.data.target)
    height, width, channels = picture.shape
    if config.data.image_size:
        height, width = sides(config.data.image_size)
    config.data.shapes = _shapes(config, source)
    if config.data.shapes:
        height, width = config.data.shapes[0]
    if height is None or width is None:
        raise UserError("these images have many sizes: give one with --config.data.image_size=64")
    config.data.shape = (height, width, channels)
    config.data.dtype, config.data.range = picture.dtype, (float(picture.low), float(picture.high))
    config.data.masks = tuple(name for name, one in source.pictures.items() if one.kind == "mask")
    config.data.classes_of_masks = picture.values
    config.data.alpha = tuple(name for name, one in source.pictures.items() if one.alpha)
    config.data.num_images = len(source)
    config.data.class_names = source.class_names
    config.data.class_counts = getattr(source, "class_counts", ())
    config.data.captions_per_image = max((text.count("\n") + 1 for text in source.captions), default=0)
    config.data.labels_per_image = source.labels_per_image
    if not source.class_names:
        config.model.conditions = tuple(name for name in config.model.conditions if name != "label")
    if Aspect.name in config.model.conditions and not config.data.shapes:
        raise UserError("model.conditions holds 'aspect', which tells several shapes apart: set data.buckets=8")
    config.model.conditions = tuple(name for name in config.model.conditions if name != Aspect.name)  # added below
    wanted_conditions, names = config.model.conditions, config.condition.scalars.names
    if "text" in wanted_conditions and not source.captions:
        raise UserError(
            f"model.conditions holds 'text', and data.name={config.data.name!r} has no captions; a folder has them in "
            "metadata.jsonl or metadata.csv (file_name, text), or in a .txt beside each image"
        )
    if "scalars" in wanted_conditions:
        unknown = [name for name in names if name not in source.scalar_names]
        if unknown or not names:
            known = ", ".join(source.scalar_names) or "none"
            raise UserError(f"condition.scalars.names={names}: data.name={config.data.name!r} has {known}")
    if "image" in wanted_conditions:
        image = config.condition.image
        image.of = image.of or config.data.target
        given = _picture(config, source, "condition.image.of", image.of)
        image.shape = (given.shape[0] or height, given.shape[1] or width, given.channels)
        image.dtype, image.range = given.dtype, (float(given.low), float(given.high))
        image.mask_values = given.values
        if image.view != "as_is" and (given.kind == "mask" or given.dtype != "uint8"):
            what = "a mask's values" if given.kind == "mask" else f"{given.dtype} pictures"
            raise UserError(
                f"condition.image.view={image.view!r} is made of 8-bit images, and condition.image.of={image.of!r} has "
                f"{what}: set --config.condition.image.view=as_is"
            )
        if image.view not in ("as_is", "thumbnail") and given.channels not in (1, 3, 4):
            raise UserError(
                f"condition.image.view={image.view!r} is made of grey or colour images, and condition.image.of="
                f"{image.of!r} has {given.channels} channels: set --config.condition.image.view=as_is or thumbnail"
            )
    if "text" in wanted_conditions and config.condition.text.encoder == "frozen":
        config.data.text_width = frozen_text(config).width
    if config.data.quarter_turns and height != width:
        raise UserError(f"data.quarter_turns turns square pictures alone, and these are {height}x{width}")
    if not config.model.conditions and config.guidance.method in ("classifier_free", "cfg_plus_plus"):
        config.sample.guidance_scale = None
    if config.data.shapes and jdiff.config.denoises(config):
        config.model.conditions = (*config.model.conditions, Aspect.name)
    return config


def _shapes(config: ConfigDict, source: Source) -> buckets.Shapes:
    """The shapes that images are trained in: those that are given, or the best for these data."""
    data = config.data
    if not data.buckets:
        return ()
    if data.shapes:
        return data.shapes
    return buckets.choose(sizes_of(source), side=data.image_size, most=data.buckets, multiple=multiple(config))


def sides(image_size: int | tuple[int, ...]) -> tuple[int, int]:
    """data.image_size as (height, width)."""
    if isinstance(image_size, int):
        return image_size, image_size
    if len(image_size) != 2 or not all(image_size):
        raise UserError(f"data.image_size={tuple(image_size)}: a number, or (height, width)")
    return image_size[0], image_size[1]


def with_shapes(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config with the shapes of the run in `workdir`, where that has any under the same keys: a few images more
    would choose others.
    """
    if not config.data.buckets or config.data.shapes or not (workdir / jdiff.config.FILE).is_file():
        return config
    own = jdiff.config.of_run(workdir).data
    if (own.buckets, own.image_size) != (config.data.buckets, config.data.image_size):
        return config
    config = config.copy_and_resolve_references()
    config.data.shapes = own.shapes
    return config


def with_scale(config: ConfigDict, source: Source, workdir: Path) -> ConfigDict:
    """The config with the mean and standard deviation of its scalars: as it gives them, or as the run in `workdir` has
    them, or else those of these data.
    """
    if "scalars" not in config.model.conditions or config.condition.scalars.mean or config.condition.scalars.std:
        return config
    config = config.copy_and_resolve_references()
    scalars = config.condition.scalars
    own = jdiff.config.of_run(workdir).condition.scalars if (workdir / jdiff.config.FILE).is_file() else scalars
    known = own.mean and own.names == scalars.names
    scalars.mean, scalars.std = (own.mean, own.std) if known else spread(source, tuple(scalars.names))
    return config


def _picture(config: ConfigDict, source: Source, key: str, name: str) -> Picture:
    """The record's picture `name`, brought to data.channels."""
    if name not in source.pictures:
        raise UserError(f"{key}={name!r}: these data have {', '.join(source.pictures)}")
    picture, wanted = source.pictures[name], config.data.channels
    if picture.kind == "mask":  # of several raters one is drawn
        return replace(picture, shape=(*picture.shape[:2], 1)) if config.data.several == "raters" else picture
    if wanted in (0, picture.channels):
        return picture
    if (picture.channels, wanted) not in CHANNEL_CHANGES or picture.dtype != "uint8":
        raise UserError(
            f"data.channels={wanted}: {config.data.name} has images of {picture.channels} channels; leave it at 0"
        )
    return replace(picture, shape=(*picture.shape[:2], wanted), alpha=False)

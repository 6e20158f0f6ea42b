"""Where images come from, and what becomes of a record."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.config import one_of
from jdiff.data.augment import NonLeaky, Turn
from jdiff.data.edges import Canny, XDoG
from jdiff.data.resize import Resize, Rule, by_no_chance
from jdiff.data.sources import Picture, Source, SplitMissingError
from jdiff.data.sources.arrays import Arrays
from jdiff.data.sources.cached import Cached
from jdiff.data.sources.digits import Digits
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.hf import HuggingFace
from jdiff.data.sources.packed import Packed
from jdiff.data.sources.pairs import Pairs
from jdiff.data.sources.tfds import Tfds
from jdiff.data.transforms import CHANNEL_CHANGES, Grey, Thumbnail
from jdiff.data.views import Given, Make, View
from jdiff.from_config.names import pick
from jdiff.from_config.progress import progress_bar
from jdiff.from_config.texts import frozen


def sources(config: ConfigDict) -> tuple[Source, Source | None]:
    """(training images, held-out images or None)."""
    data = config.data
    family, _, name = data.name.partition(":")
    named = {"tfds": "tfds:cifar10", "hf": "hf:cifar10 or hf:PATH"}
    if family in named and not name:
        raise UserError(f"data.name='{family}:' lacks the name of a data set, as in {named[family]}")

    def files(split: str) -> dict[str, Any]:
        """What sources of many files have in common."""
        return {
            "holdout": data.holdout,
            "on_bad_file": one_of("data.on_bad_file", data.on_bad_file, ("error", "skip")),
            "channels": _channels(data.channels, data.bits),
            "bits": data.bits,
            "progress": progress_bar(config, f"checking {split} images"),
        }

    scalars = config.condition.scalars.names if "scalars" in config.model.conditions else ()
    masks = {"masks": data.masks, "mask_values": data.mask_values, "mask_snap": data.mask_snap}
    families: dict[str, Callable[[str], Source]] = {
        "digits": Digits,
        "folder": lambda split: Folder(data.dir, split, labels=data.labels, scalars=scalars, **files(split)),
        "pairs": lambda split: Pairs(
            data.dir,
            split,
            folders=_two("data.folders", data.folders),
            suffixes=_two("data.suffixes", data.suffixes),
            names=_two("data.names", data.names),
            halves=data.halves,
            **masks,
            **files(split),
        ),
        "arrays": lambda split: Arrays(data.dir, split, low=data.low, high=data.high, holdout=data.holdout),
        "tfds": lambda split: Tfds(name, split, data.dir, holdout=data.holdout),
        "hf": lambda split: HuggingFace(name, split, labels=data.labels, scalars=scalars, **masks, **files(split)),
        "array_record": lambda split: Packed(data.dir, split),
    }
    make = pick("data.name", family, families)
    if name and family not in named:
        raise UserError(f"data.name={data.name!r}: {family} takes no name; data.dir says where the data are")
    train = cached(config, make("train"))
    try:
        test = make("test")
    except SplitMissingError:
        return train, None
    return train, test if len(test) else None


def cached(config: ConfigDict, source: Source) -> Source:
    """The source with its records kept in memory, unless worker processes would each hold a copy."""
    if config.machine.cache < 0:
        raise UserError(f"machine.cache={config.machine.cache} must be GiB, 0 or more")
    if config.machine.workers or not config.machine.cache:
        return source
    return Cached(source, config.machine.cache * 2**30)


def _two(key: str, both: tuple[str, ...]) -> tuple[str, str]:
    if len(both) != 2:
        raise UserError(f"{key}={both}: two are needed, of the first and of the second pictures")
    return both[0], both[1]


def _channels(channels: int, bits: int) -> int:
    """Those that files are read with."""
    if bits not in (8, 16):
        raise UserError(f"data.bits={bits} must be 8 or 16")
    if channels not in (0, 1, 3, 4):
        raise UserError(f"data.channels={channels} must be 1 (grey), 3 (colour) or 4 (with transparency)")
    if bits == 16 and channels > 1:
        raise UserError(f"data.bits=16 with data.channels={channels}: 16-bit files are read as grey; leave it at 0")
    return channels or (1 if bits == 16 else 3)


def resolve(config: ConfigDict, source: Source) -> ConfigDict:
    """The config with what the data decide filled in: shape, range, classes, and the conditions that there are."""
    config = config.copy_and_resolve_references()
    picture = _picture(config, source, "data.target", config.data.target)
    height, width, channels = picture.shape
    if config.data.image_size:
        height = width = config.data.image_size
    if height is None or width is None:
        raise UserError("these images have many sizes: give one with --config.data.image_size=64")
    config.data.shape = (height, width, channels)
    config.data.dtype, config.data.range = picture.dtype, (float(picture.low), float(picture.high))
    config.data.masks = tuple(name for name, one in source.pictures.items() if one.kind == "mask")
    config.data.alpha = tuple(name for name, one in source.pictures.items() if one.alpha)
    config.data.num_images = len(source)
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
    if "image" in wanted_conditions:
        image = config.condition.image
        image.of = image.of or config.data.target
        given = _picture(config, source, "condition.image.of", image.of)
        image.shape, image.dtype, image.range = given.shape, given.dtype, (float(given.low), float(given.high))
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
        config.data.text_width = frozen(config).width
    if config.data.quarter_turns and height != width:
        raise UserError(f"data.quarter_turns turns square pictures alone, and these are {height}x{width}")
    if not config.model.conditions and config.guidance.method in ("classifier_free", "cfg_plus_plus"):
        config.sample.guidance_scale = None
    return config


def _picture(config: ConfigDict, source: Source, key: str, name: str) -> Picture:
    """The record's picture `name`, brought to data.channels."""
    if name not in source.pictures:
        raise UserError(f"{key}={name!r}: these data have {', '.join(source.pictures)}")
    picture, wanted, data = source.pictures[name], config.data.channels, config.data
    if picture.kind == "mask":
        return picture
    low, high = (own if given is None else given for own, given in ((picture.low, data.low), (picture.high, data.high)))
    if not low < high:
        raise UserError(f"data.low={low:g} must be below data.high={high:g}")
    picture = replace(picture, low=low, high=high)
    if wanted in (0, picture.channels):
        return picture
    if (picture.channels, wanted) not in CHANNEL_CHANGES or picture.dtype != "uint8":
        raise UserError(
            f"data.channels={wanted}: {config.data.name} has images of {picture.channels} channels; leave it at 0"
        )
    return replace(picture, shape=(*picture.shape[:2], wanted), alpha=False)


def view(config: ConfigDict, *, train: bool) -> View:
    """What makes an example of a record; nothing is done at random to held-out images."""
    data, conditions, condition = config.data, config.model.conditions, config.condition
    height, width, channels = data.shape
    rule = one_of("data.resize", data.resize, get_args(Rule))
    masks = frozenset(data.masks)
    low, high = data.range
    conditioning = given(config) if "image" in conditions else None
    shown = {data.target: low} | ({conditioning.of: conditioning.picture.low} if conditioning else {})
    return View(
        target=data.target,
        picture=Picture((None, None, channels), data.dtype, low=low, high=high),
        resize=Resize(
            rule if train else by_no_chance(rule),  # type: ignore[arg-type]
            height,
            width,
            masks=masks,
            alpha=frozenset(data.alpha),
            fill={name: lowest for name, lowest in shown.items() if name not in masks},
        ),
        turn=Turn(horizontal=data.flip, vertical=data.flip_vertical, quarters=data.quarter_turns) if train else None,
        augment=NonLeaky(data.augment, masks) if train and data.augment else None,
        labels=data.labels_per_image if data.class_names else 0,
        given=conditioning,
        text=(condition.text.length, data.text_width) if "text" in conditions else None,
        scalars=condition.scalars.names if "scalars" in conditions else (),
    )


def given(config: ConfigDict) -> Given:
    """The picture that conditions."""
    image = config.condition.image
    makers: dict[str, Callable[[], Make | None]] = {
        "as_is": lambda: None,
        "thumbnail": lambda: Thumbnail(image.factor),
        "grey": Grey,
        "canny": Canny,
        "xdog": XDoG,
    }
    make = pick("condition.image.view", image.view, makers)()
    low, high = image.range
    return Given(image.of, Picture(tuple(image.shape), image.dtype, low=low, high=high), make)


def example(config: ConfigDict, rows: int = 1) -> Any:
    """A batch of zeros of the form that a resolved config's data have."""
    return jax.tree.map(jnp.asarray, view(config, train=True).example(rows))

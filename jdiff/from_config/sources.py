"""Where images come from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import jdiff.config
from jdiff.common.errors import UserError
from jdiff.common.progress import progress_bar
from jdiff.config import one_of, settings
from jdiff.data import split_file
from jdiff.data.sources import Source, SplitMissingError
from jdiff.data.sources.wrapped import Noted, Ranged
from jdiff.from_config.names import pick
from jdiff.from_config.order import CLASS
from jdiff.from_config.views import view


def _digits(config: ConfigDict, name: str, split: str) -> Source:
    from jdiff.data.sources.digits import Digits

    return Digits(split)


def _folder(config: ConfigDict, name: str, split: str) -> Source:
    from jdiff.data.sources.folder import PAGES, Folder

    data = config.data
    return Folder(
        data.dir,
        split,
        labels=data.labels,
        column=_balanced(config) if split == "train" else "",
        label_pattern=data.label_pattern,
        scalars=_scalars(config),
        pages=one_of("data.pages", data.pages, PAGES),
        split_list=data.split_list,
        low=data.low,
        high=data.high,
        **_files(config, split),
    )


def _pairs(config: ConfigDict, name: str, split: str) -> Source:
    from jdiff.data.sources.pairs import Pairs

    data = config.data
    return Pairs(
        data.dir,
        split,
        folders=_two("data.folders", data.folders),
        suffixes=_two("data.suffixes", data.suffixes),
        names=_two("data.names", data.names),
        halves=data.halves,
        several=data.several,
        low=data.low,
        high=data.high,
        **_masks(config),
        **_files(config, split),
    )


def _arrays(config: ConfigDict, name: str, split: str) -> Source:
    from jdiff.data.sources.arrays import Arrays

    data = config.data
    return Arrays(data.dir, split, low=data.low, high=data.high, holdout=data.holdout)


def _tfds(config: ConfigDict, name: str, split: str) -> Source:
    from jdiff.data.sources.tfds import Tfds

    return Tfds(name, split, config.data.dir, splits=config.data.splits, holdout=config.data.holdout)


def _hugging_face(config: ConfigDict, name: str, split: str) -> Source:
    from jdiff.data.sources.hf import HuggingFace

    scalars, labels = _scalars(config), config.data.labels
    files = _files(config, split)
    return HuggingFace(name, split, labels=labels, scalars=scalars, high=config.data.high, **_masks(config), **files)


def _packed(config: ConfigDict, name: str, split: str) -> Source:
    from jdiff.data.sources.packed import Packed

    return Packed(config.data.dir, split)


# data.name, up to a colon -> (config, what follows the colon, split) -> its source.
SOURCES: dict[str, Callable[[ConfigDict, str, str], Source]] = {
    "digits": _digits,
    "folder": _folder,
    "pairs": _pairs,
    "arrays": _arrays,
    "tfds": _tfds,
    "hf": _hugging_face,
    "array_record": _packed,
}
NAMED = {"tfds": "tfds:cifar10", "hf": "hf:cifar10 or hf:PATH"}  # families that take a name, with an example


def sources(config: ConfigDict) -> tuple[Source, Source | None]:
    """(training images, held-out images or None), as the data have them, but that large JPEGs are decoded near
    data.image_size (0: at their full size).
    """
    data = config.data
    family, _, name = data.name.partition(":")
    if family in NAMED and not name:
        raise UserError(f"data.name='{family}:' lacks the name of a data set, as in {NAMED[family]}")
    make = pick("data.name", family, SOURCES)
    _check_taken(config, family)
    if name and family not in NAMED:
        raise UserError(f"data.name={data.name!r}: {family} takes no name; data.dir says where the data are")

    def of_split(split: str) -> Source:
        source = make(config, name, split)
        known = family == "arrays" or (data.low is None and data.high is None)
        return source if known else Ranged(source, data.low, data.high)

    train = of_split("train")
    try:
        test = of_split("test")
    except SplitMissingError:
        return train, None
    if not len(test):  # what was left out of it is told all the same
        return Noted(train, test), None
    return train, test


# Keys of the group data that some sources take, of those above. One that a source would ignore is refused.
TAKEN = {
    "digits": (),
    "folder": ("splits", "group", "stratify", "split_list", "labels", "label_pattern", "pages"),
    "pairs": ("splits", "group", "stratify", "split_list", "several"),
    "arrays": (),
    "tfds": ("splits",),
    "hf": ("splits", "group", "stratify", "labels"),
    "array_record": (),
}


def _check_taken(config: ConfigDict, family: str) -> None:
    """Raises UserError for a key that this family of sources would ignore."""
    for key in sorted({key for keys in TAKEN.values() for key in keys} - {*TAKEN.get(family, ())}):
        value, default = config.data[key], settings()[f"data.{key}"].default
        if value != default and family in TAKEN:
            families = ", ".join(name for name, keys in TAKEN.items() if key in keys)
            raise UserError(f"data.{key}={value!r}: data.name={config.data.name!r} takes none; it is for {families}")


def prepared(config: ConfigDict, source: Source, *, train: bool, keep: bool = True) -> Source:
    """A resolved config's source at the size that is trained on. keep: training records are kept in memory, unless
    worker processes would each hold a copy; otherwise all their pictures are brought to size, for whatever is trained.
    """
    from jdiff.data.sources.cached import Cached
    from jdiff.data.sources.prepared import prepared as at_size

    like = view(config, train=train)
    source = at_size(source, like if keep else replace(like, beside=source.pictures))
    kept = keep and train and config.machine.cache and not config.machine.workers
    return Cached(source, config.machine.cache * 2**30) if kept else source


def _files(config: ConfigDict, split: str) -> dict[str, Any]:
    """What sources of many files have in common."""
    data = config.data
    return {
        "holdout": data.holdout,
        "on_bad_file": one_of("data.on_bad_file", data.on_bad_file, ("error", "skip")),
        "channels": _channels(data.channels, data.bits),
        "bits": data.bits,
        "splits": data.splits,
        "group": data.group,
        "stratify": data.stratify,
        "kept": _kept(config),
        "axis": data.slice_axis,
        "near": _largest(data.image_size) * (2 if data.buckets else 1),  # sides up to 4 to 1
        "progress": progress_bar(f"checking {split} images", show=config.log.progress),
    }


# Keys of the group data that decide which images are held out.
DECIDE = ("name", "splits", "holdout", "group", "stratify", "split_list")


def _kept(config: ConfigDict) -> dict[str, str]:
    """The sides of the images when the run data.split_of last started, where it decided of them as `config` does."""
    run = Path(config.data.split_of)
    if not config.data.split_of or not (run / jdiff.config.FILE).is_file():
        return {}
    then = jdiff.config.of_run(run).data
    return split_file.read(run) if all(then[key] == config.data[key] for key in DECIDE) else {}


def _masks(config: ConfigDict) -> dict[str, Any]:
    data = config.data
    return {"masks": data.masks, "mask_values": data.mask_values, "mask_snap": data.mask_snap}


def _scalars(config: ConfigDict) -> tuple[str, ...]:
    return config.condition.scalars.names if "scalars" in config.model.conditions else ()


def _balanced(config: ConfigDict) -> str:
    """The column that training balances, where it is read for that alone."""
    return "" if config.data.balance in (CLASS, *_scalars(config)) else config.data.balance


def _largest(image_size: int | tuple[int, ...]) -> int:
    return max(image_size) if isinstance(image_size, tuple) else image_size


def _two(key: str, both: tuple[str, ...]) -> tuple[str, str]:
    if len(both) != 2:
        raise UserError(f"{key}={both}: two are needed, of the first and of the second pictures")
    return both[0], both[1]


def _channels(channels: int, bits: int) -> int:
    """The channels that files are read with."""
    if bits not in (8, 16):
        raise UserError(f"data.bits={bits} must be 8 or 16")
    if channels not in (0, 1, 3, 4):
        raise UserError(f"data.channels={channels} must be 1 (grey), 3 (colour) or 4 (with transparency)")
    if bits == 16 and channels == 4:
        raise UserError("data.channels=4: files of data.bits=16 are read as grey (1) or colour (3)")
    return channels or (1 if bits == 16 else 3)

"""Where images come from."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.common.progress import progress_bar
from jdiff.config import one_of
from jdiff.data.sources import Source, SplitMissingError
from jdiff.data.sources.wrapped import Noted
from jdiff.from_config.names import pick


def _digits(config: ConfigDict, name: str, split: str) -> Source:
    from jdiff.data.sources.digits import Digits

    return Digits(split)


def _folder(config: ConfigDict, name: str, split: str) -> Source:
    from jdiff.data.sources.folder import Folder

    data = config.data
    return Folder(data.dir, split, labels=data.labels, scalars=_scalars(config), **_files(config, split))


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
        **_masks(config),
        **_files(config, split),
    )


def _arrays(config: ConfigDict, name: str, split: str) -> Source:
    from jdiff.data.sources.arrays import Arrays

    data = config.data
    return Arrays(data.dir, split, low=data.low, high=data.high, holdout=data.holdout)


def _tfds(config: ConfigDict, name: str, split: str) -> Source:
    from jdiff.data.sources.tfds import Tfds

    return Tfds(name, split, config.data.dir, holdout=config.data.holdout)


def _hugging_face(config: ConfigDict, name: str, split: str) -> Source:
    from jdiff.data.sources.hf import HuggingFace

    scalars, labels = _scalars(config), config.data.labels
    return HuggingFace(name, split, labels=labels, scalars=scalars, **_masks(config), **_files(config, split))


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
    """(training images, held-out images or None)."""
    data = config.data
    family, _, name = data.name.partition(":")
    if family in NAMED and not name:
        raise UserError(f"data.name='{family}:' lacks the name of a data set, as in {NAMED[family]}")
    make = pick("data.name", family, SOURCES)
    if name and family not in NAMED:
        raise UserError(f"data.name={data.name!r}: {family} takes no name; data.dir says where the data are")
    train = _cached(config, make(config, name, "train"))
    try:
        test = make(config, name, "test")
    except SplitMissingError:
        return train, None
    if not len(test):  # what was left out of it is told all the same
        return Noted(train, test), None
    return train, test


def _files(config: ConfigDict, split: str) -> dict[str, Any]:
    """What sources of many files have in common."""
    data = config.data
    return {
        "holdout": data.holdout,
        "on_bad_file": one_of("data.on_bad_file", data.on_bad_file, ("error", "skip")),
        "channels": _channels(data.channels, data.bits),
        "bits": data.bits,
        "progress": progress_bar(f"checking {split} images", show=config.log.progress),
    }


def _masks(config: ConfigDict) -> dict[str, Any]:
    data = config.data
    return {"masks": data.masks, "mask_values": data.mask_values, "mask_snap": data.mask_snap}


def _scalars(config: ConfigDict) -> tuple[str, ...]:
    return config.condition.scalars.names if "scalars" in config.model.conditions else ()


def _cached(config: ConfigDict, source: Source) -> Source:
    """The source with its records kept in memory, unless worker processes would each hold a copy."""
    if config.machine.workers or not config.machine.cache:
        return source
    from jdiff.data.sources.cached import Cached

    return Cached(source, config.machine.cache * 2**30)


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
    if bits == 16 and channels > 1:
        raise UserError(f"data.bits=16 with data.channels={channels}: 16-bit files are read as grey; leave it at 0")
    return channels or (1 if bits == 16 else 3)

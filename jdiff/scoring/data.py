"""The images that numbers are computed of: a config's data, and files of any tool."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.common.paths import expanded
from jdiff.common.processes import first_process_first
from jdiff.common.ranges import Range
from jdiff.conditions.aspect import Aspect
from jdiff.conditions.text import Text
from jdiff.config import settings
from jdiff.data import pipeline
from jdiff.data.fingerprint import fingerprint
from jdiff.data.sources import Source
from jdiff.evaluation.gather import Pictures
from jdiff.evaluation.protocol import Protocol
from jdiff.resolve import resolve

CONDITIONS = 1000  # images whose conditions are taken in turn


@dataclass(frozen=True, eq=False, kw_only=True)
class Data:
    """A config's data: the pictures that are modelled. fingerprint: of the training images."""

    train: Pictures
    held_out: Pictures | None
    fingerprint: str
    notes: tuple[str, ...] = ()


def open_data(config: ConfigDict) -> tuple[ConfigDict, Data]:
    """(the config with what the data decide filled in, the data)."""
    with first_process_first():  # what it finds of files, the others need not look for
        train, held_out = from_config.sources(config)
    known = fingerprint(train)
    if not config.data.shape:
        config = resolve(config, train)
    config = config.copy_and_resolve_references()
    config.model.conditions = ()  # pictures alone, and classes where there are some
    view, values = from_config.view(config, train=False), Range(config.data.dtype, *config.data.range)

    def pictures(source: Source, *, train: bool) -> Pictures:
        at_size = from_config.prepared(config, source, train=train)
        number = config.data.shapes.index(tuple(config.data.shape[:2])) if config.data.shapes else 0
        rows = np.flatnonzero(from_config.shape_numbers(config, source) == number)
        return Pictures(at_size, view, np.random.default_rng(0).permutation(rows), values)

    tested = held_out is not None and len(held_out)
    return config, Data(
        train=pictures(train, train=True),
        held_out=pictures(held_out, train=False) if held_out is not None and tested else None,
        fingerprint=known,
        notes=(*train.notes, *(held_out.notes if held_out else ())),
    )


def files(config: ConfigDict, protocol: Protocol, shape: tuple[int, ...]) -> tuple[Pictures, str]:
    """(images that exist already, in eval.images, their fingerprint). Raises UserError where they differ from the
    reference's in sides or channels.
    """
    path = expanded(config.eval.images)
    if not path.exists():
        raise UserError(
            f"eval.images={config.eval.images!r} does not exist; give a folder of images, or an .npz or .npy"
        )
    of_files = config.copy_and_resolve_references()
    data = of_files.data
    for name in ("image_size", "splits", "group", "labels", "label_pattern", "pages", "balance", "buckets", "target"):
        with of_files.ignore_type():
            data[name] = _usual(name)
    data.name = "arrays" if path.suffix in (".npz", ".npy") else "folder"
    data.dir, data.holdout, data.shapes, data.low, data.high = str(path), 0.0, (), None, None
    data.channels = 0 if data.name == "arrays" else shape[2]
    data.labels = "" if data.name == "arrays" else "none"
    of_files.model.conditions = ()
    source, _ = from_config.sources(of_files)
    picture = source.pictures["image"]
    if picture.shape != shape:
        height, width, channels = (side or "many sizes" for side in picture.shape)
        raise UserError(
            f"{path}: its images are {height}x{width}x{channels}, and the reference's are {'x'.join(map(str, shape))}: "
            f"{resized(protocol)}, which would compare images of two sizes. Bring them to the reference's size first"
        )
    data.shape, data.class_names = shape, source.class_names
    data.dtype, data.range, data.alpha, data.masks = picture.dtype, (picture.low, picture.high), (), ()
    view, values = from_config.view(of_files, train=False), Range(picture.dtype, picture.low, picture.high)
    return Pictures(source, view, np.arange(len(source)), values), fingerprint(source)


def _usual(name: str) -> Any:
    return settings()[f"data.{name}"].default


def raw(pictures: Pictures, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(at most so many of the pictures, in their own dtype and range, the class of each)."""
    batch = pipeline.batch_of(pictures.source, pictures.view, pictures.rows[:count])
    labels = batch["cond"].get("label")
    return batch["x0"], labels if labels is not None and labels.ndim == 1 else None


def conditions(config: ConfigDict, workdir: Path | None) -> tuple[dict[str, Any], list[str] | None]:
    """(the conditions of at most CONDITIONS held-out images, or else training images, as a model of this config is
    given them; their texts).
    """
    train, held_out = from_config.sources(config)
    source = held_out if held_out is not None and len(held_out) else train
    of_records = config.copy_and_resolve_references()
    wanted = from_config.conditions(config)
    text = next((condition for condition in wanted if isinstance(condition, Text)), None)
    of_records.model.conditions = tuple(one.name for one in wanted if one is not text and one.name != Aspect.name)
    number = config.data.shapes.index(tuple(config.data.shape[:2])) if config.data.shapes else 0
    among = np.flatnonzero(from_config.shape_numbers(config, source) == number)
    rows = np.random.default_rng(0).permutation(among)[:CONDITIONS]
    cond = pipeline.batch_of(source, from_config.view(of_records, train=False), rows)["cond"]
    given = {name: cond[name] for name in of_records.model.conditions}
    if text is None:
        return given, None
    captions = [source.captions[row].partition("\n")[0] for row in rows]
    return {**given, text.name: text.in_folder(workdir).of_caller(captions)}, captions


def resized(protocol: Protocol) -> str:
    """What a protocol would do with images of another size, in words."""
    seen = protocol.input
    if seen is None:
        return "these features would bring each image to one size"
    return f"the protocol {protocol.name} resizes each image to {seen.size}x{seen.size} ({seen.resize})"

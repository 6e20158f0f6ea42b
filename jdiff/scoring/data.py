"""The images that numbers are computed of: a config's data, and files of any tool."""

import atexit
import hashlib
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.common.paths import expanded
from jdiff.common.processes import first_process_first
from jdiff.common.progress import say
from jdiff.common.ranges import Range
from jdiff.conditions.aspect import Aspect
from jdiff.conditions.text import Text
from jdiff.config import settings
from jdiff.data import pipeline
from jdiff.data.fingerprint import fingerprint
from jdiff.data.sources import Picture, Source
from jdiff.data.sources.prepared import sizes_of
from jdiff.evaluation.gather import Pictures
from jdiff.evaluation.protocol import Protocol
from jdiff.resolve import resolve

CONDITIONS = 1000  # images whose conditions are taken in turn
ARRAYS, ARCHIVES = (".npz", ".npy"), (".zip", ".tar")
FLOAT_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))  # of images that tools save
REFERENCE_ROWS = 50_000  # most reference images whose features are kept
# Keys of the group data that say what picture becomes of a record.
MADE = ("target", "shape", "dtype", "range", "resize", "channels", "bits", "masks", "alpha", "several", "slice_axis")
# Keys that are of the run's own source.
OF_SOURCES = (
    *(
        "image_size",
        "splits",
        "group",
        "stratify",
        "split_list",
        "split_of",
        "label_pattern",
        "pages",
        "balance",
        "balance_power",
        "buckets",
        "target",
    ),
    *("several", "shapes", "low", "high", "resize", "channels", "augment"),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Data:
    """A config's data: the pictures that are modelled. sources: the records, and those held out, if any. fingerprints:
    of the two. made: how pictures are made of records, in a digest.
    """

    train: Pictures
    held_out: Pictures | None
    sources: tuple[Source, Source | None]
    fingerprints: tuple[str, str]
    made: str
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Of the training records."""
        return self.fingerprints[0]

    def pictures(self, *, test_too: bool) -> str:
        """What the pictures are, those held out too or not, in a digest."""
        return "-".join((*self.fingerprints[: 1 + test_too], self.made))


def open_data(config: ConfigDict, *, keep: bool = True) -> tuple[ConfigDict, Data]:
    """(the config with what the data decide filled in, the data). keep: training images in memory, as far as
    machine.cache goes.
    """
    with first_process_first():  # what it finds of files, the others need not look for
        train, held_out = from_config.sources(config)
    known = fingerprint(train), fingerprint(held_out) if held_out is not None and len(held_out) else ""
    if not config.data.shape:
        config = resolve(config, train)
    config = from_config.of_images(config).copy_and_resolve_references()
    config.model.conditions = ()  # pictures alone, and classes where there are some
    view, values = from_config.view(config, train=False), Range(config.data.dtype, *config.data.range)

    def pictures(source: Source, *, train: bool) -> Pictures:
        at_size = from_config.prepared(config, source, train=train and keep)
        rows = _of_shape(config, source)
        if len(rows) > REFERENCE_ROWS:  # the first ones are kept, and are to be any
            rows = np.random.default_rng(0).permutation(rows)
        return Pictures(at_size, view, rows, values)

    tested = held_out is not None and len(held_out)
    return config, Data(
        train=pictures(train, train=True),
        held_out=pictures(held_out, train=False) if held_out is not None and tested else None,
        sources=(train, held_out if tested else None),
        fingerprints=known,
        made=made(config),
        notes=(*train.notes, *(held_out.notes if held_out else ())),
    )


def _of_shape(config: ConfigDict, source: Source) -> np.ndarray:
    """The rows of the records that the config's shape is for."""
    number = config.data.shapes.index(tuple(config.data.shape[:2])) if config.data.shapes else 0
    return np.flatnonzero(from_config.shape_numbers(config, source) == number)


def made(config: ConfigDict) -> str:
    """How pictures are made of records, in a digest."""
    return hashlib.sha256(repr([config.data[name] for name in MADE]).encode()).hexdigest()[:16]


def open_files(config: ConfigDict, *, as_trained: bool = False) -> tuple[Pictures, str]:
    """(images that exist already, in eval.images, their fingerprint). as_trained: they are brought to the config's
    shape as training does, and a line tells it; else UserError where they are of several sizes.
    """
    paths, count = [expanded(one) for one in config.eval.images.split(",")], config.eval.num_images
    if missing := [path for path in paths if not path.exists()]:
        raise UserError(
            f"eval.images={config.eval.images!r}: {missing[0]} does not exist; give a folder of images, an .npz or "
            ".npy of them, or image files parted by commas"
        )
    path = paths[0] if len(paths) == 1 and (paths[0].is_dir() or paths[0].suffix in ARRAYS) else _folder_of(paths)
    of_files = config.copy_and_resolve_references()
    data = of_files.data
    for name in OF_SOURCES:
        with of_files.ignore_type():
            data[name] = settings()[f"data.{name}"].default
    data.name = "arrays" if path.suffix in ARRAYS else "folder"
    data.dir, data.holdout = str(path), 0.0
    data.labels = "" if data.name == "arrays" else "none"
    of_files.model.conditions = ()
    source, _ = from_config.sources(of_files)
    picture = source.pictures["image"]
    height, width, channels = picture.shape
    if as_trained:
        _tell_sizes(config, source)
        height, width, needed = config.data.shape
        data.resize = config.data.resize
    elif height is None or width is None:
        raise UserError(
            f"{path}: its images have many sizes, {_sizes_in_words(sizes_of(source))}: "
            f"{resized(from_config.evaluation.protocol(config))}, which would compare images of several sizes. Bring "
            "them to one size first, the reference's"
        )
    grey_too = as_trained and needed == channels  # which are read as three equal channels, as in training
    data.shape = (height, width, channels if data.name == "arrays" or grey_too else _channels(source))
    data.class_names, data.alpha, data.masks = source.class_names, (), ()
    alike = config.data.shape and picture.dtype == config.data.dtype
    data.dtype, data.range = picture.dtype, config.data.range if alike else _range(config, path, picture)
    rows = np.arange(len(source))
    if count and count < len(rows):
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:count])
    values = Range(data.dtype, *data.range)
    stat = path.stat()  # a fingerprint reads some images alone
    known = f"{fingerprint(source)}-{stat.st_size}-{stat.st_mtime_ns}"
    return Pictures(source, from_config.view(of_files, train=False), rows, values), known


def _range(config: ConfigDict, path: Path, picture: Picture) -> tuple[float, float]:
    """The values that are black and white. Of floats, their extremes alone would not tell dark images from bright ones:
    data.low and data.high, or else the usual range that holds them, which a line names.
    """
    if picture.dtype != "float32":
        return picture.low, picture.high
    if config.data.low is not None and config.data.high is not None:
        return float(config.data.low), float(config.data.high)
    fits = [(low, high) for low, high in FLOAT_RANGES if low <= picture.low and picture.high <= high]
    found = f"floats from {picture.low:g} to {picture.high:g}"
    if not fits:
        usual = ", ".join(f"{low:g} to {high:g}" for low, high in FLOAT_RANGES)
        raise UserError(
            f"{path} holds {found}, in none of the usual ranges ({usual}): clip them to theirs, or save them as uint8"
        )
    say(f"{path} holds {found}: taken as black at {fits[0][0]:g} and white at {fits[0][1]:g}")
    return fits[0]


def _tell_sizes(config: ConfigDict, source: Source) -> None:
    """A line that says what is done to images of other sizes than the config's."""
    sizes, (height, width, _) = sizes_of(source), config.data.shape
    others = sizes[(sizes != (height, width)).any(axis=1)]
    if len(others):
        say(
            f"{len(others):,} of {len(sizes):,} images in eval.images, of {_sizes_in_words(others)}, are brought to "
            f"{height}x{width}, as in training (data.resize={config.data.resize!r})"
        )


def _sizes_in_words(sizes: np.ndarray) -> str:
    """The smallest and the largest of sizes [n, 2]."""
    known = sorted(set(map(tuple, sizes.tolist())), key=lambda size: (math.prod(size), size))
    return " to ".join(f"{h}x{w}" for h, w in dict.fromkeys((known[0], known[-1])))


def _folder_of(files: list[Path]) -> Path:
    """A folder of links to files, until this process ends. Archives are folders themselves."""
    if len(files) == 1 and files[0].suffix in ARCHIVES:
        return files[0]
    folder = Path(tempfile.mkdtemp(prefix="jdiff_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for number, file in enumerate(files):
        (folder / f"{number:06d}_{file.name}").symlink_to(file.resolve())
    return folder


def check_shape(ours: tuple[int, ...], shape: tuple[int, ...], path: str, protocol: Protocol) -> None:
    """Raises UserError where images are of other sides or channels than the reference's."""
    if ours[:2] != shape[:2]:
        raise UserError(
            f"{path}: its images are {'x'.join(map(str, ours))}, and the reference's are {'x'.join(map(str, shape))}: "
            f"{resized(protocol)}, which would compare images of two sizes. Bring them to the reference's size first"
        )
    if ours[2] != shape[2]:
        raise UserError(
            f"{path}: its images have {ours[2]} channels, and the reference's {shape[2]}: the protocol {protocol.name} "
            "would make three equal channels of a grey one, which would compare images of two kinds. Convert them first"
        )


def _channels(source: Source) -> int:
    """1 where a folder's images are all grey, so far as some of them tell, else as they are read."""
    some = source.__getitems__(np.unique(np.linspace(0, len(source) - 1, 64).astype(int)).tolist())
    grey = all(np.ptp(record["image"][..., :3].astype(int), axis=-1).max() <= 2 for record in some)
    return 1 if grey else some[0]["image"].shape[-1]


def conditions(config: ConfigDict, data: Data, workdir: Path | None) -> tuple[dict[str, Any], list[str] | None]:
    """(the conditions of at most CONDITIONS held-out images, or else training images, as a model of this config is
    given them; their texts).
    """
    train, held_out = data.sources
    source = train if held_out is None else held_out
    of_records = config.copy_and_resolve_references()
    wanted = from_config.conditions(config)
    text = next((condition for condition in wanted if isinstance(condition, Text)), None)
    of_records.model.conditions = tuple(one.name for one in wanted if one is not text and one.name != Aspect.name)
    rows = np.random.default_rng(0).permutation(_of_shape(config, source))[:CONDITIONS]
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

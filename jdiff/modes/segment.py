"""--mode=segment: the masks of a folder of pictures of any size, with how sure they are."""

import csv
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy import ndimage

from jdiff import from_config, request
from jdiff.common import pictures
from jdiff.common.arrays import fingerprint
from jdiff.common.errors import UserError
from jdiff.common.files import replace_file
from jdiff.common.ownership import owned
from jdiff.common.progress import progress_bar
from jdiff.conditions.image import Image as ImageCondition
from jdiff.config import one_of
from jdiff.data.decode import Reader
from jdiff.data.resize import Resize
from jdiff.data.sources.files import pictures_of
from jdiff.data.trees import Tree, called, open_tree
from jdiff.evaluation.segmentation import entropy
from jdiff.evaluation.windows import Windows
from jdiff.metrics.lesions import NEIGHBOURS
from jdiff.metrics.segmentation import soft_dice
from jdiff.model import MEMBER_STRIDE, Model, restore
from jdiff.training.writers import say

FILE, SETTINGS = "segmentation.csv", "settings.json"
MASKS, PROBABILITIES, OVERLAYS = "masks", "probabilities", "overlays"
FREE = ("least_confidence", "on_bad_file")  # keys that change no mask
UNDECODED = ("utf-8", "surrogateescape")  # names of files may be of any encoding
COLOURS = ((0, 255, 0), (255, 64, 64), (64, 128, 255), (255, 220, 0), (255, 0, 255), (0, 255, 255))
MOST_WAITING = 2**29  # bytes of pictures that wait for a full batch


@dataclass(frozen=True)
class Told:
    """What a model says of a picture, at its size: probabilities of classes, and their variance over members."""

    probabilities: np.ndarray
    variance: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """The number of the likeliest class of each pixel."""
        return self.probabilities.argmax(axis=-1).astype(np.uint8)

    def row(self) -> dict[str, Any]:
        """A line of the table. area: pixels of no background. components: how many connected regions they make.
        confidence: the soft Dice 2 sum p m / (sum p + sum m) of the probability p of no background with the mask m,
        which is the Dice to expect of a model that is calibrated; of an empty mask 1 - the largest p.
        """
        p, found = 1 - self.probabilities[..., 0], self.numbers > 0
        of_mask = soft_dice(p.clip(0, 1)[None], found[None]).item() if found.any() else 1 - float(p.max())
        return {
            "height": p.shape[0],
            "width": p.shape[1],
            "area": int(found.sum()),
            "components": int(ndimage.label(found, NEIGHBOURS)[1]),
            "confidence": round(of_mask, 4),
            "entropy": round(float(entropy(self.probabilities).mean()), 6),
            "variance": round(float(self.variance.mean()), 6),
        }


def segment(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Write masks, probability maps, overlays and segmentation.csv of the pictures below sample.condition_dir to
    `out`, each picture at its own size and under its own name; the exit status. What is there already is kept.
    """
    if config.machine.distributed:
        raise UserError("machine.distributed=True: --mode=segment works by one process; start it alone")
    if not config.sample.condition_dir:
        raise UserError("--mode=segment needs the pictures: set --config.sample.condition_dir=PATH, their folder")
    out = out or workdir / "segmentation"
    model = restore(config, workdir)
    tree = open_tree(config.sample.condition_dir, "sample.condition_dir")
    names = pictures_of(tree)
    if not names:
        raise UserError(f"sample.condition_dir={config.sample.condition_dir}: no pictures are below it")
    try:
        with owned(out, "--out"):
            rows = _segment(model, tree, names, out)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error}; make room, and the same command goes on") from error
    least = config.segment.least_confidence
    doubtful = [row for row in rows if row["uncertain"] == "yes"]
    say(f"masks of {len(rows):,} pictures, step {model.step:,}, {config.segment.members} members: {out / MASKS}")
    say(f"table: {out / FILE}")
    if doubtful:
        first = min(doubtful, key=lambda row: float(row["confidence"]))
        say(
            f"{len(doubtful):,} of {len(rows):,} are uncertain (confidence below segment.least_confidence={least:g}), "
            f"the most {first['image']}"
        )
    return 0


def _segment(model: Model, tree: Tree, names: Sequence[str], out: Path) -> list[dict[str, Any]]:
    config, space = model.config, model.masks
    _check_settings(model, out)
    files = _files(names)
    stamps = {name: _stamp(tree, name) for name in names}
    rows = {
        row["image"]: row
        for row in _read(out / FILE)
        if stamps.get(row["image"]) == row["stamp"] and (out / MASKS / files[row["image"]]).is_file()
    }
    left = [name for name in names if name not in rows]
    if rows and left:
        say(f"{len(rows):,} of {len(names):,} pictures are there already; going on with the rest")
    _write(out / FILE, rows, names)
    if config.data.resize != "squash" and not config.segment.tiles:
        say(
            f"this model was trained with data.resize={config.data.resize!r}; here whole pictures are brought to its "
            "size, whatever their aspect: segment.tiles=True cuts them instead"
        )
    shown = progress_bar("segmenting", show=config.log.progress)
    faults: list[str] = []
    for name, told, picture in shown(_told(model, tree, left, faults), len(left)):
        _draw(out, files[name], told, picture, space.classes)
        rows[name] = {"image": name, **told.row(), "uncertain": "", "stamp": stamps[name]}
        _append(out / FILE, rows[name])
    for fault in faults:
        say(fault)
    for row in rows.values():
        row["uncertain"] = "yes" if float(row["confidence"]) < config.segment.least_confidence else "no"
    _write(out / FILE, rows, names)
    return [rows[name] for name in names if name in rows]


def _stamp(tree: Tree, name: str) -> str:
    """By which a picture that has changed is known."""
    stamp = tree.stamp(name)
    return f"{stamp.size}-{stamp.time}"


def _told(model: Model, tree: Tree, names: Sequence[str], faults: list[str]) -> Iterator[tuple[str, Told, np.ndarray]]:
    """(name, what the model says of it, the picture as its condition sees it) of each picture, in their order."""
    config = model.config
    condition = next(one for one in from_config.conditions(config) if isinstance(one, ImageCondition))
    sides, of = tuple(config.data.shape[:2]), condition.of
    if condition.picture.dtype == "float32":
        raise UserError("--mode=segment reads pictures such as PNG and JPEG; this model was trained on DICOM or NIfTI")
    read = Reader(condition.picture.channels, 16 if condition.picture.dtype == "uint16" else 8)
    opaque = frozenset({"image"} if condition.picture.channels == 4 else ())
    resize = Resize("squash", sides[0], sides[1], alpha=opaque)
    skips = one_of("segment.on_bad_file", config.segment.on_bad_file, ("error", "skip")) == "skip"
    together = max(1, config.sample.batch_size // config.segment.members)  # windows of one call: of one shape, always
    waiting: list[tuple[str, Windows, np.ndarray]] = []
    parts: list[np.ndarray] = []
    numbers: list[int] = []
    maps: list[tuple[np.ndarray, np.ndarray]] = []

    def run(count: int) -> None:
        images, of_them = parts[:count], numbers[:count]
        short = together - len(images)
        found = model.segment(np.stack(images + images[-1:] * short), numbers=of_them + of_them[-1:] * short)
        maps.extend(zip(found.probabilities[: len(images)], found.variance[: len(images), ..., None], strict=True))
        del parts[:count], numbers[:count]

    def done() -> Iterator[tuple[str, Told, np.ndarray]]:
        while waiting and len(maps) >= len(waiting[0][1].corners):
            name, windows, picture = waiting.pop(0)
            count = len(windows.corners)
            p, variance = (windows.together(one) for one in zip(*maps[:count], strict=True))
            del maps[:count]
            yield name, Told(p, variance[..., 0]), picture

    for name in names:
        try:
            with tree.open(name) as stream:
                picture = read(stream)
        except Exception as error:
            fault = f"{called(tree, name)} cannot be read: {error}"
            if not skips:
                raise UserError(f"{fault}; --config.segment.on_bad_file=skip leaves it out") from error
            faults.append(f"left out: {fault}")
            continue
        size = (picture.shape[0], picture.shape[1])
        overlap = config.segment.overlap
        windows = Windows.tiles(size, sides, overlap) if config.segment.tiles else Windows.whole(size)
        waiting.append((name, windows, picture))
        for index, part in enumerate(windows.of(picture, resize)):
            parts.append(condition.of_record({}, {of: part}))
            numbers.append(_number(name, index))
        while len(parts) >= together:
            run(together)
        if sum(given.nbytes for *_, given in waiting) > MOST_WAITING and parts:
            run(len(parts))
        yield from done()
    while parts:
        run(min(together, len(parts)))
    yield from done()


def _number(name: str, window: int) -> int:
    """By which a picture's members are drawn: of its name alone, so that other files beside it change nothing."""
    return zlib.crc32(f"{name}#{window}".encode(*UNDECODED)) % MEMBER_STRIDE


def _files(names: Sequence[str]) -> dict[str, str]:
    """The name of each picture's mask: its own, as .png; with its ending where two would be the same."""
    stems = [str(PurePosixPath(name).with_suffix("")) for name in names]
    counts = Counter(stems)
    return {name: f"{name if counts[stem] > 1 else stem}.png" for name, stem in zip(names, stems, strict=True)}


def _draw(out: Path, file: str, told: Told, picture: np.ndarray, classes: Sequence[int]) -> None:
    """The mask last: where it is there, all are."""
    numbers = told.numbers
    pictures.save_png(out / OVERLAYS / file, overlay(picture, numbers))
    levels = np.rint(255 * told.probabilities).astype(np.uint8)
    for number in range(1, levels.shape[-1]):
        name = file if levels.shape[-1] == 2 else f"{file.removesuffix('.png')}.class_{classes[number]}.png"
        pictures.save_png(out / PROBABILITIES / name, levels[..., number, None])
    pictures.save_png(out / MASKS / file, np.asarray(classes, np.uint8)[numbers][..., None])


def overlay(picture: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The picture, uint8, with the border of each class in a colour."""
    deep = picture if picture.dtype == np.uint8 else (picture // 257).astype(np.uint8)
    drawn = np.repeat(deep, 3, axis=-1) if deep.shape[-1] == 1 else deep[..., :3].copy()
    width = max(1, min(numbers.shape) // 200)
    for number in np.unique(numbers[numbers > 0]):
        region = np.pad(numbers == number, 1)
        inner = ndimage.binary_erosion(region, NEIGHBOURS, iterations=width)
        drawn[(region & ~inner)[1:-1, 1:-1]] = COLOURS[(int(number) - 1) % len(COLOURS)]
    return drawn


def _check_settings(model: Model, out: Path) -> None:
    """Raises UserError where `out` holds masks that other settings made."""
    config = model.config
    left_out = {"segment": FREE, "sample": (*request.FREE, "num_images", "labels", "texts"), "guidance": ()}
    settings = {
        "step": model.step,
        "weights": fingerprint(model.weights),
        **{
            f"{group}.{name}": _plain(value)
            for group, free in left_out.items()
            for name, value in config[group].items()
            if name not in free
        },
    }
    file = out / SETTINGS
    held = json.loads(file.read_text("utf-8")) if file.is_file() else settings
    for name, value in settings.items():
        if held.get(name) != value:
            raise UserError(
                f"{out} holds masks made with {name}={held.get(name)!r}, and now it is {value!r}: give another --out"
            )
    replace_file(file, json.dumps(settings, indent=1) + "\n")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a table; a last one that was cut off is left out."""
    if not file.is_file():
        return []
    text = file.read_text(*UNDECODED)
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return [row for row in rows if None not in row and None not in row.values()]


def _line(row: dict[str, Any], *, title: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    if title:
        writer.writeheader()
    writer.writerow(row)
    return text.getvalue()


def _append(file: Path, row: dict[str, Any]) -> None:
    new = not file.is_file() or not file.stat().st_size
    with file.open("a", encoding=UNDECODED[0], errors=UNDECODED[1], newline="") as stream:
        stream.write(_line(row, title=new))


def _write(file: Path, rows: dict[str, dict[str, Any]], names: Sequence[str]) -> None:
    """The table anew, in the order of the names."""
    known = [rows[name] for name in names if name in rows]
    replace_file(file, "".join(_line(row, title=not index) for index, row in enumerate(known)).encode(*UNDECODED))

"""--mode=segment: the masks of a folder of pictures of any size, with how sure they are."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from ml_collections import ConfigDict

from jdiff import from_config, request
from jdiff.common import pictures
from jdiff.common.arrays import fingerprint
from jdiff.common.errors import UserError
from jdiff.common.files import replace_file
from jdiff.common.ownership import check_clear, owned
from jdiff.common.progress import progress_bar, say
from jdiff.config import one_of
from jdiff.data import medical, nifti
from jdiff.data.given import Given, stems
from jdiff.data.resize import Resize
from jdiff.evaluation.overlay import overlay
from jdiff.evaluation.told import ENTROPY, PROBABILITIES, VARIANCE, Told, most
from jdiff.evaluation.windows import Windows
from jdiff.model import MEMBER_STRIDE, Model, restore

FILE, SETTINGS = "segmentation.csv", "settings.json"
MASKS, OVERLAYS = "masks", "overlays"  # beside those of jdiff.evaluation.told
FREE = ("least_confidence", "on_bad_file")  # keys that change no mask
UNDECODED = ("utf-8", "surrogateescape")  # names of files may be of any encoding
MOST_WAITING = 2**29  # bytes of pictures that wait for a full batch


def segment(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Write masks, maps of probability, entropy and variance, overlays and segmentation.csv of the pictures below
    sample.condition_dir to `out`, each at its own size and under its own name, of NIfTI as NIfTI at the same place; the
    exit status. What is there already is kept.
    """
    if config.machine.distributed:
        raise UserError("machine.distributed=True: --mode=segment works by one process; start it alone")
    if not config.sample.condition_dir:
        raise UserError("--mode=segment needs the pictures: set --config.sample.condition_dir=PATH, their folder")
    out = out or workdir / "segmentation"
    model = restore(config, workdir)
    classes = model.masks.classes
    given = from_config.files_of(model.config, config.sample.condition_dir)
    try:
        with owned(out, "--out"):
            rows = _segment(model, given, classes, out)
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


def _segment(model: Model, given: Given, classes: Sequence[int], out: Path) -> list[dict[str, Any]]:
    config, names = model.config, given.names
    _check_settings(model, out)
    called = stems(names)
    stamps = {name: _stamp(given, name) for name in names}
    rows = {
        row["image"]: row
        for row in _read(out / FILE)
        if stamps.get(row["image"]) == row["stamp"]
        and all((out / MASKS / file).is_file() for file in _files(row["image"], called, int(row["slices"])))
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
    for name, files, told in shown(_drawn(out, given, called, _told(model, given, left, faults)), len(left)):
        _save(out, given, name, files, told, classes)
        rows[name] = {"image": name, **told.row(), "uncertain": "", "stamp": stamps[name]}
        _append(out / FILE, rows[name])
    for fault in faults:
        say(fault)
    for row in rows.values():
        row["uncertain"] = "yes" if float(row["confidence"]) < config.segment.least_confidence else "no"
    _write(out / FILE, rows, names)
    return [rows[name] for name in names if name in rows]


def _stamp(given: Given, name: str) -> str:
    """By which a picture that has changed is known."""
    stamp = given.tree.stamp(name)
    return f"{stamp.size}-{stamp.time}"


Page: TypeAlias = tuple[str, int, np.ndarray, np.ndarray, np.ndarray]


def _drawn(
    out: Path, given: Given, called: Mapping[str, str], told: Iterable[Page]
) -> Iterator[tuple[str, list[str], Told]]:
    """(name, names of its masks, what the model says) of each file. Writes overlays: of a volume one, of the slice with
    the largest area.
    """
    so_far, largest = Told(), -1
    for name, pages, probabilities, variance, picture in told:
        so_far.add(probabilities, variance)
        files, numbers, volume = _files(name, called, pages), so_far.masks[-1], medical.kind_of(name) == "nifti"
        area = int(np.count_nonzero(numbers))
        if not volume or area > largest:
            file = f"{called[name]}.png" if volume else files[len(so_far.masks) - 1]
            pictures.save_png(out / OVERLAYS / file, overlay(given.picture.range.on_screen(picture), numbers))
        largest = max(area, largest)
        if len(so_far.masks) == pages:
            yield name, files, so_far
            so_far, largest = Told(), -1


def _told(model: Model, given: Given, names: Sequence[str], faults: list[str]) -> Iterator[Page]:
    """(name, pages of its file, probabilities, variance, the picture) of each page of each file, in their order."""
    config, condition = model.config, from_config.image_condition(model.config)
    sides, of = tuple(config.data.shape[:2]), condition.of
    opaque = frozenset({"image"} if given.picture.alpha else ())
    resize = Resize("squash", sides[0], sides[1], alpha=opaque)
    skips = one_of("segment.on_bad_file", config.segment.on_bad_file, ("error", "skip")) == "skip"
    together = max(1, config.sample.batch_size // config.segment.members)  # windows of one call: of one shape, always
    waiting: list[tuple[str, int, Windows, np.ndarray]] = []
    parts: list[np.ndarray] = []
    numbers: list[int] = []
    maps: list[tuple[np.ndarray, np.ndarray]] = []

    def run(count: int) -> None:
        images, of_them = parts[:count], numbers[:count]
        short = together - len(images)
        found = model.segment(np.stack(images + images[-1:] * short), numbers=of_them + of_them[-1:] * short)
        maps.extend(zip(found.probabilities[: len(images)], found.variance[: len(images), ..., None], strict=True))
        del parts[:count], numbers[:count]

    def done() -> Iterator[Page]:
        while waiting and len(maps) >= len(waiting[0][2].corners):
            name, pages, windows, picture = waiting.pop(0)
            count = len(windows.corners)
            p, variance = (windows.together(one) for one in zip(*maps[:count], strict=True))
            del maps[:count]
            yield name, pages, p, variance[..., 0], picture

    for name in names:
        try:
            pages = given.pages(name)
            first = given.read(name)
        except UserError as error:
            if not skips:
                raise UserError(f"{error}; --config.segment.on_bad_file=skip leaves it out") from error
            faults.append(f"left out: {error}")
            continue
        count = 0
        for page in range(pages):
            picture = given.read(name, page) if page else first
            size = (picture.shape[0], picture.shape[1])
            tiles = config.segment.tiles
            windows = Windows.tiles(size, sides, config.segment.overlap) if tiles else Windows.whole(size)
            waiting.append((name, pages, windows, picture))
            for part in windows.of(picture, resize):
                parts.append(condition.of_record({}, {of: part}))
                numbers.append(_number(name, count))
                count += 1
            while len(parts) >= together:
                run(together)
            if sum(picture.nbytes for *_, picture in waiting) > MOST_WAITING and parts:
                run(len(parts))
            yield from done()
    while parts:
        run(min(together, len(parts)))
    yield from done()


def _number(name: str, window: int) -> int:
    """By which the members of a window of a file are drawn: of its name alone, so that other files change nothing."""
    return zlib.crc32(f"{name}#{window}".encode(*UNDECODED)) % MEMBER_STRIDE


def _files(name: str, called: Mapping[str, str], pages: int) -> list[str]:
    """The masks of a file: NIfTI's as one, others' a PNG a page."""
    if medical.kind_of(name) == "nifti":
        return [f"{called[name]}.nii{'.gz' if name.lower().endswith('.gz') else ''}"]
    return [f"{called[name]}{f'_{page:04d}' if pages > 1 else ''}.png" for page in range(pages)]


def _save(out: Path, given: Given, name: str, files: Sequence[str], told: Told, classes: Sequence[int]) -> None:
    """Write a file's maps and masks; the masks last: where these are there, all are."""
    for (kind, k), pages in told.maps.items():
        folder = out / kind / (f"class_{classes[k]}" if kind == PROBABILITIES and len(classes) > 2 else "")
        _save_pages(folder, given, name, files, pages, most(kind, len(classes)) / 255)
    values = np.asarray(classes, np.uint8)
    _save_pages(out / MASKS, given, name, files, [values[numbers] for numbers in told.masks], 1.0)


def _save_pages(
    folder: Path, given: Given, name: str, files: Sequence[str], pages: Sequence[np.ndarray], slope: float
) -> None:
    """slope: NIfTI's value of a level of 8 bits."""
    if medical.kind_of(name) == "nifti":
        with given.tree.open(name) as stream:
            content = nifti.like(stream, pages, given.axis, slope)
        (folder / files[0]).parent.mkdir(parents=True, exist_ok=True)
        replace_file(folder / files[0], gzip.compress(content, 1, mtime=0) if files[0].endswith(".gz") else content)
        return
    for file, page in zip(files, pages, strict=True):
        pictures.save_png(folder / file, page[..., None])


def _check_settings(model: Model, out: Path) -> None:
    """Raises UserError where `out` holds masks that other settings made."""
    config = model.config
    left_out = {
        "segment": FREE,
        "sample": (*request.FREE, "num_images", "labels", "texts", "condition_view", "images_per_condition"),
        "guidance": (),
    }
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
    written = (MASKS, OVERLAYS, PROBABILITIES, ENTROPY, VARIANCE)
    check_clear(out, written, begun=file.is_file(), reads=config.sample.condition_dir)
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

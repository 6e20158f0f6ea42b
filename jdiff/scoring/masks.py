"""The evaluation of a model of masks: held-out images are segmented, and the masks compared with the true ones."""

import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8
from ml_collections import ConfigDict

from jdiff import from_config
from jdiff.common import pictures
from jdiff.common.errors import UserError, install
from jdiff.common.files import replace_file
from jdiff.common.processes import is_first_process
from jdiff.common.progress import progress_bar
from jdiff.common.ranges import Range
from jdiff.data import pipeline
from jdiff.data.fingerprint import fingerprint
from jdiff.data.sources import Source
from jdiff.evaluation.numbers import HIGHER, LOWER, OVER_IMAGES, Number
from jdiff.evaluation.segmentation import Segmentation
from jdiff.metrics.calibration import Calibration, auc, calibration
from jdiff.metrics.lesions import lesions
from jdiff.metrics.raters import generalized_energy_distance, hungarian_matched_iou
from jdiff.metrics.resampling import bootstrap_interval
from jdiff.metrics.segmentation import Overlap, overlap
from jdiff.metrics.surfaces import average_surface_distance, hausdorff95
from jdiff.scoring.result import Result
from jdiff.scoring.run import versions

TABLE, SHOWN_FILE, RELIABILITY = "masks.csv", "masks.png", "reliability.png"
SHOWN = 4  # images in each row of the picture: the best, those about the median, the worst
CHUNK = 64  # images at a time
PIXELS = 4_000_000  # whose uncertainty is ranked

ABOUT = (
    "masks at the model's size; Dice and IoU of an image are the mean over its classes but the background, 1 where a "
    "class is in neither mask and 0 where it is in one; reported: the mean over images, and pooled over all pixels; of "
    "several raters the truth is the majority's, ties to the lower class"
)


@runtime_checkable
class Segments(Protocol):
    """What of a model is needed."""

    @property
    def config(self) -> ConfigDict: ...
    def segment(self, images: Any, *, members: int | None = None, numbers: Any = None) -> Segmentation: ...


@dataclass
class Tally:
    """rows: a line an image. What is pooled over pixels: calibration, and the uncertainty of some, wrong or not."""

    rows: list[dict[str, Any]]
    overlap: Overlap | None
    calibration: Calibration | None
    uncertainty: list[np.ndarray]
    wrong: list[np.ndarray]


def held_out_of(config: ConfigDict) -> Source:
    """The records whose masks are compared. Raises UserError where none are held out."""
    _, held_out = from_config.sources(config)
    if held_out is None or not len(held_out):
        raise UserError(
            f"no images of data.name={config.data.name!r} are held out, so there are no masks to compare with: give a "
            "test folder or, of 20 images at least, data.holdout=0.1 when training"
        )
    return held_out


def evaluate(
    model: Segments,
    held_out: Source,
    facts: Mapping[str, Any],
    *,
    out: Path | None = None,
    stop: Callable[[int], bool] = lambda done: False,
    progress: bool = False,
) -> Result | None:
    """The numbers of a model's masks of held-out images; None where `stop`, asked after each few, said so. facts: how
    they are drawn. out: where the table and pictures go.
    """
    began, config = time.monotonic(), model.config
    members, classes = int(config.segment.members), tuple(config.data.classes_of_masks)
    source = from_config.prepared(config, held_out, train=False)
    view = replace(from_config.view(config, train=False), all_raters=True)
    names = getattr(held_out, "names", tuple(map(str, range(len(held_out)))))
    tally, pixels = Tally([], None, None, [], []), len(source) * int(np.prod(config.data.shape[:2]))
    shapes = from_config.shape_numbers(config, source)
    chunks = list(_chunks(shapes))
    done, rng = 0, np.random.default_rng(0)
    for rows in progress_bar("segmenting", show=progress)(chunks, len(chunks)):
        batch = pipeline.batch_of(source, view, rows)
        found = model.segment(batch["cond"]["image"], members=members, numbers=rows)
        _add(tally, found, _numbers_of(batch["x0"], classes), [names[row] for row in rows], PIXELS / pixels, rng)
        done += len(rows)
        if done < len(source) and stop(done):
            return None
    numbers, left_out = _numbers(tally, members)
    if out is not None:
        rows = _best_to_worst(tally, np.concatenate(chunks), shapes)
        batch = pipeline.batch_of(source, view, rows)
        shown = picture(config, batch, model.segment(batch["cond"]["image"], members=members, numbers=rows), SHOWN)
        if is_first_process():
            out.mkdir(parents=True, exist_ok=True)
            replace_file(out / TABLE, _table(tally.rows))
            pictures.save_png(out / SHOWN_FILE, shown)
            left_out += _plot(out, tally)
    protocol = {"name": "masks", "about": ABOUT, "features": "", "departs": "", "members": members}
    data = {"name": config.data.name, "dir": config.data.dir, "fingerprint": fingerprint(held_out)}
    known: dict[str, Any] = {
        "protocol": protocol,
        "count": len(source),
        "reference": {"place": f"the held-out masks of {config.data.name}", "count": len(source)},
        "data": data,
        "versions": versions(),
        "picture": SHOWN_FILE,
        **facts,
        "seconds": round(time.monotonic() - began, 1),
    }
    return Result(numbers=tuple(numbers), left_out=tuple(left_out), facts=known)


def _chunks(shapes: np.ndarray) -> Iterator[np.ndarray]:
    """Rows, a few at a time, those of a chunk of one shape."""
    for shape in np.unique(shapes):
        rows = np.flatnonzero(shapes == shape)
        yield from np.split(rows, range(CHUNK, len(rows), CHUNK))


def _add(
    tally: Tally, found: Segmentation, raters: np.ndarray, names: list[str], share: float, rng: np.random.Generator
) -> None:
    """raters: the number of each pixel's class, [n, h, w, raters]. share: of the pixels whose uncertainty is kept."""
    classes = found.probabilities.shape[-1]
    shares = np.stack([(raters == number).mean(axis=-1) for number in range(classes)], axis=-1)
    truth, masks = shares.argmax(axis=-1), found.numbers.astype(int)
    over, wrong = overlap(masks, truth, classes), masks != truth
    borders = hausdorff95(masks, truth, classes), average_surface_distance(masks, truth, classes)
    lesion = lesions(masks, truth, classes)
    uncertain = found.variance if found.members.shape[1] > 1 else found.entropy
    for index, name in enumerate(names):
        row = {
            "image": name,
            "dice": over.dice[index].mean(),
            "iou": over.iou[index].mean(),
            "hd95": _over_classes(borders[0][index]),
            "asd": _over_classes(borders[1][index]),
            "lesion_sensitivity": _over_classes(lesion.sensitivity[index]),
            "lesion_f1": lesion.f1[index].mean(),
            "area": int((masks[index] > 0).sum()),
            "true_area": int((truth[index] > 0).sum()),
            "entropy": found.entropy[index].mean(),
            "variance": found.variance[index].mean(),
        }
        if classes > 2:
            row |= {f"dice_{found.classes[k + 1]}": over.dice[index, k] for k in range(classes - 1)}
        if raters.shape[-1] > 1:
            drawn, theirs = found.members[index].astype(int), np.moveaxis(raters[index], -1, 0)
            row["ged2"] = generalized_energy_distance(drawn, theirs, classes)
            row["hm_iou"] = hungarian_matched_iou(drawn, theirs, classes)
        tally.rows.append(row)
    tally.overlap = over if tally.overlap is None else tally.overlap.merge(over)
    if classes == 2:
        told = calibration(found.foreground.clip(0, 1), shares[..., 1])
    else:
        told = calibration(found.probabilities.max(axis=-1).clip(0, 1), ~wrong)
    tally.calibration = told if tally.calibration is None else tally.calibration.merge(told)
    ranked = rng.random(wrong.shape) < share
    tally.uncertainty.append(uncertain[ranked])
    tally.wrong.append(wrong[ranked])


def _over_classes(values: np.ndarray) -> float:
    """The mean over the classes that have one."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _numbers(tally: Tally, members: int) -> tuple[list[Number], list[str]]:
    count = len(tally.rows)
    numbers, left_out = [], []
    columns = {name: np.array([row[name] for row in tally.rows]) for name in tally.rows[0]}
    strata = _by_area(columns["true_area"])
    columns |= {f"dice_{size}": np.where(inside, columns["dice"], np.nan) for size, (inside, _) in strata.items()}
    for name, title, better, about in (
        ("dice", "Dice", HIGHER, "2 |P & T| / (|P| + |T|), the mean over images"),
        *((f"dice_{size}", f"Dice of {size} masks", HIGHER, about) for size, (_, about) in strata.items()),
        ("iou", "IoU", HIGHER, "|P & T| / |P | T|, the mean over images"),
        ("hd95", "HD95", LOWER, "pixels: the larger of both directions' 95th percentile between borders"),
        ("asd", "ASD", LOWER, "pixels: the mean distance between borders"),
        ("lesion_sensitivity", "Lesion sensitivity", HIGHER, "share of true lesions that are touched"),
        ("lesion_f1", "Lesion F1", HIGHER, "of lesions found, missed and made up"),
        ("ged2", "GED^2", LOWER, f"distance of {members} members and the raters (1 - IoU); compare equal counts alone"),
        ("hm_iou", "HM-IoU", HIGHER, "IoU of members and raters under the best one-to-one match"),
    ):
        if name not in columns:
            continue
        values = columns[name].astype(np.float64)
        known = values[np.isfinite(values)]
        if not len(known):
            left_out.append(f"{title}: no image has one")
            continue
        error, note = None, []
        if len(known) > 1:
            interval = bootstrap_interval(known)
            error = float(known.std(ddof=1) / np.sqrt(len(known)))
            note.append(f"95 % interval {interval.low:.4g} to {interval.high:.4g}")
        if len(known) < count:
            why = "" if name.removeprefix("dice_") in strata else ": in the others a mask is empty"
            note.append(f"of {len(known):,} of {count:,} images{why}")
        numbers.append(
            Number(
                name=name,
                title=title,
                value=float(known.mean()),
                error=error,
                spread=OVER_IMAGES,
                better=better,
                about=about,
                note="; ".join(note),
                count=count,
                of=count,
            )
        )
    assert tally.overlap is not None
    pooled = float(tally.overlap.pooled().dice.mean())
    assert tally.calibration is not None
    one_number = (
        ("pooled_dice", "Dice over pixels", pooled, HIGHER, "of all pixels as those of one image: large objects weigh"),
        ("ece", "ECE", tally.calibration.error, LOWER, "by how much probabilities of pixels miss what comes true"),
    )
    numbers += [
        Number(name=name, title=title, value=value, better=better, about=about, count=count, of=count)
        for name, title, value, better, about in one_number
    ]
    found = auc(np.concatenate(tally.uncertainty), np.concatenate(tally.wrong))
    if np.isnan(found):
        left_out.append("AUC of the uncertainty: every pixel is right, or every one wrong")
    else:
        by = "variance over members" if members > 1 else "entropy"
        about = f"the chance that a wrong pixel has more {by} than a right one"
        numbers.append(
            Number(
                name="uncertainty_auc",
                title="AUC of uncertainty",
                value=found,
                better=HIGHER,
                about=about,
                count=count,
                of=count,
            )
        )
    return numbers, left_out


def _by_area(areas: Int[np.ndarray, " n"]) -> dict[str, tuple[Bool[np.ndarray, " n"], str]]:
    """Size -> (whether each image is of it, what it is): the images with a true mask in thirds of its area; {} of fewer
    than three.
    """
    order = np.argsort(areas, kind="stable")
    order = order[areas[order] > 0]
    if len(order) < 3:
        return {}
    return {
        size: (
            np.isin(np.arange(len(areas)), third),
            f"the third of the images with {size} true masks, of {areas[third[0]]:,} to {areas[third[-1]]:,} pixels",
        )
        for size, third in zip(("small", "medium", "large"), np.array_split(order, 3), strict=True)
    }


def _table(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def picture(config: ConfigDict, batch: Any, found: Segmentation, columns: int) -> UInt8[np.ndarray, "h w 3"]:
    """Images of a batch in rows of so many, each beside the first rater's mask, what is told (of two classes the
    probability), and four times the variance, whose most is 1/4.
    """
    condition, last = config.condition.image, len(found.classes) - 1
    seen = Range(condition.dtype, *condition.range).on_screen(batch["cond"]["image"])
    truth = _numbers_of(batch["x0"], found.classes)[..., 0] / last
    told = found.foreground if last == 1 else found.numbers / last
    grey = [_shown(truth), _shown(told), _shown(np.minimum(4 * found.variance, 1))]
    parts = np.stack([pictures.coloured(seen), *grey], axis=1)
    return pictures.grid(parts.reshape(-1, *parts.shape[2:]), 4 * columns)


def _shown(values: np.ndarray) -> UInt8[np.ndarray, "n h w 3"]:
    return np.repeat(np.rint(255 * values.clip(0, 1))[..., None], 3, axis=-1).astype(np.uint8)


def _numbers_of(masks: UInt8[np.ndarray, "..."], classes: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """The number of each pixel's class, the nearest value's."""
    return np.abs(np.arange(256)[:, None] - np.array(classes)).argmin(axis=1).astype(np.uint8)[masks]


def _best_to_worst(tally: Tally, numbers: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """The records of the best images, of those about the median, and of the worst, as many of each, among those of the
    shape that most have. numbers: the records of the tally's rows. shapes: of each record.
    """
    order = numbers[np.argsort([-row["dice"] for row in tally.rows], kind="stable")]
    order = order[shapes[order] == np.bincount(shapes).argmax()]
    first, count = np.arange(SHOWN), len(order)
    return order[np.concatenate([first, (count - SHOWN) // 2 + first, count - SHOWN + first]).clip(0, count - 1)]


def _plot(out: Path, tally: Tally) -> list[str]:
    """A reliability diagram; why there is none."""
    if find_spec("matplotlib") is None:
        return [f"{RELIABILITY}: {install('plot')}"]
    from jdiff.scoring.plots import reliability

    assert tally.calibration is not None
    reliability(out / RELIABILITY, tally.calibration)
    return []

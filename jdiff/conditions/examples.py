"""A run's own examples: the conditions of some held-out images, so that sampling needs no data."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Num

from jdiff.common.errors import UserError
from jdiff.common.files import replace_file
from jdiff.conditions import Condition
from jdiff.conditions.image import Image

EXAMPLES = "examples.npz"  # in a run's folder; of other shapes than the usual one examples_HxW.npz
TRUTH = "truth"  # the images that conditions are of, in a file beside, which an export leaves out
FORMAT = 2  # 1: condition images of float data were kept in [-1, 1]


def save_examples(
    workdir: Path,
    cond: dict[str, Any],
    captions: Sequence[str],
    sides: tuple[int, int] | None = None,
    truth: Num[np.ndarray, "n h w c"] | None = None,
) -> None:
    """sides: of images of another shape than the usual. truth: the images themselves, where they are kept. Raises
    OSError where the folder cannot be written.
    """
    arrays: dict[str, Any] = {"captions": np.array(captions)} if captions else {}
    for name, values in cond.items():
        parts = values if isinstance(values, dict) else {"": values}
        arrays |= {f"{name}/{part}".rstrip("/"): array for part, array in parts.items()}
    whole = io.BytesIO()
    np.savez(whole, **{"format": np.int64(FORMAT), **arrays})
    file = workdir / (EXAMPLES if sides is None else _of_shape(sides))
    replace_file(file, whole.getvalue())
    if truth is not None:
        whole = io.BytesIO()
        np.save(whole, truth)
        replace_file(_truth_of(file), whole.getvalue())


def _truth_of(file: Path) -> Path:
    return file.with_name(file.name.replace("examples", TRUTH)).with_suffix(".npy")


def _of_shape(sides: tuple[int, int]) -> str:
    return EXAMPLES.replace(".", f"_{sides[0]}x{sides[1]}.")


def load_examples(
    workdir: Path | None, conditions: Sequence[Condition], sides: tuple[int, int] | None = None
) -> dict[str, Any]:
    """{a condition's name: its values, ...} and, where there are texts, "captions", and TRUTH. sides: of the images.
    Raises UserError without a file.
    """
    folder = workdir or Path()
    own = folder / _of_shape(sides) if sides else folder / EXAMPLES
    file = own if own.is_file() else folder / EXAMPLES
    try:
        with np.load(file) as arrays:
            saved = _nested(arrays)
        saved |= {TRUTH: np.load(_truth_of(file))} if _truth_of(file).is_file() else {}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        asked = ", ".join(condition.name for condition in conditions)
        what = (
            f"{file} is damaged: copy it again" if file.is_file() else f"this run has no examples, cannot read {file}"
        )
        raise UserError(f"say what to draw ({asked}): {what}") from error
    images = [condition for condition in conditions if isinstance(condition, Image)]
    for image in images:
        if saved["image"].shape[1:3] != image.sides:
            raise UserError(f"this run has no examples of {image.sides[0]}x{image.sides[1]} images: give cond_images")
    if saved.pop("format", 1) < 2:
        for image in images:
            if image.seen.dtype == "float32":
                saved["image"] = image.seen.range.from_model(saved["image"])
    return saved


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """ "text/mask": array -> "text": {"mask": array}."""
    nested: dict[str, Any] = {}
    for name, array in arrays.items():
        condition, _, part = name.partition("/")
        if part:
            nested.setdefault(condition, {})[part] = array
        else:
            nested[condition] = array
    return nested

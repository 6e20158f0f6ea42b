"""What metrics of masks ask of them, and the mask of a probability.

Masks are whole numbers from 0 to classes - 1, or booleans for two classes. Class 0 is the background, which no metric
scores: results have k = classes - 1 columns, class 1 first.
"""

import numpy as np
from jaxtyping import Bool, Shaped
from numpy.typing import ArrayLike

from jdiff.common.errors import UserError

Masks = Shaped[np.ndarray, "..."]  # [n, h, w]; any other shape is the user's mistake, told in a line
Probabilities = Shaped[np.ndarray, "..."]


def binarised(probabilities: Probabilities, threshold: float = 0.5) -> Bool[np.ndarray, "..."]:
    """Where a probability is above the threshold; half of an even number of members is not.

    Raises UserError for values outside [0, 1] and NaN.
    """
    return checked_probabilities(probabilities, "predicted") > threshold


def checked_pair(predicted: ArrayLike, truth: ArrayLike, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """`checked_masks` of both, which must have the same shape."""
    x, y = checked_masks(predicted, "predicted", classes), checked_masks(truth, "true", classes)
    same_shape(x, y)
    return x, y


def checked_masks(masks: ArrayLike, name: str, classes: int) -> np.ndarray:
    """`masks` as an array [n, h, w]. Raises UserError for other shapes and for values not among 0 ... classes - 1."""
    if classes < 2:
        raise ValueError(f"classes={classes}: the background is one, so there are at least 2")
    x = np.asarray(masks)
    checked_shape(x, f"{name} masks")
    whole = checked_whole(x, f"{name} masks")
    outside = (whole < 0) | (whole >= classes)
    if outside.any():
        raise UserError(
            f"{name} masks hold the value {whole[outside][0]:g}, and the {classes} classes are 0 to {classes - 1}: say "
            f"how many classes there are, or number them so (masks of 0 and 255: mask > 127)"
        )
    return x


def checked_probabilities(probabilities: ArrayLike, name: str) -> np.ndarray:
    """`probabilities` as floats. Raises UserError for values outside [0, 1], NaN and arrays without any."""
    x = np.asarray(probabilities)
    if not np.issubdtype(x.dtype, np.floating):
        x = x.astype(np.float64)
    if x.size == 0:
        raise UserError(f"there are no {name} probabilities: their array has the shape {list(x.shape)}")
    outside = ~((x >= 0) & (x <= 1))
    if outside.any():
        raise UserError(
            f"{name} probabilities lie in [0, 1]; {int(outside.sum())} of {x.size} do not, such as {x[outside][0]:g}: "
            f"bring outputs in [-1, 1] there by (x + 1) / 2 and logits by a sigmoid"
        )
    return x


def checked_whole(values: ArrayLike, name: str) -> np.ndarray:
    """`values` as an array of numbers. Raises UserError unless they are whole, of whatever dtype."""
    x = np.asarray(values)
    if x.dtype == bool or np.issubdtype(x.dtype, np.integer):
        return x.astype(np.uint8) if x.dtype == bool else x
    broken = ~(np.isfinite(x) & (x == np.floor(x)))
    if broken.any():
        raise UserError(
            f"{name} hold {x[broken][0]:g}, which is no whole number: make masks of probabilities with binarised(), or "
            f"with argmax where there are several classes"
        )
    return x


def checked_shape(x: np.ndarray, name: str) -> None:
    """Raises UserError unless x is [n, h, w] with at least a pixel."""
    if x.ndim != 3 or x.size == 0:
        raise UserError(f"{name} are [n, h, w] with at least one pixel; these are {list(x.shape)}")


def same_shape(predicted: np.ndarray, truth: np.ndarray) -> None:
    """Raises UserError unless both have one shape."""
    if predicted.shape != truth.shape:
        raise UserError(
            f"the predictions are {list(predicted.shape)} and the truth {list(truth.shape)}: bring the predictions "
            f"to the size of the truth"
        )

"""How far the borders of two masks lie apart, in pixels or in the unit of `spacing`.

A border is what binary erosion takes off with the four neighbours, as MONAI's get_mask_edges has it: pixels of the mask
with a side at another class, or at the image's edge. Distances run from each border pixel of one mask to the nearest
border pixel of the other. A class that is in neither mask has no distance (nan), one that is in only one of them is
infinitely far: means and intervals say how many images they leave out. Masks as in masks.py, k = classes - 1.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects

from jdiff.common.errors import UserError
from jdiff.metrics.masks import Masks, checked_pair

Spacing = tuple[float, float]  # of rows and of columns: millimetres a pixel, say

Statistic = Callable[[np.ndarray, np.ndarray], float]


def hausdorff95(
    predicted: Masks, truth: Masks, classes: int = 2, spacing: Spacing = (1.0, 1.0)
) -> Float[np.ndarray, "n k"]:
    """HD95 = max of the 95th percentiles of both directions, linearly interpolated, [n, h, w] -> [n, k].

    MONAI's compute_hausdorff_distance(percentile=95); others take the percentile of both directions together, another
    number. Neither mask: nan; one alone: inf. Raises UserError as `overlap`, and for a spacing that is not positive.
    """
    return _of_borders(lambda p, t: max(np.percentile(p, 95), np.percentile(t, 95)), predicted, truth, classes, spacing)


def average_surface_distance(
    predicted: Masks, truth: Masks, classes: int = 2, spacing: Spacing = (1.0, 1.0)
) -> Float[np.ndarray, "n k"]:
    """The symmetric ASD: the mean over the border pixels of both masks together, [n, h, w] -> [n, k].

    MONAI's compute_average_surface_distance(symmetric=True). Neither mask: nan; one alone: inf.
    Errors as `hausdorff95`.
    """
    return _of_borders(lambda p, t: np.concatenate([p, t]).mean(), predicted, truth, classes, spacing)


def _of_borders(
    statistic: Statistic, predicted: np.ndarray, truth: np.ndarray, classes: int, spacing: Spacing
) -> np.ndarray:
    x, y = checked_pair(predicted, truth, classes)
    if len(spacing) != 2 or not all(0 < s < np.inf for s in spacing):
        raise UserError(f"spacing={spacing}: two positive lengths are needed, of a pixel's height and width")
    of_class = [
        [_between(statistic, p == c, t == c, spacing) for c in range(1, classes)] for p, t in zip(x, y, strict=True)
    ]
    return np.array(of_class, np.float64)


def _between(statistic: Statistic, predicted: np.ndarray, truth: np.ndarray, spacing: Spacing) -> float:
    if not (predicted.any() and truth.any()):
        return np.inf if predicted.any() or truth.any() else np.nan
    (box,) = find_objects((predicted | truth).astype(np.uint8))  # beyond it there is no border
    p, t = (mask[box] ^ binary_erosion(mask[box]) for mask in (predicted, truth))
    to_p, to_t = (distance_transform_edt(~border, sampling=spacing) for border in (p, t))
    return float(statistic(to_t[p], to_p[t]))

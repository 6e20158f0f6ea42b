"""What every metric asks of feature arrays."""

import numpy as np
from numpy.typing import ArrayLike

from jdiff.common.errors import UserError


def checked(features: ArrayLike, name: str, at_least: int = 1) -> np.ndarray:
    """`features` as a float array [n, d]; float32 and float64 stay as they are.

    `name` stands in messages. Raises UserError unless it has two axes, d >= 1, n >= at_least and finite values.
    """
    x = np.asarray(features)
    if x.dtype not in (np.float32, np.float64):
        x = x.astype(np.float64)
    if x.ndim != 2 or x.shape[1] == 0:
        raise UserError(f"features are one row an image, [n, d]; those of the {name} images are {list(x.shape)}")
    if len(x) < at_least:
        raise UserError(f"{len(x)} {name} images are too few: this metric needs at least {at_least}")
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise UserError(
            f"features of {int(bad.sum())} of {len(x)} {name} images are NaN or infinite, the first of image "
            f"{int(bad.argmax())}; look at these images and at the feature network's weights"
        )
    return x


def checked_reference(features: ArrayLike, name: str = "reference", at_least: int = 2) -> np.ndarray:
    """As `checked`; raises UserError too where all rows are equal, since nothing can be measured against one point.

    Generated images that are all equal are no error: a collapsed generator has a score, and it should be bad.
    """
    x = checked(features, name, at_least)
    if np.all(x == x[0]):
        raise UserError(f"all {len(x)} {name} images have the same features: the images are constant, or are copies")
    return x


def same_dimensions(**features: np.ndarray) -> None:
    """Raises UserError unless all arrays have as many columns."""
    sizes = {name: x.shape[1] for name, x in features.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name.replace('_', '-')} {size}" for name, size in sizes.items())
        raise UserError(f"features have different dimensions ({told}); compute all with the same network and layer")

"""Four raters of one mask, by a seeded rule: one draws wide, one tightly, one beside it, and one may leave it out."""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

RATERS = 4
LEAVES_OUT = 0.5  # the share of images in which the fourth sees nothing; in the others he draws the mask itself


def four_raters(mask: Bool[np.ndarray, "h w"], seed: int) -> Bool[np.ndarray, "4 h w"]:
    """The masks of raters who disagree by some 4 to 8 % of the image's side. seed: the image's number."""
    rng = np.random.default_rng(seed)
    by = max(1, round(min(mask.shape) * rng.uniform(0.04, 0.08)))
    disc = np.hypot(*np.mgrid[-by : by + 1, -by : by + 1]) <= by
    angle = rng.uniform(0, 2 * np.pi)
    moved = ndimage.shift(mask.astype(float), (by * np.sin(angle), by * np.cos(angle)), order=0) > 0.5
    fourth = mask & (rng.random() >= LEAVES_OUT)
    return np.stack([ndimage.binary_dilation(mask, disc), ndimage.binary_erosion(mask, disc), moved, fourth])

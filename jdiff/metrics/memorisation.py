"""Do generated images copy the training images? Held-out images say how near an unseen image comes by chance.

D(x) is the distance of x's features to the nearest training image's.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from jdiff.metrics.checks import checked, checked_reference, same_dimensions
from jdiff.metrics.neighbours import nearest


class Memorisation(NamedTuple):
    """How near generated images are to training images, against held-out images."""

    share: float  # of generated images with D up to the threshold
    by_chance: float  # the share to expect of images that copy nothing: of held-out ones, the quantile unless D ties
    threshold: float  # the quantile of D(held-out), in the features' units
    z: float  # the data-copying test's; below -3: copies
    nearest: Float[np.ndarray, " n"]  # D of each generated image
    indices: Int[np.ndarray, " n"]  # its nearest training image's row


def memorisation(
    generated: Float[np.ndarray, "n _d"],
    training: Float[np.ndarray, "m _d"],
    held_out: Float[np.ndarray, "l _d"],
    quantile: float = 0.05,
) -> Memorisation:
    """Two measures of copying and the nearest training images.

    share = mean_g [D(g) <= Q], with Q the `quantile` of D(h) over held-out images h: sees a few copies among many.
    Where more held-out images than that are in the training set too, Q is 0, and by_chance is their share.

    z is the data-copying test of Meehan et al., arXiv 2004.05675, eq. 1, over the whole space as one cell: with
    U = #{(g, h): D(g) > D(h)}, ties being halves,

        z = (U - n l / 2) / sqrt(n l (n + l + 1) / 12), less the ties' variance:

    about N(0, 1) for images from the data's distribution, negative for images too near to the training images, positive
    for images too far. Bad images hide copies from z, not from the share. Raises UserError unless the training and
    held-out images vary, and each set has at least 2 images.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile={quantile}: it is in (0, 1)")
    sets = {
        "generated": checked(generated, "generated", 2),
        "training": checked_reference(training, "training"),
        "held_out": checked_reference(held_out, "held-out"),
    }
    same_dimensions(**sets)
    distances, indices = nearest(sets["generated"], sets["training"])
    by_chance = nearest(sets["held_out"], sets["training"]).distances
    threshold = float(np.quantile(by_chance, quantile))
    share, expected = (float(np.mean(d <= threshold)) for d in (distances, by_chance))
    return Memorisation(share, expected, threshold, _mann_whitney_z(distances, by_chance), distances, indices)


def _mann_whitney_z(a: np.ndarray, b: np.ndarray) -> float:
    """(U - E U) / std U for U = #{a > b} + #{a = b} / 2; 0 where all values are equal."""
    n, m = len(a), len(b)
    ranks = rankdata(np.concatenate([a, b]))
    u = ranks[:n].sum() - n * (n + 1) / 2
    ties = np.unique(ranks, return_counts=True)[1].astype(float)
    variance = n * m / 12 * (n + m + 1 - np.sum(ties**3 - ties) / ((n + m) * (n + m - 1)))
    return float((u - n * m / 2) / np.sqrt(variance)) if variance > 0 else 0.0

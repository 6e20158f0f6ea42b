"""How well samples stand for several raters' masks of one image: GED^2 and HM-IoU.

Samples [m, h, w] and raters [r, h, w], masks as in masks.py. IoU is the mean over the classes but the background; a
class that is in neither mask has 1, so two raters who both see nothing agree.
"""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from jdiff.common.errors import UserError
from jdiff.metrics.masks import Masks, checked_masks


def generalized_energy_distance(samples: Masks, raters: Masks, classes: int = 2) -> float:
    """GED^2 = 2 E d(s, y) - E d(s, s') - E d(y, y') with d = 1 - IoU, at least 0 (Kohl et al., arXiv 1806.05034).

    The means run over all pairs, a mask with itself too, as in the literature's code: the biased V-statistic. So m
    samples score E d(s, s') / m more than endless ones of the same model: compare equal m alone. Raises UserError for
    other shapes, values that are not whole numbers and values that are no class.

    >>> raters = np.array([[[1, 0]], [[1, 1]]])  # two masks of two pixels
    >>> generalized_energy_distance(raters, raters), generalized_energy_distance(raters[:1], raters)
    (0.0, 0.25)
    """
    s, y = _pair(samples, raters, classes)
    return float(2 * _distances(s, y).mean() - _distances(s, s).mean() - _distances(y, y).mean())


def hungarian_matched_iou(samples: Masks, raters: Masks, classes: int = 2) -> float:
    """The mean IoU of the best one-to-one match, both sets repeated up to the least common multiple of m and r.

    Kohl et al., arXiv 1905.13077. Code that matches only min(m, r) pairs lets a model choose its best samples and
    scores higher. Errors as `generalized_energy_distance`.
    """
    s, y = _pair(samples, raters, classes)
    distances = _distances(s, y)
    common = np.lcm(len(s), len(y))
    distances = distances.repeat(common // len(s), axis=0).repeat(common // len(y), axis=1)
    return float(1 - distances[linear_sum_assignment(distances)].mean())


def _pair(samples: np.ndarray, raters: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Each as k columns of 0 and 1 a pixel: [m, k, h w], [r, k, h w]."""
    s, y = checked_masks(samples, "sampled", classes), checked_masks(raters, "raters'", classes)
    if s.shape[1:] != y.shape[1:]:
        raise UserError(
            f"samples have {s.shape[1]}x{s.shape[2]} pixels and raters' masks {y.shape[1]}x{y.shape[2]}: bring the "
            f"samples to the size of the raters' masks"
        )
    foreground = np.arange(1, classes)[:, None]
    return tuple((x.reshape(len(x), 1, -1) == foreground).astype(np.float64) for x in (s, y))


def _distances(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "m r"]:
    both = np.einsum("mkp,rkp->mrk", a, b, optimize=True)
    either = a.sum(-1)[:, None] + b.sum(-1)[None] - both
    return 1 - np.divide(both, either, out=np.ones_like(both), where=either > 0).mean(-1)

"""The Inception Score: exp E_x KL(p(y | x) || p(y)) (Salimans et al., arXiv 1606.03498), by splits of the images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp

from jdiff.common.errors import UserError
from jdiff.metrics.checks import checked


class InceptionScore(NamedTuple):
    """Mean and standard deviation (/ splits) over splits; from 1 to the number of classes, higher is better."""

    mean: float
    std: float
    splits: int


def inception_score(
    logits: Float[np.ndarray, "n classes"], splits: int = 10, shuffle_seed: int | None = 2020
) -> InceptionScore:
    """The score of a classifier's logits, before softmax; in float64.

    Split i is rows floor(i n / splits) to floor((i + 1) n / splits). `shuffle_seed` permutes the rows first, as
    torch-fidelity does with 2020; None keeps the order, as the original code does. Images that come class by class
    need the shuffle, since p(y) is a split's own. Raises UserError for fewer rows than 2 splits.

    >>> sure = 100.0 * np.tile(np.eye(4), (5, 1))  # of four classes, as many of each
    >>> round(inception_score(sure, splits=1).mean, 6)
    4.0
    """
    if splits < 1:
        raise ValueError(f"splits={splits}: at least 1 is needed")
    x = checked(logits, "generated", 2 * splits)
    if x.shape[1] < 2:
        raise UserError("logits of a single class have no Inception Score; give logits [n, classes]")
    if shuffle_seed is not None:
        x = x[np.random.RandomState(shuffle_seed).permutation(len(x))]
    log_p = log_softmax(np.float64(x), axis=1)
    scores = []
    for i in range(splits):
        part = log_p[i * len(x) // splits : (i + 1) * len(x) // splits]
        # log p(y) from logarithms: a class that no image has underflows to p = 0, and 0 log 0 is 0, not NaN.
        log_marginal = logsumexp(part, axis=0) - np.log(len(part))
        scores.append(np.exp(np.mean(np.sum(np.exp(part) * (part - log_marginal), axis=1))))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), splits)

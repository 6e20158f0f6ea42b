"""The generalisation gap of the Feature Likelihood Divergence (Jiralerspong et al., arXiv 2302.04440).

An isotropic Gaussian on each of n generated images, with a variance s_j of its own, all of one weight:

    p(x) = (1 / n) sum_j N(x; g_j, s_j I)

The variances maximise the training images' likelihood. A copy of a training image earns a tiny variance, which raises
the training images' likelihood and not the held-out images'. The gap is the difference of the two,

    gap = 100 / d (NLL(training) - NLL(held-out)),

0 for a model that generalises, negative for one that memorises. Features are standardised by the held-out images'
mean and standard deviation. As the published code does, the variances are fitted by 50 epochs of Adam at 0.5 from the
nearest training image's squared distance over d, beside one wide component on the training images' mean that is left
out of p afterwards.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from scipy.special import logsumexp

from jdiff.common.errors import UserError
from jdiff.metrics.checks import checked, checked_reference, same_dimensions
from jdiff.metrics.neighbours import squared_distances

EPOCHS, BATCH = 50, 10_000
OPTIMIZER = optax.adam(0.5)
SHRINK = 0.9**2  # of squared distances to the wide component's centre
RANGE = (-40.0, 20.0)  # of log variances: a copy's would fall without end

Variances = tuple[Array, Array]  # logarithms, of the images' components and of the wide one


class Gap(NamedTuple):
    """100 / d times the difference of negative log-likelihoods, and the two in nats a dimension."""

    gap: float
    training_nll: float
    held_out_nll: float


def generalisation_gap(
    generated: Float[np.ndarray, "n _d"],
    training: Float[np.ndarray, "m _d"],
    held_out: Float[np.ndarray, "l _d"],
    seed: int = 0,
) -> Gap:
    """FLD's generalisation gap; the paper takes 10,000 generated images, and their number matters.

    Needs 4 m n bytes several times. `seed` orders training images above 10,000 into batches. Dimensions that are
    constant over the held-out images are left out. Raises UserError for sets of fewer than 2 images.
    """
    sets = {
        "generated": checked(generated, "generated", 2),
        "training": checked_reference(training, "training"),
        "held_out": checked_reference(held_out, "held-out"),
    }
    same_dimensions(**sets)
    centre, spread = sets["held_out"].mean(axis=0, dtype=np.float64), sets["held_out"].std(axis=0, ddof=1)
    varies = spread > 0
    g, x, y = ((s[:, varies].astype(np.float64) - centre[varies]) / spread[varies] for s in sets.values())
    dimensions = x.shape[1]
    order = np.random.default_rng(seed).permutation(len(x))
    x = x[order]
    squared = squared_distances(x, g)
    wide = SHRINK * np.sum((x - x.mean(axis=0)) ** 2, axis=1).astype(np.float32)
    log_variances = _fit(squared, wide, dimensions)
    training_nll = _nll(squared, log_variances, dimensions)
    held_out_nll = _nll(squared_distances(y, g), log_variances, dimensions)
    if not np.isfinite([training_nll, held_out_nll]).all():
        raise UserError("FLD's likelihood is not finite; look for features of very different scales")
    return Gap(100 * (training_nll - held_out_nll), training_nll, held_out_nll)


def _fit(squared: np.ndarray, wide: np.ndarray, dimensions: int) -> np.ndarray:
    """Log variances [n] that maximise the mean log-likelihood of rows with squared distances [m, n]."""
    start = jnp.asarray(np.log((squared.min(axis=0) + 1e-3) / dimensions))
    params = (start, jnp.zeros(()))
    state = OPTIMIZER.init(params)
    for _ in range(EPOCHS):
        for i in range(0, len(squared), BATCH):
            params, state = _step(params, state, squared[i : i + BATCH], wide[i : i + BATCH], dimensions)
    return np.asarray(params[0], np.float64)


@partial(jax.jit, static_argnames="dimensions")
def _step(
    params: Variances, state: optax.OptState, squared: Array, wide: Array, dimensions: int
) -> tuple[Variances, optax.OptState]:
    def loss(params: Variances) -> Array:
        each = _log_normal(squared, params[0], dimensions) - jnp.log(squared.shape[1])
        beside = _log_normal(wide, params[1], dimensions)
        return -jnp.logaddexp(jax.nn.logsumexp(each, axis=1), beside).mean() / dimensions

    updates, state = OPTIMIZER.update(jax.grad(loss)(params), state)
    log_variances, of_wide = optax.apply_updates(params, updates)
    return (jnp.clip(log_variances, *RANGE), of_wide), state


def _nll(squared: np.ndarray, log_variances: np.ndarray, dimensions: int) -> float:
    """The mean negative log-likelihood in nats a dimension."""
    blocks = (squared[i : i + 1024].astype(np.float64) for i in range(0, len(squared), 1024))
    logs = [logsumexp(_log_normal(block, log_variances, dimensions), axis=1) for block in blocks]
    return float(np.log(squared.shape[1]) - np.concatenate(logs).mean()) / dimensions


def _log_normal(squared, log_variances, dimensions):  # NumPy's arrays or JAX's
    exp = np.exp if isinstance(log_variances, np.ndarray) else jnp.exp
    return -0.5 * squared * exp(-log_variances) - 0.5 * dimensions * (log_variances + np.log(2 * np.pi))

"""Classifier-free guidance with a stand-in denoiser whose two answers are known."""

import jax
import jax.numpy as jnp
import numpy as np

from jdiff.diffusion.denoiser import Denoised
from jdiff.diffusion.guidance import classifier_free, dropping

X = jax.random.normal(jax.random.key(0), (4, 3, 3, 1))
COND = {"label": jnp.arange(4)}


def stand_in(x, sigma, cond):
    drop = cond["drop"]["label"] if "drop" in cond else jnp.zeros(len(x), bool)
    pull = jnp.where(drop, -0.3, 0.1 * cond["label"])
    x0 = jnp.tanh(x) / (1 + jnp.broadcast_to(sigma, x.shape[:1])[:, None, None, None]) + pull[:, None, None, None]
    return Denoised(x0=x0, x0_dir=x0)


def test_scales_zero_and_one_are_exact():
    dropped = {**COND, "drop": {"label": jnp.ones(4, bool)}}
    guided = classifier_free(stand_in, jnp.float32(1))(X, jnp.float32(2), COND)
    np.testing.assert_array_equal(guided.x0, stand_in(X, jnp.float32(2), COND).x0)
    unguided = classifier_free(stand_in, jnp.float32(0))(X, jnp.float32(2), COND)
    np.testing.assert_array_equal(unguided.x0, stand_in(X, jnp.float32(2), dropped).x0)


def test_a_scale_for_each_image():
    scales = jnp.array([0.0, 1.0, 2.0, 7.5])
    guided = classifier_free(stand_in, scales)(X, jnp.float32(2), COND).x0
    for i, scale in enumerate(scales):
        row = classifier_free(stand_in, scale)(X[i : i + 1], jnp.float32(2), {"label": COND["label"][i : i + 1]}).x0
        np.testing.assert_allclose(guided[i : i + 1], row, rtol=1e-6)


def test_guided_is_the_papers_extrapolation():
    """(1 + omega) D_cond - omega D_uncond with omega = w - 1 (2207.12598, eq. 6)."""
    omega = 1.5
    cond = stand_in(X, jnp.float32(2), COND).x0
    uncond = stand_in(X, jnp.float32(2), {**COND, "drop": {"label": jnp.ones(4, bool)}}).x0
    guided = classifier_free(stand_in, jnp.float32(1 + omega))(X, jnp.float32(2), COND).x0
    np.testing.assert_allclose(guided, (1 + omega) * cond - omega * uncond, rtol=1e-5, atol=1e-6)


def test_a_condition_that_was_dropped_stays_dropped():
    before = {**COND, "drop": {"label": jnp.array([True, False, False, False])}}
    after = dropping(before, jnp.array([False, False, True, False]))
    np.testing.assert_array_equal(after["drop"]["label"], [True, False, True, False])

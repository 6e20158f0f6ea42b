"""Bounds on the likelihood of a linear-Gaussian model, whose likelihood is known."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jdiff.common.keys import image_keys
from jdiff.common.ranges import Range
from jdiff.common.weights import Weights
from jdiff.networks.autoencoder import Layout
from jdiff.networks.bottlenecks import Gaussian, Plain
from jdiff.spaces.first_stage import FirstStage
from jdiff.spaces.pixels import Pixels
from jdiff.tasks.elbo import bits_per_dim

VARIANCE = 0.02
LEVELS = 1001  # so many that a level's mass is its width times the density
VALUES, LATENTS = 6, 2


class Linear(nn.Module):
    """z ~ N(0, 1), x = W z + noise; q(z | x) is the posterior, its deviations times `wide`."""

    wide: float = 1.0
    layout: Layout = Layout(channel_mults=(1,))

    def setup(self):
        self.w = self.param("w", nn.initializers.normal(0.3), (LATENTS, VALUES))

    def encode(self, x, *, train=False):
        precision = self.w @ self.w.T / VARIANCE + jnp.eye(LATENTS)
        mean = x @ self.w.T / VARIANCE @ jnp.linalg.inv(precision)
        log_variance = -jnp.log(jnp.diag(precision)) + 2 * math.log(self.wide)
        return jnp.concatenate([mean, jnp.broadcast_to(log_variance, mean.shape)], axis=-1)

    def decode(self, z, *, train=False):
        return z @ self.w


@pytest.fixture
def model():
    """(first stage, weights, images, their -log2 p(x) a value), for q of a width."""

    def of(wide: float):
        stage = FirstStage(Linear(wide), Gaussian(LATENTS), Pixels((1, 1, VALUES), Range("uint16", 0, LEVELS - 1)))
        rng = np.random.default_rng(0)
        w = 0.2 * rng.normal(size=(LATENTS, VALUES))
        covariance = w.T @ w + VARIANCE * np.eye(VALUES)
        x = rng.multivariate_normal(np.zeros(VALUES), covariance, size=64)
        assert np.abs(x).max() < 1
        images = stage.pixels.values.from_model(x.astype(np.float32)).reshape(64, 1, 1, VALUES)
        weights = Weights({"autoencoder": {"w": jnp.asarray(w, jnp.float32)}}, {"mse": jnp.float32(VARIANCE)})
        levels = stage.pixels.values.to_model(images).reshape(64, VALUES)
        density = multivariate_normal(np.zeros(VALUES), covariance).logpdf(levels)
        exact = -(density + VALUES * math.log(2 / (LEVELS - 1))) / VALUES / math.log(2)
        return stage, weights, jnp.asarray(images), exact

    return of


def test_the_bound_holds_and_tightens(model):
    """In the mean over images and draws, for a q that is not the posterior; with 100 samples it is all but exact."""
    stage, weights, images, exact = model(1.5)
    many = jnp.tile(images, (30, 1, 1, 1))
    keys = image_keys(0, jnp.arange(len(many)))
    gaps = []
    for samples in (1, 10, 100):
        bits = jax.jit(partial(bits_per_dim, stage, samples=samples))(weights, many, keys)
        excess = np.asarray(bits).reshape(30, 64).mean(axis=0) - exact
        error = np.asarray(bits).reshape(30, 64).std(axis=0).mean() / np.sqrt(30 * 64)
        gaps.append(excess.mean())
        assert excess.mean() > -3 * error
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert gaps[0] > 0.02
    assert gaps[2] < 0.005

    # The ELBO's gap is KL(q || posterior), which is known.
    w = np.asarray(weights.params["autoencoder"]["w"], np.float64)
    precision = w @ w.T / VARIANCE + np.eye(LATENTS)
    variances = 1.5**2 / np.diag(precision)
    kl = 0.5 * (
        np.sum(np.diag(precision) * variances) - LATENTS - np.sum(np.log(variances)) - np.linalg.slogdet(precision)[1]
    )
    np.testing.assert_allclose(gaps[0], kl / VALUES / math.log(2), rtol=0.1)


def test_an_images_bound_is_its_own(model):
    stage, weights, images, _ = model(1.0)
    keys = image_keys(3, jnp.arange(4))
    bits = jax.jit(partial(bits_per_dim, stage, samples=2))
    together, alone = bits(weights, images[:4], keys), bits(weights, images[2:3], keys[2:3])
    np.testing.assert_allclose(alone[0], together[2], rtol=1e-5)


def test_only_a_gaussian_has_a_bound(model):
    stage, weights, images, _ = model(1.0)
    plain = FirstStage(stage.network, Plain(LATENTS), stage.pixels)
    with pytest.raises(ValueError, match="only a Gaussian's"):
        bits_per_dim(plain, weights, images, image_keys(0, jnp.arange(64)))

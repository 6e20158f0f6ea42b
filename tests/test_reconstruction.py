"""Distances of images that autoencoders learn by, and the discriminator of patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff.common.keys import root_key
from jdiff.metrics import image
from jdiff.networks.discriminator import PatchDiscriminator
from jdiff.networks.features.lpips import LPIPS
from jdiff.tasks.reconstruction import Perceptual, gradient, l1, l2, ssim


def images(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.uniform(root_key(seed), shape, minval=-1, maxval=1)


@pytest.mark.parametrize("distance", [l1, l2, ssim, gradient])
@pytest.mark.parametrize("side", [4, 12])
def test_a_distance_is_0_for_equal_images_and_falls_along_its_gradient(distance, side):
    distance = jax.jit(distance)
    slope = jax.jit(jax.value_and_grad(lambda x_hat, x: distance(x, x_hat).sum()))
    x, x_hat = images(3, side, side + 2, 2), images(3, side, side + 2, 2, seed=1)
    np.testing.assert_allclose(distance(x, x), 0, atol=1e-6)
    before = distance(x, x_hat)
    assert before.shape == (3,)
    assert (before > 0.05).all()
    others = distance(x.at[0].set(0), x_hat.at[2].set(0))  # an image's distance is its own
    np.testing.assert_allclose(others[1], before[1], rtol=1e-5)

    value, to_x_hat = slope(x_hat, x)
    step = 0.01 * value / jnp.sum(to_x_hat**2)
    assert distance(x, x_hat - step * to_x_hat).sum() < value
    flat = jnp.zeros_like(x)  # of no slope and no variance
    assert np.isfinite(slope(flat, flat)[1]).all()


def test_structural_similarity_is_that_of_the_metrics():
    x = images(2, 13, 17, 3)
    x_hat = 0.8 * x + 0.2 * images(2, 13, 17, 3, seed=1)
    np.testing.assert_allclose(1 - ssim(x, x_hat), image.ssim(np.asarray(x), np.asarray(x_hat), 2), atol=1e-5)


def test_on_small_sides_the_window_is_cut():
    """On 1 pixel the means are the values themselves: (2 a b + c_1) / (a^2 + b^2 + c_1)."""
    a, b = 0.3, 0.6
    found = ssim(jnp.full((1, 1, 1, 1), a), jnp.full((1, 1, 1, 1), b))
    np.testing.assert_allclose(found, 1 - (2 * a * b + 4e-4) / (a * a + b * b + 4e-4), rtol=1e-4)
    assert ssim(images(1, 10, 11, 1), images(1, 10, 11, 1, seed=1)).shape == (1,)


def test_a_slope_is_compared_at_every_scale():
    """A ramp of slope s has slope 2s when halved: (s + 2s + 4s)/3 against a flat image. A shift has no effect."""
    ramp = jnp.broadcast_to(0.02 * jnp.arange(16.0)[None, :, None, None], (1, 16, 16, 1))
    np.testing.assert_allclose(gradient(ramp, jnp.zeros_like(ramp)), 0.02 * 7 / 3, rtol=0.05)
    np.testing.assert_allclose(gradient(ramp, ramp + 0.3), 0, atol=1e-6)


def test_the_perceptual_distance_has_gradients_wherever_channels_are_off():
    """A pixel whose features are all 0 has length 0, whose root has no derivative. Grey and small images go too."""
    network = LPIPS("alex")
    params = jax.jit(network.init)(root_key(0), images(1, 32, 32, 3), images(1, 32, 32, 3))["params"]
    off = {name: {**part, "bias": part["bias"] - 99} for name, part in params["tower"].items()}
    x, x_hat = images(2, 8, 8, 1), images(2, 8, 8, 1, seed=1)

    @jax.jit
    @jax.value_and_grad
    def slope(x_hat, params):
        return Perceptual(network, params)(x, x_hat).sum()

    for known in (params, {**params, "tower": off}):
        value, to_x_hat = slope(x_hat, known)
        assert np.isfinite(to_x_hat).all()
        assert (value > 0) == (known is params)


@pytest.mark.parametrize(("side", "layers", "expected"), [(28, 2, 7), (5, 2, 1)])
def test_a_discriminator_gives_a_logit_for_each_patch(side, layers, expected):
    network = PatchDiscriminator(channels=4, layers=layers)
    x = images(2, side, side, 1)
    params = jax.jit(network.init)(root_key(0), x)
    apply = jax.jit(network.apply)
    logits = apply(params, x)
    assert logits.shape == (2, expected, expected, 1)
    np.testing.assert_allclose(apply(params, x.at[0].set(0))[1], logits[1], atol=1e-5)
    assert params["params"][f"conv_{layers}"]["kernel"].shape[-1] == 4 * 2**layers


def test_a_discriminators_widths_stop_at_eight_times_the_first():
    shapes = jax.eval_shape(PatchDiscriminator(channels=4, layers=5).init, root_key(0), images(1, 32, 32, 3))["params"]
    assert [shapes[f"conv_{layer}"]["kernel"].shape[-1] for layer in range(6)] == [4, 8, 16, 32, 32, 32]

"""Networks: sizes, shapes, conditions, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdiff.config
from jdiff.common.errors import UserError
from jdiff.from_config.networks import unet
from jdiff.networks.classifier import Classifier
from jdiff.networks.conditioning import Conditioner, LabelEmbedding
from jdiff.networks.convolution import _im2col, conv2d
from jdiff.networks.layers import Style
from jdiff.networks.unet import UNet
from tests.arrays import perturbed
from tests.conftest import REPOSITORY

SMALL = {"channels": 16, "channel_mults": (1, 2), "blocks_per_level": 1, "attention_levels": (1,)}


def run(network, params, x, times, cond, **options):
    return jax.jit(lambda p, x, t, c, rngs: network.apply(p, x, t, c, rngs=rngs, train=bool(rngs)))(
        params, x, times, cond, options.get("rngs")
    )


@pytest.mark.parametrize(
    ("shape", "resample"),
    [((8, 8, 1), "conv"), ((12, 20, 3), "residual"), ((4, 8, 5), "conv"), ((2, 2, 2), "residual")],
)
def test_any_rectangle_and_any_channels(shape, resample):
    network = UNet(out_channels=shape[-1], resample=resample, **SMALL)
    x = jax.random.normal(jax.random.key(0), (3, *shape))
    out = run(network, perturbed(network, x, {}), x, jnp.zeros(3), {})
    assert out.shape == x.shape
    assert np.isfinite(out).all()
    assert out.std() > 0.01


def test_sides_that_do_not_divide():
    network = UNet(out_channels=1, channels=8, channel_mults=(1, 1, 1))
    with pytest.raises(ValueError, match=r"10x12 .* multiples of 4"):
        network.init(jax.random.key(0), jnp.zeros((1, 10, 12, 1)), jnp.zeros(1), {})


def test_a_dropped_label_is_the_null_whatever_it_was():
    network = UNet(out_channels=1, conditioner=Conditioner({"label": LabelEmbedding(5, 64)}), **SMALL)
    x, times = jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), jnp.ones(4)
    params = perturbed(network, x, {"label": jnp.zeros(4, int)})

    def out(labels, drop):
        return run(network, params, x, times, {"label": jnp.array(labels), "drop": {"label": jnp.array(drop)}})

    kept = out([0, 1, 2, 3], [False] * 4)
    dropped = out([0, 1, 2, 3], [False, True, False, True])
    np.testing.assert_array_equal(kept[::2], dropped[::2])
    assert (np.abs(kept[1::2] - dropped[1::2]).max(axis=(1, 2, 3)) > 1e-3).all()
    np.testing.assert_array_equal(dropped[1::2], out([4, 4, 4, 0], [True] * 4)[1::2])


def test_time_and_label_matter_from_the_start_but_the_output_is_zero():
    network = UNet(out_channels=1, conditioner=Conditioner({"label": LabelEmbedding(5, 64)}), **SMALL)
    x, cond = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), {"label": jnp.array([0, 1])}
    params = jax.jit(network.init)(jax.random.key(0), x, jnp.ones(2), cond)
    np.testing.assert_array_equal(run(network, params, x, jnp.ones(2), cond), 0)
    moved = perturbed(network, x, cond)
    out = run(network, moved, x, jnp.ones(2), cond)
    assert np.abs(out - run(network, moved, x, jnp.array([2.0, 1.0]), cond))[0].max() > 1e-3


def test_bfloat16_computes_what_float32_computes():
    x, times = jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), jnp.linspace(-1, 1, 4)
    exact = UNet(out_channels=1, **SMALL)
    params = perturbed(exact, x, {})
    rough = UNet(out_channels=1, style=Style(dtype=jnp.bfloat16), **SMALL)
    reference, out = run(exact, params, x, times, {}), run(rough, params, x, times, {})
    assert out.dtype == jnp.float32
    assert jnp.linalg.norm(out - reference) < 0.05 * jnp.linalg.norm(reference)
    stored = jax.eval_shape(rough.init, jax.random.key(0), x, times, {})
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {jnp.dtype("float32")}


def test_dropout_only_in_training():
    network = UNet(out_channels=1, style=Style(dropout=0.5), **SMALL)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    params = perturbed(network, x, {})
    still = [run(network, params, x, jnp.ones(2), {}) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    rngs = {"dropout": jax.random.key(5)}
    assert np.abs(run(network, params, x, jnp.ones(2), {}, rngs=rngs) - still[0]).max() > 1e-3


def test_classifier_gives_logits_and_features():
    network = Classifier(num_classes=7, channels=8)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    logits, features = jax.jit(network.apply)(params, jnp.ones((3, 8, 8, 1)))
    assert logits.shape == (3, 7)
    assert features.shape == (3, 16)


@pytest.mark.parametrize(
    ("size", "stride", "channels", "sides"),
    [
        (3, 1, 8, (8, 8)),
        (3, 1, 3, (8, 6)),
        (3, 2, 8, (8, 8)),
        (3, 2, 8, (7, 9)),
        (1, 1, 8, (5, 5)),
        (5, 2, 2, (9, 4)),
    ],
)
def test_convolution_is_laxs_in_value_and_derivatives(size, stride, channels, sides):
    """Whichever form the backend prefers: forward, both gradients, and forward over reverse."""
    x = jax.random.normal(jax.random.key(0), (2, *sides, channels))
    kernel = jax.random.normal(jax.random.key(1), (size, size, channels, 5))

    def reference(x, kernel):
        padding = [(size // 2, size // 2)] * 2
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=dimensions)

    for form in (lambda x, k: conv2d(x, k, stride=stride), lambda x, k: _im2col(x, k, stride, size // 2, size // 2)):
        np.testing.assert_allclose(form(x, kernel), reference(x, kernel), rtol=1e-4, atol=1e-4)

        def curvature(f):
            gradient = jax.grad(lambda x, k: jnp.sum(jnp.sin(f(x, k))), argnums=(0, 1))
            return jax.jit(lambda x, k: jax.jvp(gradient, (x, k), (0.3 * x, 0.1 * k)))(x, kernel)

        for ours, theirs in zip(jax.tree.leaves(curvature(form)), jax.tree.leaves(curvature(reference)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-3)
        assert form(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_more_fourier_features_than_there_are_frequencies_are_refused():
    settings = jdiff.config.load(REPOSITORY / "configs" / "digits.py")
    settings.network.update(noise_embedding="fourier", noise_channels=1026)
    with pytest.raises(UserError, match=r"network\.noise_channels=1026; fourier has at most 1024"):
        unet(settings, (8, 8, 1), ())

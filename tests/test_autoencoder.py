"""Autoencoders and codebooks: sizes, precision, the nearest code, gradients."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff.common.errors import UserError
from jdiff.networks.autoencoder import Autoencoder, Layout
from jdiff.networks.layers import Style
from jdiff.networks.quantizer import nearest

TINY = Layout(channels=8, channel_mults=(1, 2), blocks_per_level=1, style=Style(norm_groups=4))


def test_images_that_do_not_halve_are_refused():
    network = Autoencoder(layout=TINY)
    with pytest.raises(
        UserError, match=re.escape("8x9 do not fit an autoencoder of 2 levels: sides must be multiples of 2")
    ):
        network.init(jax.random.key(0), jnp.zeros((1, 8, 9, 3)))


def test_layers_compute_in_bfloat16_and_answer_in_float32():
    half = Autoencoder(layout=replace(TINY, style=replace(TINY.style, dtype=jnp.bfloat16)))
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = jax.jit(half.init)(jax.random.key(1), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    whole = Autoencoder(layout=TINY)
    for name, given in (("encode", x), ("decode", x[:, ::2, ::2, :1].repeat(4, axis=-1))):
        rounded, exact = (jax.jit(partial(network.apply, method=name))(variables, given) for network in (half, whole))
        assert rounded.dtype == jnp.float32
        assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(("shape", "count", "offset"), [((7,), 40, 0.0), ((3, 4, 5, 2), 9, 0.0), ((50, 3), 64, 1e3)])
def test_nearest_is_the_brute_force_nearest(shape, count, offset):
    """Far from the origin as well, where ||z||^2 - 2 z e + ||e||^2 cannot tell codes apart."""
    rng = np.random.default_rng(0)
    codes = (offset + rng.normal(size=(count, shape[-1]))).astype(np.float32)
    z = (offset + rng.normal(size=shape)).astype(np.float32)
    distances = np.sum((z[..., None, :].astype(np.float64) - codes) ** 2, axis=-1)
    quantized, indices = jax.jit(nearest)(codes, z)
    assert indices.shape == shape[:-1]
    np.testing.assert_array_equal(indices, distances.argmin(axis=-1))
    np.testing.assert_array_equal(quantized, codes[distances.argmin(axis=-1)])


def test_a_code_is_nearest_to_itself_and_the_first_of_equals():
    codes = jnp.array([[0.0, 1.0], [2.0, 3.0], [2.0, 3.0], [-1.0, 5.0]])
    quantized, indices = nearest(codes, codes)
    assert indices.tolist() == [0, 1, 1, 3]
    np.testing.assert_array_equal(quantized, codes)


def test_the_gradient_goes_straight_through():
    """d sum(w q^2) / dz = 2 w q, as though q were z; the codes get none."""
    rng = np.random.default_rng(0)
    codes, z, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((9, 3), (4, 5, 3), (4, 5, 3)))
    quantized, _ = nearest(codes, z)
    to_codes, to_z = jax.grad(lambda codes, z: jnp.sum(w * nearest(codes, z)[0] ** 2), argnums=(0, 1))(codes, z)
    np.testing.assert_allclose(to_z, 2 * w * quantized, rtol=1e-6)
    np.testing.assert_array_equal(to_codes, jnp.zeros_like(codes))

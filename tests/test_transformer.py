"""The diffusion transformer: sizes, shapes, positions, conditions, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff.networks.conditioning import Conditioner, ImageChannels, LabelEmbedding, ScalarEmbedding, TextTokens
from jdiff.networks.embeddings import positions
from jdiff.networks.transformer import DiT, check_patches
from tests.arrays import noise, perturbed

SMALL = {"features": 16, "depth": 1, "heads": 2, "patch_size": 2}


def labelled(classes=5, features=16):
    return Conditioner({"label": LabelEmbedding(classes, features)})


def runner(network, params):
    """(x, c_noise, cond) -> output, compiled once."""
    compiled = jax.jit(network.apply)
    return lambda x, times, cond: np.asarray(compiled(params, x, np.float32(times), cond))


@pytest.mark.parametrize(("shape", "patch"), [((4, 4, 1), 2), ((6, 10, 3), 2), ((4, 12, 2), 4), ((5, 3, 2), 1)])
def test_any_rectangle_of_whole_patches(shape, patch):
    network = DiT(out_channels=2 * shape[-1], **(SMALL | {"patch_size": patch}))
    x = noise(3, *shape)
    out = runner(network, perturbed(network, x, {}))(x, np.ones(3), {})
    assert out.shape == (3, *shape[:2], 2 * shape[-1])
    assert np.isfinite(out).all()
    assert out.std() > 0.01


def test_the_output_is_zero_at_first():
    network = DiT(out_channels=2, conditioner=labelled(), **SMALL)
    x, cond = noise(2, 4, 4, 1), {"label": np.array([0, 1])}
    params = jax.jit(network.init)(jax.random.key(0), x, np.ones(2, np.float32), cond)
    np.testing.assert_array_equal(runner(network, params)(x, np.ones(2), cond), 0)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (8, 6), (2, 4)])
def test_sides_that_the_patch_does_not_divide(height, width):
    with pytest.raises(ValueError, match=rf"{height}x{width} .* 4x4: .* multiples of 4"):
        check_patches(height, width, patch_size=4)
    network = DiT(out_channels=1, **(SMALL | {"patch_size": 4}))
    with pytest.raises(ValueError, match=f"{height}x{width}"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, height, width, 1)), jnp.zeros(1), {})


@pytest.mark.parametrize(("fields", "message"), [({"heads": 3}, "16 .* 3 "), ({"features": 18}, "18 .* 4")])
def test_features_that_do_not_divide(fields, message):
    network = DiT(out_channels=1, **(SMALL | fields))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.zeros(1), {})


def test_positions_are_sinusoids_of_column_then_row():
    table = positions(3, 5, 8)
    assert table.shape == (3, 5, 8)
    for row, column in ((0, 0), (2, 1), (1, 4)):
        fast, slow = np.array([column, row]), np.array([column, row]) / 100
        expected = [[np.sin(f), np.sin(s), np.cos(f), np.cos(s)] for f, s in zip(fast, slow, strict=True)]
        np.testing.assert_allclose(table[row, column], np.ravel(expected), atol=1e-6)
    # Spanning a grid of 4: the places of 4 patches are every second one of 8.
    np.testing.assert_allclose(positions(8, 4, 8, grid_size=4)[::2], positions(4, 4, 8), atol=1e-6)


def test_positions_matter():
    """Without them, the output's patches would move with the input's: here they do not, along either axis."""
    network = DiT(out_channels=1, **SMALL)
    x = noise(1, 8, 8, 1)
    run = runner(network, perturbed(network, x, {}))
    out = run(x, [1], {})
    for axis in (1, 2):
        moved = np.roll(run(np.roll(x, 2, axis), [1], {}), -2, axis)
        assert np.abs(moved - out).max() > 0.05 * np.abs(out).max()


def test_every_patch_sees_every_other_and_the_noise_level():
    network = DiT(out_channels=1, **SMALL)
    x = noise(1, 4, 8, 1)
    run = runner(network, perturbed(network, x, {}))
    out = run(x, [1], {})
    x[0, 0, 0] += 3
    seen = np.abs(run(x, [1], {}) - out)[0, :, :, 0].reshape(2, 2, 4, 2).max(axis=(1, 3))
    assert (seen > 1e-4).all()
    x[0, 0, 0] -= 3
    assert np.abs(run(x, [0], {}) - out).max() > 1e-3


@pytest.mark.parametrize("embedder", ["shared", "per_block"])
def test_a_dropped_label_is_the_null_whatever_it_was(embedder):
    network = DiT(out_channels=1, conditioner=labelled(), embedder=embedder, **(SMALL | {"depth": 2}))
    x = noise(4, 4, 4, 1)
    run = runner(network, perturbed(network, x, {"label": np.zeros(4, int)}))

    def out(labels, drop):
        return run(x, np.ones(4), {"label": np.array(labels), "drop": {"label": np.array(drop)}})

    kept = out([0, 1, 2, 3], [False] * 4)
    dropped = out([0, 1, 2, 3], [False, True, False, True])
    np.testing.assert_array_equal(kept[::2], dropped[::2])
    assert (np.abs(kept[1::2] - dropped[1::2]).max(axis=(1, 2, 3)) > 1e-3).all()
    np.testing.assert_array_equal(dropped[1::2], out([4, 4, 4, 0], [True] * 4)[1::2])


def test_embedders_are_one_or_one_a_block():
    def names(embedder):
        network = DiT(out_channels=1, conditioner=labelled(), embedder=embedder, **(SMALL | {"depth": 2}))
        arguments = noise(1, 4, 4, 1), jnp.zeros(1), {"label": jnp.zeros(1, int)}
        params = jax.eval_shape(network.init, jax.random.key(0), *arguments)["params"]
        return {name for name in params if name.startswith(("noise", "conditioner"))}

    assert names("shared") == {"noise", "conditioner"}
    assert names("per_block") == {"noise_0", "noise_1", "conditioner_0", "conditioner_1"}


def test_every_form_of_condition_changes_the_output_and_can_be_dropped():
    """A vector, channels and tokens in one network, each by itself, and gone where it is dropped."""
    embedders = {"age": ScalarEmbedding(16), "image": ImageChannels(), "text": TextTokens(12)}
    network = DiT(out_channels=1, conditioner=Conditioner(embedders), **SMALL)
    x = noise(2, 4, 4, 1)
    mask = np.array([[True] * 3, [True, True, False]])

    def given(seed):
        text = {"features": noise(2, 3, 12, seed=seed), "mask": mask}
        return {"age": noise(2, 1, seed=seed), "image": noise(2, 4, 4, 3, seed=seed), "text": text}

    def drop(*dropped):
        """Of the first of both images."""
        return {"drop": {name: np.array([name in dropped, False]) for name in embedders}}

    whole, other = given(1), given(2)
    run = runner(network, perturbed(network, x, whole | drop()))

    def out(cond):
        return run(x, np.ones(2), cond)

    reference = out(whole | drop())
    for name in embedders:
        changed = out(whole | {name: other[name]} | drop())
        assert (np.abs(changed - reference).max(axis=(1, 2, 3)) > 1e-3).all(), name
        dropped = out(whole | drop(name))
        assert np.abs(dropped - reference)[0].max() > 1e-3, name
        np.testing.assert_array_equal(dropped[1], reference[1], err_msg=name)
        # Dropped, it is not there: other values in its place change nothing.
        again = out(whole | {name: other[name]} | drop(name))
        np.testing.assert_array_equal(again[0], dropped[0], err_msg=name)
    # What the mask leaves out is not seen.
    whole["text"]["features"][1, 2] = 9
    np.testing.assert_array_equal(out(whole | drop()), reference)


def test_cross_attention_is_there_only_for_tokens_and_begins_at_zero():
    x, cond = noise(1, 4, 4, 1), {"text": {"features": noise(1, 3, 12)}}
    network = DiT(out_channels=1, conditioner=Conditioner({"text": TextTokens(12)}), **SMALL)
    block = jax.jit(network.init)(jax.random.key(0), x, np.zeros(1, np.float32), cond)["params"]["block_0"]
    np.testing.assert_array_equal(block["cross"]["out"]["kernel"], 0)
    plain = DiT(out_channels=1, **SMALL)
    without = jax.eval_shape(plain.init, jax.random.key(0), x, jnp.zeros(1), {})["params"]["block_0"]
    assert block.keys() - without.keys() == {"cross", "cross_norm"}


def test_embedders_per_block_take_vectors_only():
    conditioner = Conditioner({"image": ImageChannels()})
    network = DiT(out_channels=1, conditioner=conditioner, embedder="per_block", **SMALL)
    x = noise(1, 4, 4, 1)
    with pytest.raises(ValueError, match="per_block"):
        jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(1), {"image": x})


def test_bfloat16_computes_what_float32_computes():
    x, times = noise(4, 8, 8, 1), np.linspace(-1, 1, 4)
    exact, rough = (DiT(out_channels=1, dtype=dtype, **SMALL) for dtype in (jnp.float32, jnp.bfloat16))
    params = perturbed(exact, x, {})
    reference, out = (runner(network, params)(x, times, {}) for network in (exact, rough))
    assert out.dtype == np.float32
    assert 0 < np.linalg.norm(out - reference) < 0.05 * np.linalg.norm(reference)
    stored = jax.eval_shape(rough.init, jax.random.key(0), x, np.float32(times), {})
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {jnp.dtype("float32")}


def test_dropout_only_in_training():
    network = DiT(out_channels=1, dropout=0.5, **SMALL)
    x, times = jnp.asarray(noise(2, 4, 4, 1)), jnp.ones(2)
    params = perturbed(network, x, {})
    still = runner(network, params)(x, times, {})  # asks for no key, so nothing is drawn
    training = jax.jit(lambda key: network.apply(params, x, times, {}, train=True, rngs={"dropout": key}))
    first, second = (np.asarray(training(jax.random.key(seed))) for seed in (5, 6))
    assert np.abs(first - still).max() > 1e-3
    assert np.abs(first - second).max() > 1e-3

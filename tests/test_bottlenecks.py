"""What lies between encoder and decoder: the Gaussian's divergence, codebooks against NumPy, levels as a bijection."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff.common.keys import folded, root_key
from jdiff.common.ranges import Range
from jdiff.networks.autoencoder import Autoencoder, Layout
from jdiff.networks.bottlenecks import FSQ, VQ, Bottleneck, Gaussian, Plain
from jdiff.networks.layers import Style
from jdiff.spaces.first_stage import FirstStage
from jdiff.spaces.pixels import Pixels

KEY = root_key(0)
VALUES = 64  # of an image


def features(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(root_key(seed), shape)


@pytest.mark.parametrize(
    "bottleneck", [Plain(3), Gaussian(3), VQ(11, 3), FSQ((4, 3, 5))], ids=lambda b: type(b).__name__
)
def test_gradients_go_straight_through(bottleneck):
    """d sum(w z_q) / d z = w for what is quantised of z, and z_q is a value that the bottleneck has."""
    assert isinstance(bottleneck, Bottleneck)
    state = bottleneck.init(KEY)
    given = features(2, 3, 4, bottleneck.features)
    z = bottleneck.latents(given, None)
    assert z.shape == (2, 3, 4, bottleneck.channels)
    w = features(*z.shape, seed=1)
    to_z = jax.grad(lambda z: jnp.sum(w * bottleneck.quantized(state, z)))(z)
    np.testing.assert_array_equal(to_z, w)
    z_q = bottleneck.quantized(state, z)
    np.testing.assert_allclose(bottleneck.quantized(state, z_q), z_q, atol=1e-6)
    to_features = jax.grad(lambda f: jnp.sum(w * bottleneck.train(state, f, KEY, VALUES)[0]))(given)
    expected = jax.grad(lambda f: jnp.sum(w * bottleneck.latents(f, KEY)))(given)
    np.testing.assert_allclose(to_features, expected, atol=1e-6)


def test_the_gaussians_divergence_is_its_closed_form_and_its_monte_carlo_mean():
    bottleneck = Gaussian(2, beta=0.5)
    given = features(3, 2, 2, 4)
    mean, log_variance = (np.asarray(part, np.float64) for part in bottleneck.moments(given))
    closed = 0.5 * np.sum(mean**2 + np.exp(log_variance) - 1 - log_variance, axis=(1, 2, 3))
    draws = 20_000
    z = np.asarray(jax.vmap(lambda key: bottleneck.latents(given, key))(jax.random.split(KEY, draws)), np.float64)
    ln_q = -0.5 * ((z - mean) ** 2 / np.exp(log_variance) + log_variance)
    estimates = np.sum(ln_q + 0.5 * z**2, axis=(2, 3, 4))
    error = estimates.std(axis=0) / np.sqrt(draws)
    np.testing.assert_allclose(bottleneck.divergence(given), closed, rtol=1e-5)
    assert (np.abs(estimates.mean(axis=0) - closed) < 4 * error).all()
    assert (error < 0.02 * closed).all()

    z, terms, _, logs = bottleneck.train({}, given, KEY, VALUES)
    np.testing.assert_array_equal(z, bottleneck.latents(given, KEY))
    np.testing.assert_allclose(terms["kl"], 0.5 * closed / VALUES, rtol=1e-5)
    np.testing.assert_allclose(logs["kl_bits"], closed.mean() / VALUES / np.log(2), rtol=1e-5)


def test_log_variances_are_clipped():
    given = jnp.concatenate([jnp.zeros((1, 1, 1, 2)), jnp.array([[[[-99.0, 99.0]]]])], axis=-1)
    _, log_variance = Gaussian(2).moments(given)
    assert log_variance.ravel().tolist() == [-30, 20]


def reference(book, given, decay):
    """One update of a codebook whose codes are all alive, in NumPy."""
    flat = np.asarray(given, np.float64).reshape(-1, given.shape[-1])
    nearest = np.argmin(((flat[:, None] - book["codes"]) ** 2).sum(axis=-1), axis=1)
    counts, sums = decay * book["counts"], decay * book["sums"]
    for k, feature in zip(nearest, flat, strict=True):
        counts[k] += (1 - decay) / len(given)
        sums[k] += (1 - decay) * feature / len(given)
    share = counts.sum() / len(counts)
    return {"codes": sums / (counts + 1e-5 * share)[:, None] * (1 + 1e-5), "counts": counts, "sums": sums}


def test_codes_are_moving_averages_decayed_by_images():
    """Two microbatches after one another, and one of half a batch: the decay is by the images of each."""
    bottleneck = VQ(5, 3, halflife_images=16, revive=0)
    rng = np.random.default_rng(0)
    book = {"codes": rng.normal(size=(5, 3)), "counts": rng.uniform(1, 2, size=5)}
    book["sums"] = book["codes"] * book["counts"][:, None]
    state = {"codebook": {name: jnp.asarray(array, jnp.float32) for name, array in book.items()}}
    train = jax.jit(bottleneck.train, static_argnums=3)
    for step, images in enumerate((8, 8, 4)):
        given = features(images, 2, 3, 3, seed=step)
        _, _, state, logs = train(state, given, KEY, VALUES)
        used = np.asarray(bottleneck.indices({"codebook": book}, given))
        book = reference(book, given, 0.5 ** (images / 16))
        for name, array in book.items():
            np.testing.assert_allclose(state["codebook"][name], array, rtol=2e-5, err_msg=name)
        p = np.bincount(used.ravel(), minlength=5) / used.size
        np.testing.assert_allclose(logs["perplexity"], np.prod(p**-p), rtol=1e-5)
        assert logs["codes_used"] == np.mean(p > 0)


def two_clusters(step: int) -> jax.Array:
    """Features close to (1, 1) or (-1, -1), half of them each."""
    signs = jnp.where(jnp.arange(64).reshape(4, 4, 4, 1) % 2, 1.0, -1.0)
    return signs + 0.1 * features(4, 4, 4, 2, seed=step)


@pytest.mark.parametrize(("revive", "alive"), [(0.03, 16), (0.0, 2)])
def test_revival_keeps_every_code_alive(revive, alive):
    """Of codes far from all features but for two; without revival only these are ever used."""
    bottleneck = VQ(16, 2, halflife_images=40, revive=revive)
    far = jnp.full((16, 2), 9.0).at[3].set(1.0).at[7].set(-1.0)
    state = bottleneck.holding(far)
    train = jax.jit(bottleneck.train, static_argnums=3)
    for step in range(150):
        _, _, state, _ = train(state, two_clusters(step), folded(KEY, step), VALUES)
    used = [bottleneck.indices(state, two_clusters(1000 + step)) for step in range(8)]
    assert len(np.unique(used)) == alive


def test_the_first_codes_are_features_of_the_first_batch():
    bottleneck = VQ(32, 3)
    given = 5 + features(4, 4, 4, 3)
    first = bottleneck.init(KEY)
    _, _, state, _ = jax.jit(bottleneck.train, static_argnums=3)(first, given, KEY, VALUES)
    unused = np.setdiff1d(np.arange(32), bottleneck.indices(first, given))
    assert len(unused) > 20
    distance = np.abs(np.asarray(state["codebook"]["codes"])[:, None] - given.reshape(-1, 3)).max(axis=-1).min(axis=1)
    assert (distance[unused] < 1e-3).all()
    assert len(np.unique(bottleneck.indices(state, given))) > 20


def test_the_commitment_term_reaches_the_encoder_alone():
    """beta 2 (z - z_q) / (values of a latent) for each feature; nothing for the codes."""
    bottleneck = VQ(6, 3, commitment=0.25)
    state, given = bottleneck.init(KEY), features(2, 3, 4, 3)

    def term(given, codes):
        at = {"codebook": {**state["codebook"], "codes": codes}}
        return bottleneck.train(at, given, KEY, VALUES)[1]["commitment"].sum()

    to_features, to_codes = jax.grad(term, argnums=(0, 1))(given, state["codebook"]["codes"])
    z_q = bottleneck.quantized(state, given)
    np.testing.assert_allclose(to_features, 0.25 * 2 * (given - z_q) / (3 * 4 * 3), rtol=1e-5)
    np.testing.assert_array_equal(to_codes, np.zeros((6, 3)))


def test_codes_of_a_loaded_model_are_looked_up():
    """They are NumPy arrays, which a traced index cannot look up."""
    codes = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    bottleneck = VQ(9, 3)
    state = jax.tree.map(np.asarray, bottleneck.holding(jnp.asarray(codes)))
    z = features(2, 4, 4, 3)
    indices = jax.jit(partial(bottleneck.indices, state))(z)
    np.testing.assert_array_equal(jax.jit(partial(bottleneck.lookup, state))(indices), codes[indices])
    np.testing.assert_array_equal(bottleneck.quantized(state, z), codes[indices])
    assert np.isnan(bottleneck.lookup(state, jnp.array([9]))).all()


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (8, 6, 5), (2, 3)])
def test_levels_and_indices_are_a_bijection(levels):
    bottleneck = FSQ(levels)
    indices = jnp.arange(np.prod(levels))
    assert bottleneck.size == len(indices)
    codes = bottleneck.lookup({}, indices)
    for channel, count in enumerate(levels):
        np.testing.assert_allclose(np.unique(codes[:, channel]), np.linspace(-1, 1, count), atol=1e-6)
    assert len(np.unique(codes, axis=0)) == len(indices)
    np.testing.assert_array_equal(bottleneck.indices({}, codes), indices)
    np.testing.assert_array_equal(bottleneck.quantized({}, codes), codes)
    # What a sampler comes to beyond the bounds is the level at the bound.
    np.testing.assert_array_equal(bottleneck.indices({}, 1.5 * codes[jnp.array([0, -1])]), indices[jnp.array([0, -1])])


def test_levels_are_the_nearest_ones():
    bottleneck = FSQ((8, 5))
    given = 3 * features(4, 8, 8, 2)
    z = bottleneck.latents(given, KEY)
    assert np.abs(z).max() <= 1
    z_q, terms, state, logs = bottleneck.train({}, given, KEY, VALUES)
    for channel, count in enumerate(bottleneck.levels):
        values = np.linspace(-1, 1, count)
        nearest = values[np.abs(np.asarray(z)[..., channel, None] - values).argmin(axis=-1)]
        np.testing.assert_allclose(z_q[..., channel], nearest, atol=1e-6)
    assert (terms, state) == ({}, {})
    used = len(np.unique(np.asarray(z_q).reshape(-1, 2), axis=0))
    np.testing.assert_allclose(logs["codes_used"], used / 40, rtol=1e-6)
    assert used / 2 < logs["perplexity"] <= used


def test_a_first_stage_joins_pictures_and_latents():
    """16-bit pictures in, images in [-1, 1] out, of what the bottleneck makes of latents, with any leading axes."""
    layout = Layout(channels=8, channel_mults=(1, 1), blocks_per_level=1, middle_attention=False, style=Style())
    bottleneck = VQ(5, 3)
    network = Autoencoder(features=3, latent_channels=3, out_channels=1, layout=layout)
    stage = FirstStage(network, bottleneck, Pixels((8, 6, 1), Range("uint16", 0, 4000)))
    assert stage.shape == (4, 3, 3)
    weights = jax.jit(stage.init)(KEY)
    assert weights.params.keys() == {"autoencoder"}
    assert weights.state.keys() == {"codebook"}
    images = np.random.default_rng(0).integers(0, 4001, size=(4, 8, 6, 1), dtype=np.uint16)
    given = jax.jit(stage.features)(weights, jnp.asarray(images))
    x = jnp.asarray(2 * images.astype(np.float32) / 4000 - 1)
    variables = {"params": weights.params["autoencoder"]}
    encode, decode = (jax.jit(partial(network.apply, method=method)) for method in ("encode", "decode"))
    np.testing.assert_allclose(given, encode(variables, x), atol=1e-5)
    z = stage.latents(given, None)
    decoded = jax.jit(stage.decode)(weights, z.reshape(2, 2, 4, 3, 3))
    assert decoded.shape == (2, 2, 8, 6, 1)
    codes = bottleneck.lookup(weights.state, bottleneck.indices(weights.state, z))
    np.testing.assert_allclose(decoded.reshape(x.shape), decode(variables, codes), atol=1e-5)

"""Guidances with a stand-in denoiser whose two answers are known, and with Gaussian classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdiff.diffusion.denoiser import Denoised
from jdiff.diffusion.guidance import (
    autoguidance,
    cfg_plus_plus,
    classifier,
    classifier_free,
    dropping,
    dynamic_threshold,
    interval,
    static_clip,
)
from tests.closed_forms import Mixture, mixture

X = jax.random.normal(jax.random.key(0), (4, 3, 3, 1))
COND = {"label": jnp.arange(4)}
DROPPED = {**COND, "drop": {"label": jnp.ones(4, bool)}}
TWO = jnp.float32(2)


def stand_in(x, sigma, cond):
    drop = cond["drop"]["label"] if "drop" in cond else jnp.zeros(len(x), bool)
    pull = jnp.where(drop, -0.3, 0.1 * cond["label"])
    x0 = jnp.tanh(x) / (1 + jnp.broadcast_to(sigma, x.shape[:1])[:, None, None, None]) + pull[:, None, None, None]
    return Denoised(x0=x0, x0_dir=x0)


def weak(x, sigma, cond):
    """A worse model: another answer, and a direction and a variance of its own."""
    x0 = 0.5 * stand_in(x, sigma, cond).x0 - 0.1
    return Denoised(x0=x0, x0_dir=x0 + 1)


def wild(x, sigma, cond):
    """A denoiser that leaves [-1, 1]."""
    return Denoised(x0=3 * x, x0_dir=3 * x)


IMAGES = st.lists(st.floats(-100, 100, width=32, allow_subnormal=False), min_size=36, max_size=36).map(
    lambda values: jnp.asarray(values, jnp.float32).reshape(4, 3, 3, 1)
)
SIGMAS = st.floats(2.0**-7, 80, width=32).map(jnp.float32)


def exactly(x, sigma, cond):
    """Answers that no rounding touches, so that guidance's own shows: x, and without its condition x mirrored."""
    x0 = jnp.where(cond["drop"]["label"][:, None, None, None], jnp.flip(x, 1), x)
    return Denoised(x0=x0, x0_dir=x0)


def mirrored(x, sigma, cond):
    return Denoised(x0=jnp.flip(x, 2), x0_dir=x)


@jax.jit
def at_scales_one_and_zero(x, sigma):
    kept = {**COND, "drop": {"label": jnp.zeros(4, bool)}}
    return [
        (
            classifier_free(exactly, w)(x, sigma, COND),
            cfg_plus_plus(exactly, w)(x, sigma, COND),
            autoguidance(exactly, mirrored, w)(x, sigma, kept),
        )
        for w in (jnp.float32(1), jnp.float32(0))
    ]


@settings(max_examples=40, deadline=None)
@given(IMAGES, SIGMAS)
def test_scales_one_and_zero_are_exact(x, sigma):
    """To the bit, conditional and unconditional, strong and weak."""
    (free, plus_plus, auto), (none, none_plus_plus, none_auto) = at_scales_one_and_zero(x, sigma)
    for same in (free.x0, free.x0_dir, plus_plus.x0, auto.x0, auto.x0_dir, none_auto.x0_dir):
        np.testing.assert_array_equal(same, x)
    for flipped in (none.x0, none.x0_dir, none_plus_plus.x0, plus_plus.x0_dir, none_plus_plus.x0_dir):
        np.testing.assert_array_equal(flipped, x[:, ::-1])
    np.testing.assert_array_equal(none_auto.x0, x[:, :, ::-1])


def test_a_scale_for_each_image():
    scales = jnp.array([0.0, 1.0, 2.0, 7.5])
    guided = classifier_free(stand_in, scales)(X, TWO, COND).x0
    alone = jax.jit(lambda x, label, w: classifier_free(stand_in, w)(x, TWO, {"label": label}).x0)
    for i, scale in enumerate(scales):
        row = alone(X[i : i + 1], COND["label"][i : i + 1], scale)
        np.testing.assert_allclose(guided[i : i + 1], row, rtol=1e-5, atol=1e-6)


def test_guided_is_the_papers_extrapolation():
    """(1 + omega) D_cond - omega D_uncond with omega = w - 1 (2207.12598, eq. 6)."""
    omega = 1.5
    cond, uncond = stand_in(X, TWO, COND).x0, stand_in(X, TWO, DROPPED).x0
    guided = classifier_free(stand_in, jnp.float32(1 + omega))(X, TWO, COND).x0
    np.testing.assert_allclose(guided, (1 + omega) * cond - omega * uncond, rtol=1e-5, atol=1e-6)


def test_both_halves_take_one_call():
    batches = []

    def counting(x, sigma, cond):
        batches.append((x.shape[0], sigma.shape, cond["label"].tolist(), cond["drop"]["label"].tolist()))
        return stand_in(x, sigma, cond)

    classifier_free(counting, jnp.float32(3))(X, TWO, COND)
    assert batches == [(8, (8,), [0, 0, 1, 1, 2, 2, 3, 3], [False, True] * 4)]


def test_a_condition_that_was_dropped_stays_dropped():
    before = {**COND, "drop": {"label": jnp.array([True, False, False, False])}}
    after = dropping(before, jnp.array([False, False, True, False]))
    np.testing.assert_array_equal(after["drop"]["label"], [True, False, True, False])
    guided = classifier_free(stand_in, jnp.float32(3))(X, TWO, before).x0
    np.testing.assert_allclose(guided[0], stand_in(X, TWO, DROPPED).x0[0], rtol=1e-5)


def test_cfg_plus_plus_mixes_the_end_and_not_the_direction():
    """2406.08070, algorithm 2: Euler's x' = x0 + s'/s (x - x0_dir) takes its noise from the unconditional answer."""
    cond, uncond = stand_in(X, TWO, COND).x0, stand_in(X, TWO, DROPPED).x0
    guided = cfg_plus_plus(stand_in, jnp.float32(0.6))(X, TWO, COND)
    np.testing.assert_allclose(guided.x0, uncond + 0.6 * (cond - uncond), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(guided.x0_dir, uncond)


def test_autoguidance_leads_away_from_the_weak_model():
    """2406.02507, eq. 3: D_0 + w (D_1 - D_0), for the end and for the direction, w for each image."""
    w = jnp.array([1.0, 2.0, 3.0, 0.0])
    strong, weaker = stand_in(X, TWO, COND), weak(X, TWO, COND)
    guided = autoguidance(stand_in, weak, w)(X, TWO, COND)
    w = w[:, None, None, None]
    np.testing.assert_allclose(guided.x0, weaker.x0 + w * (strong.x0 - weaker.x0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(guided.x0_dir, weaker.x0_dir + w * (strong.x0_dir - weaker.x0_dir), rtol=1e-5, atol=1e-5)


def test_a_perfect_classifier_makes_the_conditional_denoiser():
    """D + sigma^2 grad ln p(c | x) = D_c by Bayes' rule, at scale 1; 0 is D; w goes w times as far (2105.05233)."""
    data = mixture(2)

    def log_posterior(x, sigma, cond):
        joint = data._log_parts(x, data.stds**2 + sigma[:, None, None] ** 2)
        return jax.nn.log_softmax(joint, axis=1)[jnp.arange(len(x)), cond["label"]]

    @jax.jit
    def answers(x, sigma, label, scale):
        classes = [Mixture(np.ones(1), data.means[k : k + 1], data.stds[k : k + 1]) for k in range(3)]
        each = jnp.stack([one.denoise(x, sigma, {}).x0 for one in classes])
        guided = classifier(data.denoise, log_posterior, scale)(x, sigma, {"label": label})
        return guided, data.denoise(x, sigma, {}).x0, each[label, jnp.arange(len(x))]

    with jax.enable_x64(True):
        x = data.draw(jax.random.key(0), 6, 0.8)
        scale = jnp.array([0.0, 1.0, 1.0, 1.0, 0.5, 7.0])
        guided, plain, exact = answers(x, jnp.linspace(0.1, 3.0, 6), jnp.arange(6) % 3, scale)
        assert np.abs(exact - plain).max(axis=1).min() > 1e-3
        np.testing.assert_allclose(guided.x0[1:4], exact[1:4], rtol=1e-9)
        np.testing.assert_allclose(guided.x0, plain + scale[:, None] * (exact - plain), rtol=1e-9)
        np.testing.assert_array_equal(guided.x0_dir, guided.x0)


def test_an_interval_limits_guidance_to_its_sigmas():
    """2404.07724, eq. 6: low < sigma <= high; one sigma for all and one for each image agree."""
    guided = classifier_free(stand_in, jnp.float32(3))
    limited = jax.jit(interval(guided, stand_in, 0.5, 2.0))
    sigmas = jnp.array([0.5, 0.6, 2.0, 2.1])
    each = limited(X, sigmas, COND)
    for i, inside in enumerate([False, True, True, False]):
        expected = (guided if inside else stand_in)(X, sigmas[i], COND).x0[i]
        np.testing.assert_allclose(each.x0[i], expected, rtol=1e-6)
        np.testing.assert_allclose(limited(X, sigmas[i], COND).x0[i], expected, rtol=1e-6)
        assert np.abs(guided(X, sigmas[i], COND).x0[i] - stand_in(X, sigmas[i], COND).x0[i]).max() > 0.1


def test_an_interval_calls_only_what_counts():
    calls = []

    def counted(x, sigma, cond):
        jax.debug.callback(lambda: calls.append(1))
        return stand_in(x, sigma, cond)

    limited = jax.jit(interval(counted, stand_in, 0.5, 2.0))
    for sigma in (0.2, 1.0, 3.0):
        jax.block_until_ready(limited(X, jnp.float32(sigma), COND))
    jax.effects_barrier()
    assert len(calls) == 1


def test_rescaling_brings_back_the_conditional_answers_contrast():
    """2305.08891, eq. 15-16: with phi 1 each image has the standard deviation of D_cond; in between, a mix of both."""

    def conditional(x, sigma, cond):
        answer = stand_in(x, sigma, cond)
        stretched = answer.x0 * jnp.where(cond["drop"]["label"], 1.0, 1.5)[:, None, None, None]
        return Denoised(x0=stretched, x0_dir=stretched)

    def guided(phi):
        return np.asarray(classifier_free(conditional, jnp.float32(4), rescale=phi)(X, TWO, COND).x0)

    over = (1, 2, 3)
    target = np.std(conditional(X, TWO, {**COND, "drop": {"label": jnp.zeros(4, bool)}}).x0, axis=over)
    plain, full = guided(0.0), guided(1.0)
    assert (plain.std(axis=over) > 1.2 * target).all()
    np.testing.assert_allclose(full.std(axis=over), target, rtol=1e-5)
    np.testing.assert_allclose(guided(0.7), 0.7 * full + 0.3 * plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(guided(jnp.float32(0.7)), guided(0.7), rtol=1e-6)


def test_static_clip_keeps_to_the_datas_range():
    clipped = static_clip(wild, -1.0, 0.5)(X, TWO, COND)
    np.testing.assert_array_equal(clipped.x0, np.clip(3 * X, -1.0, 0.5))
    np.testing.assert_array_equal(clipped.x0_dir, clipped.x0)
    np.testing.assert_array_equal(static_clip(stand_in)(X, TWO, COND).x0, stand_in(X, TWO, COND).x0)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 1.0])
def test_dynamic_threshold_is_imagens(quantile):
    """2205.11487, section 2.3, image by image; an image within [-1, 1] is left as it is."""
    x = X.at[1].multiply(0.05)
    thresholded = dynamic_threshold(wild, quantile)(x, TWO, COND)
    for i, d in enumerate(np.asarray(3 * x)):
        s = max(np.quantile(np.abs(d), quantile), 1)
        np.testing.assert_allclose(thresholded.x0[i], np.clip(d, -s, s) / s, rtol=1e-5)
    np.testing.assert_array_equal(thresholded.x0[1], 3 * x[1])
    np.testing.assert_array_equal(thresholded.x0_dir, thresholded.x0)
    assert np.abs(thresholded.x0).max() <= 1


def test_guidances_compose():
    """Autoguidance within an interval, then a threshold: as its parts by hand, inside one compiled function."""
    strong = autoguidance(classifier_free(stand_in, jnp.float32(2)), weak, jnp.float32(1.5))
    whole = jax.jit(dynamic_threshold(static_clip(interval(strong, stand_in, 0.0, 1.0), -2.0, 2.0), 0.8))
    for sigma in (jnp.float32(0.5), jnp.float32(2)):
        cond, uncond = stand_in(X, sigma, COND).x0, stand_in(X, sigma, DROPPED).x0
        d = 1.5 * (2 * cond - uncond) - 0.5 * weak(X, sigma, COND).x0 if sigma <= 1 else cond
        d = np.clip(d, -2, 2)
        s = np.maximum(np.quantile(np.abs(d), 0.8, axis=(1, 2, 3), keepdims=True), 1)
        np.testing.assert_allclose(whole(X, sigma, COND).x0, np.clip(d, -s, s) / s, rtol=1e-5, atol=1e-6)


def test_what_guidance_does_not_change_passes_through():
    """A learned variance is that of the conditional answer; CFG++'s direction outlives an interval around it."""

    def learned(x, sigma, cond):
        return stand_in(x, sigma, cond).replace(variance=jnp.where(cond["drop"]["label"][:, None, None, None], 0.1, x))

    for guided in (classifier_free(learned, jnp.float32(3)), cfg_plus_plus(learned, jnp.float32(0.5))):
        np.testing.assert_array_equal(guided(X, TWO, COND).variance, X)
        np.testing.assert_array_equal(static_clip(guided)(X, TWO, COND).variance, X)
    within = interval(cfg_plus_plus(stand_in, jnp.float32(0.5)), stand_in, 1.0, 3.0)
    np.testing.assert_allclose(within(X, TWO, COND).x0_dir, stand_in(X, TWO, DROPPED).x0, atol=1e-6)

"""Guidances with a stand-in denoiser whose two answers are known, and with Gaussian classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

from jdiff.diffusion import guidance
from jdiff.diffusion.denoiser import Denoised
from jdiff.diffusion.guidance import (
    Autoguidance,
    CFGPlusPlus,
    ClassifierFree,
    ClassifierGuidance,
    DynamicThreshold,
    Interval,
    StaticThreshold,
    dropping,
)
from tests.closed_forms import Mixture, mixture

X = jax.random.normal(jax.random.key(0), (4, 3, 3, 1))
COND = {"label": jnp.arange(4)}
DROPPED = {**COND, "drop": {"label": jnp.ones(4, bool)}}
TWO = jnp.float32(2)


def stand_in(x, sigma, cond, to=None):
    drop = cond["drop"]["label"] if "drop" in cond else jnp.zeros(len(x), bool)
    pull = jnp.where(drop, -0.3, 0.1 * cond["label"])
    x0 = jnp.tanh(x) / (1 + jnp.broadcast_to(sigma, x.shape[:1])[:, None, None, None]) + pull[:, None, None, None]
    return Denoised(x0=x0, x0_dir=x0)


def weak(x, sigma, cond, to=None):
    """A worse model: another answer, and a direction and a variance of its own."""
    x0 = 0.5 * stand_in(x, sigma, cond).x0 - 0.1
    return Denoised(x0=x0, x0_dir=x0 + 1)


def wild(x, sigma, cond, to=None):
    """A denoiser that leaves [-1, 1]."""
    return Denoised(x0=3 * x, x0_dir=3 * x)


IMAGES = st.lists(st.floats(-100, 100, width=32, allow_subnormal=False), min_size=36, max_size=36).map(
    lambda values: jnp.asarray(values, jnp.float32).reshape(4, 3, 3, 1)
)
SIGMAS = st.floats(2.0**-7, 80, width=32).map(jnp.float32)


def exactly(x, sigma, cond, to=None):
    """Answers that no rounding touches, so that guidance's own shows: x, and without its condition x mirrored."""
    x0 = jnp.where(cond["drop"]["label"][:, None, None, None], jnp.flip(x, 1), x)
    return Denoised(x0=x0, x0_dir=x0)


def mirrored(x, sigma, cond, to=None):
    return Denoised(x0=jnp.flip(x, 2), x0_dir=x)


@jax.jit
def at_scales_one_and_zero(x, sigma):
    kept = {**COND, "drop": {"label": jnp.zeros(4, bool)}}
    return [
        (
            ClassifierFree(w)(exactly)(x, sigma, COND),
            CFGPlusPlus(w)(exactly)(x, sigma, COND),
            Autoguidance(w, mirrored)(exactly)(x, sigma, kept),
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
    guided = ClassifierFree(scales)(stand_in)(X, TWO, COND).x0
    alone = jax.jit(lambda x, label, w: ClassifierFree(w)(stand_in)(x, TWO, {"label": label}).x0)
    for i, scale in enumerate(scales):
        row = alone(X[i : i + 1], COND["label"][i : i + 1], scale)
        np.testing.assert_allclose(guided[i : i + 1], row, rtol=1e-5, atol=1e-6)


def test_guided_is_the_papers_extrapolation():
    """(1 + omega) D_cond - omega D_uncond with omega = w - 1 (2207.12598, eq. 6)."""
    omega = 1.5
    cond, uncond = stand_in(X, TWO, COND).x0, stand_in(X, TWO, DROPPED).x0
    guided = ClassifierFree(jnp.float32(1 + omega))(stand_in)(X, TWO, COND).x0
    np.testing.assert_allclose(guided, (1 + omega) * cond - omega * uncond, rtol=1e-5, atol=1e-6)


def test_both_halves_take_one_call():
    batches = []

    def counting(x, sigma, cond, to=None):
        batches.append((x.shape[0], sigma.shape, cond["label"].tolist(), cond["drop"]["label"].tolist()))
        return stand_in(x, sigma, cond)

    ClassifierFree(jnp.float32(3))(counting)(X, TWO, COND)
    assert batches == [(8, (8,), [0, 0, 1, 1, 2, 2, 3, 3], [False, True] * 4)]


def test_a_condition_that_was_dropped_stays_dropped():
    before = {**COND, "drop": {"label": jnp.array([True, False, False, False])}}
    after = dropping(before, jnp.array([False, False, True, False]))
    np.testing.assert_array_equal(after["drop"]["label"], [True, False, True, False])
    guided = ClassifierFree(jnp.float32(3))(stand_in)(X, TWO, before).x0
    np.testing.assert_allclose(guided[0], stand_in(X, TWO, DROPPED).x0[0], rtol=1e-5)


def test_cfg_plus_plus_mixes_the_end_and_not_the_direction():
    """2406.08070, algorithm 2: Euler's x' = x0 + s'/s (x - x0_dir) takes its noise from the unconditional answer."""
    cond, uncond = stand_in(X, TWO, COND).x0, stand_in(X, TWO, DROPPED).x0
    guided = CFGPlusPlus(jnp.float32(0.6))(stand_in)(X, TWO, COND)
    np.testing.assert_allclose(guided.x0, uncond + 0.6 * (cond - uncond), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(guided.x0_dir, uncond)


def test_autoguidance_leads_away_from_the_weak_model():
    """2406.02507, eq. 3: D_0 + w (D_1 - D_0), for the end and for the direction, w for each image."""
    w = jnp.array([1.0, 2.0, 3.0, 0.0])
    strong, weaker = stand_in(X, TWO, COND), weak(X, TWO, COND)
    guided = Autoguidance(w, weak)(stand_in)(X, TWO, COND)
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
        guided = ClassifierGuidance(scale, log_posterior, of_denoised=False)(data.denoise)(x, sigma, {"label": label})
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
    guided = ClassifierFree(jnp.float32(3))(stand_in)
    limited = jax.jit(Interval(ClassifierFree(jnp.float32(3)), 0.5, 2.0)(stand_in))
    sigmas = jnp.array([0.5, 0.6, 2.0, 2.1])
    each = limited(X, sigmas, COND)
    for i, inside in enumerate([False, True, True, False]):
        expected = (guided if inside else stand_in)(X, sigmas[i], COND).x0[i]
        np.testing.assert_allclose(each.x0[i], expected, rtol=1e-6)
        np.testing.assert_allclose(limited(X, sigmas[i], COND).x0[i], expected, rtol=1e-6)
        assert np.abs(guided(X, sigmas[i], COND).x0[i] - stand_in(X, sigmas[i], COND).x0[i]).max() > 0.1


def test_an_interval_calls_only_what_counts():
    batches = []

    def counted(x, sigma, cond, to=None):
        jax.debug.callback(lambda: batches.append(len(x)))
        return stand_in(x, sigma, cond)

    limited = jax.jit(Interval(ClassifierFree(jnp.float32(3)), 0.5, 2.0)(counted))
    for sigma in (0.2, 1.0, 3.0):
        jax.block_until_ready(limited(X, jnp.float32(sigma), COND))
        jax.effects_barrier()
    assert batches == [4, 8, 4]


def test_rescaling_brings_back_the_conditional_answers_contrast():
    """2305.08891, eq. 15-16: with phi 1 each image has the standard deviation of D_cond; in between, a mix of both."""

    def conditional(x, sigma, cond, to=None):
        answer = stand_in(x, sigma, cond)
        stretched = answer.x0 * jnp.where(cond["drop"]["label"], 1.0, 1.5)[:, None, None, None]
        return Denoised(x0=stretched, x0_dir=stretched)

    def guided(phi):
        return np.asarray(ClassifierFree(jnp.float32(4), rescale=phi)(conditional)(X, TWO, COND).x0)

    over = (1, 2, 3)
    target = np.std(conditional(X, TWO, {**COND, "drop": {"label": jnp.zeros(4, bool)}}).x0, axis=over)
    plain, full = guided(0.0), guided(1.0)
    assert (plain.std(axis=over) > 1.2 * target).all()
    np.testing.assert_allclose(full.std(axis=over), target, rtol=1e-5)
    np.testing.assert_allclose(guided(0.7), 0.7 * full + 0.3 * plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(guided(jnp.float32(0.7)), guided(0.7), rtol=1e-6)


def test_static_threshold_keeps_to_the_datas_range():
    clipped = StaticThreshold(-1.0, 0.5)(wild)(X, TWO, COND)
    np.testing.assert_array_equal(clipped.x0, np.clip(3 * X, -1.0, 0.5))
    np.testing.assert_array_equal(clipped.x0_dir, clipped.x0)
    np.testing.assert_array_equal(StaticThreshold()(stand_in)(X, TWO, COND).x0, stand_in(X, TWO, COND).x0)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 1.0])
def test_dynamic_threshold_is_imagens(quantile):
    """2205.11487, section 2.3, image by image; an image within [-1, 1] is left as it is."""
    x = X.at[1].multiply(0.05)
    thresholded = DynamicThreshold(quantile)(wild)(x, TWO, COND)
    for i, d in enumerate(np.asarray(3 * x)):
        s = max(np.quantile(np.abs(d), quantile), 1)
        np.testing.assert_allclose(thresholded.x0[i], np.clip(d, -s, s) / s, rtol=1e-5)
    np.testing.assert_array_equal(thresholded.x0[1], 3 * x[1])
    np.testing.assert_array_equal(thresholded.x0_dir, thresholded.x0)
    assert np.abs(thresholded.x0).max() <= 1


def test_guidances_compose():
    """Autoguidance within an interval, then a threshold: as its parts by hand, inside one compiled function."""

    class Strong:
        """A guidance made of two."""

        passes = 4

        def __call__(self, denoise):
            return guidance.guided(denoise, (ClassifierFree(jnp.float32(2)), Autoguidance(jnp.float32(1.5), weak)))

    parts = (Interval(Strong(), 0.0, 1.0), StaticThreshold(-2.0, 2.0), DynamicThreshold(0.8))
    whole = jax.jit(guidance.guided(stand_in, parts))
    for sigma in (jnp.float32(0.5), jnp.float32(2)):
        cond, uncond = stand_in(X, sigma, COND).x0, stand_in(X, sigma, DROPPED).x0
        d = 1.5 * (2 * cond - uncond) - 0.5 * weak(X, sigma, COND).x0 if sigma <= 1 else cond
        d = np.clip(d, -2, 2)
        s = np.maximum(np.quantile(np.abs(d), 0.8, axis=(1, 2, 3), keepdims=True), 1)
        np.testing.assert_allclose(whole(X, sigma, COND).x0, np.clip(d, -s, s) / s, rtol=1e-5, atol=1e-6)


def test_what_guidance_does_not_change_passes_through():
    """A learned variance is that of the conditional answer; CFG++'s direction outlives an interval around it."""

    def learned(x, sigma, cond, to=None):
        return stand_in(x, sigma, cond).replace(variance=jnp.where(cond["drop"]["label"][:, None, None, None], 0.1, x))

    for guided in (ClassifierFree(jnp.float32(3))(learned), CFGPlusPlus(jnp.float32(0.5))(learned)):
        np.testing.assert_array_equal(guided(X, TWO, COND).variance, X)
        np.testing.assert_array_equal(StaticThreshold()(guided)(X, TWO, COND).variance, X)
    within = Interval(CFGPlusPlus(jnp.float32(0.5)), 1.0, 3.0)(stand_in)
    np.testing.assert_allclose(within(X, TWO, COND).x0_dir, stand_in(X, TWO, DROPPED).x0, atol=1e-6)


def shifted(offset, x, sigma, cond, to=None):
    """A weak denoiser with one weight."""
    x0 = stand_in(x, sigma, cond).x0 - offset
    return Denoised(x0=x0, x0_dir=x0)


def log_normal(mean, x, sigma, cond):
    return -jnp.sum((x - mean) ** 2, axis=(1, 2, 3)) / 2


def every_guidance(number):
    """One of each, all of its numbers `number`."""
    number = jnp.float32(number)
    return (
        ClassifierFree(number, number, ("label",)),
        Autoguidance(number, Partial(shifted, number), number),
        ClassifierGuidance(number, Partial(log_normal, number)),
        Interval(CFGPlusPlus(number), number, 10 * number),
        StaticThreshold(-2.0, 2.0),
        DynamicThreshold(number),
    )


def test_a_program_takes_guidances_numbers_as_they_come():
    """A tuple of guidances is an argument of a compiled function: another number is no other program, another form is,
    and the answer is that of the guidances themselves.
    """
    traced = []

    @jax.jit
    def program(guidances, x):
        traced.append(guidances)
        return guidance.guided(stand_in, guidances)(x, TWO, COND).x0

    answers = [program(every_guidance(number), X) for number in (0.3, 0.5, 0.9)]
    assert len(traced) == 1
    constant = jax.jit(lambda x: guidance.guided(stand_in, every_guidance(0.9))(x, TWO, COND).x0)
    np.testing.assert_allclose(answers[2], constant(X), rtol=1e-5, atol=1e-6)
    assert np.abs(answers[2] - answers[1]).max() > 0.01
    for others in (
        every_guidance(0.3)[:-1],
        every_guidance(0.3)[::-1],
        (ClassifierFree(TWO),),
        (ClassifierFree(TWO, conditions=("label",)),),
        (ClassifierFree(TWO, TWO),),
        (StaticThreshold(),),
        (StaticThreshold(-1.0, 2.0),),
        (ClassifierGuidance(TWO, Partial(log_normal, TWO), of_denoised=False),),
        (ClassifierGuidance(TWO, Partial(log_normal, TWO)),),
        (Interval(ClassifierFree(TWO), TWO, TWO),),
    ):
        before = len(traced)
        jax.eval_shape(program, others, X)
        assert len(traced) == before + 1
        jax.eval_shape(program, jax.tree.map(lambda number: 0.5 * number, others), X)
        assert len(traced) == before + 1


def test_a_classifier_of_clean_images_reads_the_denoised_one():
    """of_denoised: the gradient of ln p(D(x)) in x, through D."""
    classifier = Partial(log_normal, TWO)
    ours = ClassifierGuidance(jnp.float32(3), classifier)(stand_in)(X, TWO, COND)

    def of_denoised(x, sigma, cond):
        return classifier(stand_in(x, sigma, cond).x0, sigma, cond)

    by_hand = ClassifierGuidance(jnp.float32(3), of_denoised, of_denoised=False)(stand_in)(X, TWO, COND)
    np.testing.assert_array_equal(ours.x0, by_hand.x0)
    of_noisy = ClassifierGuidance(jnp.float32(3), classifier, of_denoised=False)(stand_in)(X, TWO, COND)
    assert np.abs(ours.x0 - of_noisy.x0).max() > 0.1


def test_passes_are_the_networks():
    """Each image's passes through the network in one call of the guided denoiser, the weak model's included."""
    rows = []

    def counted(x, sigma, cond, to=None):
        rows.append(len(x))
        return stand_in(x, sigma, cond)

    def log_probability(x, sigma, cond):  # a classifier is a network too
        rows.append(len(x))
        return log_normal(TWO, x, sigma, cond)

    each = jnp.full(4, TWO)
    for one in (
        ClassifierFree(TWO),
        CFGPlusPlus(TWO),
        Autoguidance(TWO, counted),
        ClassifierGuidance(TWO, log_probability, of_denoised=False),
        Interval(ClassifierFree(TWO), 1.0, 3.0),
        StaticThreshold(),
        DynamicThreshold(),
    ):
        assert isinstance(one, guidance.Guidance)
        rows.clear()
        one(counted)(X, each, COND)
        outside = 4 if isinstance(one, Interval) else 0  # a sigma for each image: both are called
        assert sum(rows) == 4 * one.passes + outside


@pytest.mark.parametrize("number", range(6))
def test_every_guidance_passes_on_where_a_step_goes(number):
    """Each call of the denoiser gets `to`, with a row for each of its own."""
    seen = []

    def noting(x, sigma, cond, to=None):
        seen.append((x.shape[0], to))
        return stand_in(x, sigma, cond)

    one = every_guidance(0.5)[number]
    if isinstance(one, Autoguidance):
        one = one.replace(weak=noting)
    to = jnp.array([0.0, 0.5, 1.0, 1.5])
    with jax.disable_jit():  # so that both branches of an interval's cond are plain calls
        for sigma in (TWO, 10 * TWO, jnp.full(4, TWO)):
            one(noting)(X, sigma, COND, to)
    assert len(seen) >= 3
    for rows, where in seen:
        np.testing.assert_array_equal(where, to if rows == 4 else np.repeat(to, 2))

"""Conditions of every kind: their embedders, their dropping, guidance by some of them, and how they are asked for."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdiff
import jdiff.config
from jdiff import from_config, request, scoring
from jdiff.common.errors import UserError
from jdiff.common.ranges import SCREEN
from jdiff.conditions.examples import EXAMPLES, load_examples
from jdiff.conditions.image import Image
from jdiff.conditions.label import Label
from jdiff.conditions.scalars import Scalars
from jdiff.conditions.text import Text
from jdiff.data.sources import Picture
from jdiff.data.sources.digits import WORDS, Digits
from jdiff.diffusion.denoiser import Denoised
from jdiff.diffusion.draws import LogNormal
from jdiff.diffusion.guidance import CFGPlusPlus, ClassifierFree
from jdiff.diffusion.objective import Objective
from jdiff.diffusion.parameterization import Edm
from jdiff.diffusion.schedules import EDM
from jdiff.diffusion.weights import Simple
from jdiff.from_config.guidance import away_from
from jdiff.modes import train
from jdiff.networks.conditioning import (
    Conditioner,
    ImageChannels,
    ImageTokens,
    LabelEmbedding,
    ScalarEmbedding,
    TextFeatures,
    TextTokens,
    TextTransformer,
)
from jdiff.networks.unet import UNet
from jdiff.resolve import resolve
from jdiff.spaces import Pixels
from jdiff.tasks import Weights
from jdiff.tasks.diffusion import DiffusionTask
from tests.arrays import drawn, noise, perturbed
from tests.conftest import REPOSITORY, TINY, config, refusal, run_here

ALL = ("label", "text", "image", "scalars")


# Embedders

IDS = np.array([[1, 7, 8, 9, 2, 0], [1, 9, 8, 7, 2, 0], [1, 7, 2, 0, 0, 0], [1, 5, 6, 7, 8, 2]])
OTHER_IDS = np.array([[1, 5, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0], [1, 6, 6, 6, 6, 2], [1, 7, 2, 0, 0, 0]])


def features(seed, lengths):
    mask = np.arange(6) < np.array(lengths)[:, None]
    return {"features": noise(4, 6, 5, seed=seed) * mask[..., None], "mask": mask}


def dropping(*rows):
    return np.array([row in rows for row in range(4)])


# name -> (embedder, the values of four images, others)
EMBEDDERS = {
    "label": (LabelEmbedding(5, 8), np.arange(4), np.array([3, 2, 4, 0])),
    "labels": (
        LabelEmbedding(5, 8),
        np.array([[0, 1, -1], [2, -1, -1], [1, 3, 4], [4, 0, -1]]),
        np.array([[-1, -1, -1], [0, 1, 2], [0, -1, -1], [2, 3, -1]]),
    ),
    "scalars": (ScalarEmbedding(8, channels=4), noise(4, 2), noise(4, 2, seed=1)),
    "channels": (ImageChannels(), noise(4, 4, 6, 2), noise(4, 4, 6, 2, seed=1)),
    "image": (ImageTokens(8, downsamples=1), noise(4, 4, 6, 2), noise(4, 4, 6, 2, seed=1)),
    "text": (TextTransformer(10, 8, 12, depth=1, heads=2), IDS, OTHER_IDS),
    "features": (TextFeatures(8, 12), features(0, [5, 5, 3, 6]), features(1, [2, 6, 1, 3])),
    "tokens": (TextTokens(5), features(0, [5, 5, 3, 6]), features(1, [2, 6, 1, 3])),
    "given tokens": (TextTokens(5, null_tokens=6), features(0, [5, 5, 3, 6]), features(1, [2, 6, 1, 3])),
}


def forms(embedded):
    """The parts of an answer that are there, as NumPy."""
    named = {name: getattr(embedded, name) for name in ("vector", "tokens", "mask", "channels")}
    return {name: np.asarray(value) for name, value in named.items() if value is not None}


@pytest.mark.parametrize("name", EMBEDDERS)
def test_a_dropped_row_is_the_null_whatever_it_was(name):
    """To the bit, a text's length included; the kept rows are as without dropping, and differ from one another."""
    embedder, values, others = EMBEDDERS[name]
    params = drawn(embedder, values)
    run = jax.jit(embedder.apply)
    undropped = forms(run(params, values))
    kept = forms(run(params, values, dropping()))
    dropped, other = (forms(run(params, given, dropping(1, 3))) for given in (values, others))
    again = forms(run(params, jax.tree.map(lambda a: a[::-1], values), dropping(1)))
    assert kept.keys() == dropped.keys()
    for form in kept:
        np.testing.assert_array_equal(kept[form], undropped[form])
        np.testing.assert_array_equal(dropped[form][[0, 2]], kept[form][[0, 2]])
        np.testing.assert_array_equal(dropped[form][[1, 3]], other[form][[1, 3]])
        np.testing.assert_array_equal(dropped[form][1], dropped[form][3])
        np.testing.assert_array_equal(dropped[form][1], again[form][1])
        if form != "mask":
            rows = [kept[form][i] for i in range(4)] + [dropped[form][1]]
            assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(rows) for b in rows[:i]), form


@pytest.mark.parametrize("name", EMBEDDERS)
def test_the_null_learns_from_dropped_rows_alone(name):
    embedder, values, _ = EMBEDDERS[name]
    params = drawn(embedder, values)

    @jax.jit
    def gradients(drop):
        def loss(params):
            answer = embedder.apply(params, jax.tree.map(jnp.asarray, values), drop)
            parts = [part for part in (answer.vector, answer.tokens, answer.channels) if part is not None]
            return sum(jnp.sum(part * noise(*part.shape)) for part in parts)

        return jax.grad(loss)(params)["params"]

    def null(gradient):
        if "pooled" in gradient:
            return gradient["pooled"]["null"]
        return gradient["null"] if "null" in gradient else gradient["table"][5]

    of_dropped = np.abs(null(gradients(dropping(2))))
    assert not of_dropped.any() if name == "given tokens" else of_dropped.min() > 1e-4
    np.testing.assert_array_equal(null(gradients(dropping())), 0)


def test_labels_are_rows_of_a_table_and_several_are_summed():
    embedder = LabelEmbedding(5, 8)
    table = noise(6, 8)
    params = {"params": {"table": jnp.asarray(table)}}
    run = jax.jit(lambda labels, drop: embedder.apply(params, labels, drop).vector)
    np.testing.assert_array_equal(run(np.array([3, 0]), np.array([False, True])), table[[3, 5]])
    several = np.array([[1, 4, -1], [-1, 2, -1], [-1, -1, -1]])
    expected = np.stack([table[1] + table[4], table[2], np.zeros(8)])
    np.testing.assert_allclose(run(several, np.zeros(3, bool)), expected, rtol=1e-6)
    order = run(several[:, ::-1], np.zeros(3, bool))
    np.testing.assert_allclose(order, expected, rtol=1e-6)


def test_padding_changes_nothing_and_the_order_of_words_does():
    embedder = TextTransformer(10, 8, 12, depth=2, heads=2)
    params = drawn(embedder, IDS)
    long = embedder.apply(params, jnp.asarray(IDS))
    short = {**params["params"], "positions": params["params"]["positions"][:5]}
    for row, length in ((0, 5), (2, 5)):
        alone = embedder.apply({"params": short}, jnp.asarray(IDS[row : row + 1, :length]))
        seen = IDS[row, :length] > 0
        np.testing.assert_allclose(alone.tokens[0][seen], long.tokens[row, :length][seen], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(alone.vector[0], long.vector[row], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(long.mask, IDS > 0)
    # The same words in another order: not only other places, but another mean.
    assert sorted(IDS[0]) == sorted(IDS[1])
    assert np.abs(long.vector[0] - long.vector[1]).max() > 1e-2
    # What stands in the padding's rows of the table is seen by none.
    table = params["params"]["table"]
    other = {**params["params"], "table": np.concatenate([9 + table[:1], table[1:]])}
    again = embedder.apply({"params": other}, jnp.asarray(IDS))
    np.testing.assert_allclose(again.vector, long.vector, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again.tokens[IDS > 0], long.tokens[IDS > 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["features", "tokens"])
def test_features_beyond_their_mask_are_left_out(name):
    embedder, values, _ = EMBEDDERS[name]
    params = drawn(embedder, values)
    changed = {**values, "features": np.where(values["mask"][..., None], values["features"], 7.0)}
    run = jax.jit(embedder.apply)
    one, other = forms(run(params, values)), forms(run(params, changed))
    np.testing.assert_array_equal(one["mask"], values["mask"])
    np.testing.assert_array_equal(one["tokens"][values["mask"]], other["tokens"][values["mask"]])
    if name == "features":
        np.testing.assert_array_equal(one["vector"], other["vector"])


def test_a_text_without_tokens_is_finite():
    """Some pretrained tokenizers make none of "": its mean would be 0 / 0, even where it is dropped."""
    for name, nothing in (("features", features(0, [0, 0, 3, 3])), ("text", np.where(IDS[:1] > 9, IDS, 0))):
        embedder = EMBEDDERS[name][0]
        params = drawn(embedder, nothing)

        @jax.jit
        def answers(params, embedder=embedder, nothing=nothing):
            nothing = jax.tree.map(jnp.asarray, nothing)
            return jax.value_and_grad(
                lambda p: jnp.sum(embedder.apply(p, nothing, jnp.asarray(dropping(0, 3))).vector)
            )(params)

        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(answers(params)))


def test_the_places_of_an_images_tokens_are_told_apart():
    embedder = ImageTokens(8, downsamples=1)
    grey = np.full((1, 4, 6, 1), 0.3, np.float32)
    tokens = np.asarray(embedder.apply(drawn(embedder, grey), jnp.asarray(grey)).tokens)
    assert tokens.shape == (1, 2 * 3, 8)
    inner = tokens[0, [1, 4]]  # of a constant image, not at the sides: places alone differ
    assert np.abs(inner[0] - inner[1]).max() > 1e-2


def test_a_conditioner_joins_them():
    """Vectors are summed, tokens and channels concatenated, each condition dropped by its own name."""
    kinds = {"label": "label", "scalars": "scalars", "image": "image", "text": "text", "sketch": "channels"}
    embedders = {
        name: TextTransformer(10, 8, 8, depth=1, heads=2) if kind == "text" else EMBEDDERS[kind][0]
        for name, kind in kinds.items()
    }
    cond = {name: EMBEDDERS[kind][1] for name, kind in kinds.items()}
    conditioner = Conditioner(embedders)
    params = drawn(conditioner, cond)
    drop = {"text": dropping(0), "label": dropping(1, 2), "scalars": dropping()}
    joined = forms(jax.jit(conditioner.apply)(params, {**cond, "drop": drop}))
    own = {
        name: forms(jax.jit(embed.apply)({"params": params["params"][f"embedders_{name}"]}, cond[name], drop.get(name)))
        for name, embed in embedders.items()
    }
    vectors = sum(own[name]["vector"] for name in ("label", "scalars", "text"))
    np.testing.assert_allclose(joined["vector"], vectors, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(joined["channels"], own["sketch"]["channels"])
    tokens = np.concatenate([own["image"]["tokens"], own["text"]["tokens"]], axis=1)
    np.testing.assert_allclose(joined["tokens"], tokens, rtol=1e-5, atol=1e-5)
    mask = np.concatenate([np.ones((4, 6), bool), (IDS > 0) | dropping(0)[:, None]], axis=1)
    np.testing.assert_array_equal(joined["mask"], mask)
    # Tokens of a frozen encoder without a mask are all seen, beside those of another with one.
    plain = Conditioner({"a": TextTokens(5), "b": TextTokens(5)})
    text = {"a": {"features": noise(4, 2, 5)}, "b": features(0, [5, 5, 3, 6])}
    both = plain.apply(drawn(plain, text), jax.tree.map(jnp.asarray, text))
    np.testing.assert_array_equal(both.mask, np.concatenate([np.ones((4, 2), bool), text["b"]["mask"]], axis=1))
    alone = Conditioner({"a": TextTokens(5)})
    assert alone.apply(drawn(alone, text), jax.tree.map(jnp.asarray, text)).mask is None


# In a network


def small_unet(embedders, **fields):
    """One block a way, with attention in the middle alone."""
    return UNet(
        out_channels=1,
        channels=8,
        channel_mults=(1,),
        blocks_per_level=1,
        attention="transformer",
        attention_levels=(),
        conditioner=Conditioner(embedders),
        **fields,
    )


@pytest.mark.parametrize("into", ["concat", "cross_attention"])
def test_dropping_any_of_four_leaves_the_others(into):
    """In one network: other values in the places of what is dropped change no bit; the others' values still count."""
    embedders = {
        "label": LabelEmbedding(5, 32),
        "text": TextTransformer(10, 8, 32, depth=1, heads=2),
        "image": ImageChannels() if into == "concat" else ImageTokens(8, downsamples=1),
        "scalars": ScalarEmbedding(32, channels=4),
    }
    network, x, times = small_unet(embedders), noise(2, 4, 4, 1), np.ones(2, np.float32)
    whole = {"label": np.array([0, 1]), "text": IDS[:2], "image": noise(2, 4, 4, 1, seed=1), "scalars": noise(2, 1)}
    other = {"label": np.array([4, 3]), "text": OTHER_IDS[:2], "image": noise(2, 4, 4, 1, seed=2)}
    other["scalars"] = noise(2, 1, seed=2)
    params = perturbed(network, x, whole)
    run = jax.jit(lambda cond: network.apply(params, jnp.asarray(x), jnp.asarray(times), cond))

    def out(cond, *dropped):
        """Of the first of both images these are dropped."""
        return np.asarray(run({**cond, "drop": {name: np.array([name in dropped, False]) for name in ALL}}))

    for subset in ((), ("text",), ("label", "image"), ("text", "image"), ("label", "text", "scalars"), ALL):
        reference = out(whole, *subset)
        for name in ALL:
            changed = out({**whole, name: other[name]}, *subset)
            if name in subset:
                np.testing.assert_array_equal(changed[0], reference[0], err_msg=f"{name} of {subset}")
            else:
                assert np.abs(changed[0] - reference[0]).max() > 1e-3, f"{name} beside {subset}"
                assert np.abs(out(whole, *subset, name)[0] - reference[0]).max() > 1e-3, f"{name} beside {subset}"
            assert np.abs(changed[1] - reference[1]).max() > 1e-3


def test_each_condition_is_dropped_at_its_own_rate_alone_and_with_the_others(monkeypatch):
    prediction, seen = Edm(EDM(), 0.5), {}
    rates = {"label": 0.5, "text": 0.25, "image": 0.0, "scalars": 0.1}
    task = DiffusionTask(
        network=small_unet({}),
        parameterization=prediction,
        objective=Objective(LogNormal(), Simple(prediction)),
        space=Pixels((2, 2, 1)),
        conditions=(
            Label(class_names=("a",), drop_rate=0.5),
            Text(length=3, drop_rate=0.25),
            Image(of="image", picture=Picture((2, 2, 1)), sides=(2, 2)),
            Scalars(names=("ink",), drop_rate=0.1),
        ),
    )

    def spy(self, weights, dropout_key):
        def denoise(x, sigma, cond, to=None):
            seen.update(cond)
            return Denoised(x0=x, x0_dir=x)

        return denoise

    monkeypatch.setattr(DiffusionTask, "denoises", spy)
    images = 4000
    given = {"label": jnp.zeros(images, int), "text": jnp.ones((images, 3), int), "scalars": jnp.zeros((images, 1))}
    given |= {"image": jnp.zeros((images, 2, 2, 1), jnp.uint8), "unknown": jnp.zeros(images)}
    batch = {"x0": jnp.zeros((images, 2, 2, 1)), "cond": given}
    masks = []
    for number in range(3):
        task.loss({}, {}, batch, jax.random.key(number), jnp.int32(0))
        masks.append({name: np.asarray(rows) for name, rows in seen["drop"].items()})
    assert masks[0].keys() == rates.keys()
    told = task._known(seen)
    assert "unknown" not in told
    np.testing.assert_array_equal(told["image"], -1)  # uint8 0 as a float
    drop = {name: np.concatenate([each[name] for each in masks]) for name in rates}
    for name, rate in rates.items():
        assert drop[name].mean() == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / (3 * images)))
        assert rate == 0 or (masks[0][name] != masks[1][name]).any()
        for second in rates:
            both = (rate * rates[second] + min(rate, rates[second])) / 2 if second != name else rate
            off = 5 * np.sqrt(both * (1 - both) / (3 * images))
            assert (drop[name] & drop[second]).mean() == pytest.approx(both, abs=off), f"{name}, {second}"
    seen.clear()
    task.loss({}, {}, batch, jax.random.key(0), jnp.int32(0), train=False)
    assert "drop" not in seen


# Guidance towards some of them

X = jnp.asarray(noise(3, 4, 4, 1))
PULLS = {"label": 0.3, "text": -0.7, "image": 0.11}


def pulled(x, sigma, cond, to=None):
    """D = x / (1 + sigma) + for each condition its value, or where it is dropped a null of its own."""
    shape = (-1, *[1] * (x.ndim - 1))
    d = x / (1 + jnp.broadcast_to(sigma, x.shape[:1])).reshape(shape)
    for name, null in PULLS.items():
        drop = cond.get("drop", {}).get(name, jnp.zeros(len(x), bool))
        d += jnp.where(drop, null, cond[name]).reshape(shape)
    return Denoised(x0=d, x0_dir=d)


@pytest.mark.parametrize("subset", [("text",), ("label", "image"), ("label", "text", "image"), ()])
def test_guidance_is_towards_the_conditions_named(subset):
    """D = w D(all) + (1 - w) D(without those), the others being given to both."""
    cond = {name: jnp.asarray(noise(3, seed=i)) for i, name in enumerate(PULLS)}
    w, sigma = jnp.array([0.0, 1.0, 3.5]), jnp.float32(2)
    without = {name: jnp.ones(3, bool) for name in subset or PULLS}
    full, less = pulled(X, sigma, cond).x0, pulled(X, sigma, {**cond, "drop": without}).x0
    expected = w[:, None, None, None] * full + (1 - w[:, None, None, None]) * less
    guided = ClassifierFree(w, conditions=subset)(pulled)(X, sigma, cond)
    np.testing.assert_allclose(guided.x0, expected, rtol=1e-5, atol=1e-5)
    half = CFGPlusPlus(jnp.float32(0.5), conditions=subset)(pulled)(X, sigma, cond)
    np.testing.assert_allclose(half.x0, 0.5 * (full + less), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(half.x0_dir, less, rtol=1e-5, atol=1e-5)
    # What was dropped before is dropped from both, and a guided condition that was gone guides nowhere.
    before = {"text": jnp.ones(3, bool), "image": jnp.zeros(3, bool)}
    full = pulled(X, sigma, {**cond, "drop": before}).x0
    less = pulled(X, sigma, {**cond, "drop": {**before, **without}}).x0
    expected = w[:, None, None, None] * full + (1 - w[:, None, None, None]) * less
    guided = ClassifierFree(w, conditions=subset)(pulled)(X, sigma, {**cond, "drop": before}).x0
    np.testing.assert_allclose(guided, expected, rtol=1e-5, atol=1e-5)
    if subset == ("text",):
        np.testing.assert_allclose(guided, full, rtol=1e-5, atol=1e-5)


# A model that is given all four

FOUR = (
    f"--config.model.conditions={ALL}",
    "--config.condition.scalars.names=('ink',)",
    "--config.condition.text.length=8",
    "--config.condition.text.width=16",
    "--config.condition.text.depth=1",
    "--config.condition.text.vocabulary=300",
    "--config.network.attention=transformer",
    "--config.network.attention_levels=(0,)",
    "--config.network.middle_attention=false",
    "--config.network.up_attention=last",
    "--config.train.warmup_images=0",
    "--config.train.ema_halflife_images=0",
)
SETTINGS = tuple(flag for flag in TINY if "attention_levels" not in flag) + FOUR


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(the run's folder, what the command said)."""
    folder = tmp_path_factory.mktemp("four")
    result = run_here(config("digits"), *SETTINGS, "--config.train.steps=20", "--workdir=run", cwd=folder)
    assert result.status == 0, result.err
    return folder / "run", result


@pytest.fixture(scope="module")
def model(trained) -> jdiff.Model:
    """The trained one, its zeros at the start of training moved away, so that every condition is seen in its images."""
    model = jdiff.load(trained[0])
    rng = np.random.default_rng(0)
    moved = jax.tree.map(
        lambda leaf: leaf + (0.3 / np.sqrt(max(1, np.prod(leaf.shape[:-1])))) * rng.normal(size=leaf.shape),
        model.params,
    )
    moved = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), moved)
    return model.with_weights(Weights(moved, {}), step=model.step)


FAST = {"sampler": "ddim", "steps": 2}
GREY = np.full((1, 8, 8, 1), 100, np.uint8)
GIVEN = {"labels": ["3"], "texts": ["a handwritten two"], "cond_images": GREY, "scalars": [[0.3]]}


def test_training_with_four_conditions(trained):
    workdir, result = trained
    assert "conditioned on label, text, image, scalars" in result.out
    assert {"tokenizer.json", EXAMPLES} <= {path.name for path in workdir.iterdir()}
    with np.load(workdir / EXAMPLES) as examples:
        assert set(examples) == {*ALL, "captions", "format"}
        labels = examples["label"]
        assert list(examples["captions"]) == [f"a handwritten {WORDS[label]}" for label in labels]
        assert len({len(values) for name, values in examples.items() if name != "format"}) == 1
    assert result.err.count("are cut") in (1, 2)  # once for each split
    assert "texts are longer than condition.text.length=8 tokens and are cut, the first: 'a handwritten" in result.err


def test_texts_that_are_too_long_can_be_refused(tmp_path):
    flags = ["--config.condition.text.on_long=error", "--config.train.steps=1", "--workdir=run"]
    line = refusal(config("digits"), *SETTINGS, *flags, cwd=tmp_path)
    assert "tokens long" in line
    assert "condition.text.length=8" in line


@pytest.mark.slow
def test_the_command_samples_with_nothing_given_and_by_texts(trained, tmp_path):
    workdir, _ = trained
    result = run_here("--mode=sample", f"--workdir={workdir}", "--out=none", cwd=tmp_path)
    assert result.status == 0, result.err
    with np.load(tmp_path / "none" / "samples.npz") as drawn, np.load(workdir / EXAMPLES) as examples:
        assert drawn["images"].shape == (10, 8, 8, 1)
        assert drawn["images"].dtype == np.uint8
        np.testing.assert_array_equal(drawn["labels"], examples["label"][:10])
        np.testing.assert_array_equal(drawn["texts"], examples["captions"][:10])
    said = "--config.sample.texts=('a handwritten three',)"
    result = run_here("--mode=sample", f"--workdir={workdir}", "--out=three", said, cwd=tmp_path)
    assert result.status == 0, result.err
    with np.load(tmp_path / "three" / "samples.npz") as drawn:
        assert set(drawn) == {"images", "texts"}
        assert list(drawn["texts"]) == ["a handwritten three"] * 10
    assert (tmp_path / "three" / "grid.png").is_file()


def test_samples_of_each_kind_of_condition(model):
    """Each alone, the others dropped, moves the images, and again draws the same; so do all together."""
    nothing_dropped = model.sample(2, **GIVEN, **FAST)
    drawn = {name: model.sample(2, **{name: values}, **FAST) for name, values in GIVEN.items()}
    for name, images in drawn.items():
        assert images.shape == (2, 8, 8, 1)
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, model.sample(2, **{name: GIVEN[name]}, **FAST))
        assert (images != nothing_dropped).any()
    several = list(drawn.values())
    assert all((a != b).any() for i, a in enumerate(several) for b in several[:i])
    other = {"labels": [4], "texts": ["a handwritten one"], "cond_images": 255 - GREY, "scalars": [[0.9]]}
    for name, values in other.items():
        assert (model.sample(2, **{**GIVEN, name: values}, **FAST) != nothing_dropped).any(), name
    examples = model.sample(3, **FAST)
    again = load_examples(model.workdir, model.task.conditions)
    texts, images = [str(text) for text in again["captions"][:3]], again["image"][:3]
    given = {"labels": again["label"][:3], "texts": texts, "cond_images": images, "scalars": again["scalars"][:3]}
    np.testing.assert_array_equal(model.sample(**given, **FAST), examples)
    np.testing.assert_array_equal(
        model.sample(3, **{**given, "cond_images": SCREEN.to_model(images)}, **FAST), examples
    )


@pytest.mark.slow  # test_guidance has the arithmetic
def test_guidance_towards_some_conditions_through_the_model(model):
    """By its denoiser; and in its images, a scale of 1 is the plain model, whatever is guided."""
    denoise, task_cond = model.task.denoiser(model.weights), model.request(3).cond
    x = 2 * jnp.asarray(noise(3, 8, 8, 1))
    without = {**task_cond, "drop": {"text": np.ones(3, bool)}}

    @jax.jit
    def answers(x, cond, without):
        sigma, scale = jnp.float32(2), jnp.array([0.0, 1.0, 3.0])
        guided = ClassifierFree(scale, conditions=("text",))(denoise)(x, sigma, cond).x0
        return guided, denoise(x, sigma, cond).x0, denoise(x, sigma, without).x0

    guided, full, less = answers(x, task_cond, without)
    assert np.abs(full - less).max() > 1e-2
    w = np.array([0.0, 1.0, 3.0])[:, None, None, None]
    np.testing.assert_allclose(guided, w * full + (1 - w) * less, rtol=1e-3, atol=1e-3)

    scale = {"guidance_scale": 4.0}
    by_text = model.sample(2, **GIVEN, **FAST, **scale, conditions=("text",))
    by_label = model.sample(2, **GIVEN, **FAST, **scale, conditions=("label",))
    by_all = model.sample(2, **GIVEN, **FAST, **scale)
    assert (by_text != by_label).any()
    assert (by_text != by_all).any()
    np.testing.assert_array_equal(model.sample(2, **GIVEN, **FAST, **scale, conditions=ALL), by_all)
    # A condition that is dropped anyway guides nowhere.
    given = {"labels": ["3"], **FAST}
    plain = model.sample(2, **given, guidance_scale=1.0).astype(int)
    nowhere = model.sample(2, **given, **scale, conditions=("text",))
    assert np.abs(nowhere - plain).max() <= 1
    assert np.abs(model.sample(2, **given, **scale) - plain).max() > 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"conditions": ("txt",)}, "guidance.conditions='txt' is unknown; did you mean 'text'?; it is one of label,"),
        ({"conditions": ("text", "age")}, "guidance.conditions='age' is unknown"),
        ({"conditions": ("text",), "method": "autoguidance", "weak_workdir": "x"}, "goes with classifier_free and cfg"),
        ({"method": "classifier", "classifier_workdir": "x", "texts": ["a three"]}, "guides to a class: say to which"),
    ],
)
def test_guidance_that_cannot_be(model, settings, said):
    with pytest.raises(UserError) as error:
        model.sample(2, guidance_scale=2.0, **settings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_guidance_leads_away_from_what_was_dropped_in_training(made):
    """With (), from all that was; a condition that never was has no null to lead away from."""
    settings = changed(made[0], model__drop_rate=0.1, condition__image__drop_rate=0.0, sample__guidance_scale=2.0)
    assert away_from(settings) == tuple(name for name in settings.model.conditions if name != "image")
    for fields in ({"guidance__conditions": ("label", "image")}, {"model__drop_rate": 0.0}):
        never = changed(settings, **fields)
        for name in never.model.conditions if "model__drop_rate" in fields else ():
            never.condition[name].drop_rate = None
        with pytest.raises(UserError, match="never learned to do without its"):
            request.check(never, EDM())


# What is asked for


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a resolved config of four conditions, a folder with its tokenizer and examples), without training."""
    workdir = tmp_path_factory.mktemp("made")
    flags = [*SETTINGS, "--config.condition.text.length=16"]
    resolved = resolve(
        jdiff.config.override(jdiff.config.load(REPOSITORY / "configs" / "digits.py"), flags), Digits("train")
    )
    source, _ = train.with_texts(resolved, workdir, Digits("test"), None)
    train.keep_examples(resolved, [source], workdir)
    return resolved, workdir


def changed(config, **values):
    """The config with `group__key=value` in it."""
    config = config.copy_and_resolve_references()
    for name, value in values.items():
        *groups, key = name.split("__")
        place = config
        for group in groups:
            place = place[group]
        place[key] = value
    return config


def asked(config, count=5, **settings):
    return request.overridden(config, {"num_images": count, **settings})


def told(config, workdir, wanted, **given):
    """(rows, texts) of what is asked for, taken in turn."""
    names = {"labels": "label", "texts": "text", "images": "image", "scalars": "scalars"}
    conditions = [condition.in_folder(workdir) for condition in from_config.conditions(config)]
    guided = request.read_scale(wanted, None)[1]
    to_class = guided and wanted.guidance.method == "classifier"
    values = {names[name]: given[name] for name in given}
    found, texts, _ = request.rows(wanted, conditions, values, workdir, to_class=to_class)
    numbers = np.arange(wanted.sample.num_images)
    in_turn = jax.tree.map(lambda values: values[numbers % len(values)], found)
    return in_turn, None if texts is None else [texts[i % len(texts)] for i in numbers]


@pytest.fixture
def rows(made):
    """rows(count, given..., config's changes as group__key) -> the rows of conditions."""
    resolved, workdir = made

    def of(count=5, changes=None, wanted=None, **given):
        config = changed(resolved, **(changes or {}))
        return told(config, workdir, asked(config, count, **(wanted or {})), **given)[0]

    return of


def test_few_are_taken_in_turn(rows):
    got = rows(
        5,
        labels=[7, "2"],
        texts=["a handwritten two", "a nine", "one"],
        images=np.concatenate([GREY, GREY + 1]),
        scalars=[[0.1], [0.2]],
    )
    assert "drop" not in got
    np.testing.assert_array_equal(got["label"], [7, 2, 7, 2, 7])
    assert got["label"].dtype == np.int32
    np.testing.assert_array_equal(got["text"][3:], got["text"][:2])
    assert len(np.unique(got["text"], axis=0)) == 3
    np.testing.assert_array_equal(got["image"], np.uint8([100, 101, 100, 101, 100])[:, None, None, None] + 0 * GREY)
    assert got["image"].dtype == np.uint8
    np.testing.assert_allclose(got["scalars"][:, 0], [0.1, 0.2, 0.1, 0.2, 0.1], rtol=1e-6)
    np.testing.assert_array_equal(rows(2, labels=np.arange(5))["label"], [0, 1])  # more than are asked for


def test_floats_are_images_too(rows):
    floats = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    np.testing.assert_array_equal(rows(1, images=floats)["image"], floats)
    assert rows(1, images=floats.astype(np.float64))["image"].dtype == np.float32


@pytest.mark.parametrize("given", [("labels",), ("texts",), ("images", "scalars"), ("labels", "texts", "images")])
def test_what_is_not_given_beside_others_is_dropped(rows, given):
    values = {"labels": [3], "texts": ["a three"], "images": GREY, "scalars": [[0.5]]}
    names = {"labels": "label", "texts": "text", "images": "image", "scalars": "scalars"}
    got = rows(4, **{name: values[name] for name in given})
    assert set(got) == {*ALL, "drop"}
    assert set(got["drop"]) == set(ALL) - {names[name] for name in given}
    for drop in got["drop"].values():
        np.testing.assert_array_equal(drop, [True] * 4)
    forms = rows(4)
    for name in ALL:
        assert got[name].shape == forms[name].shape
        assert got[name].dtype == forms[name].dtype


def test_from_the_config_as_from_a_call(rows):
    by_config = rows(3, wanted={"labels": (3, "4"), "texts": ("a three",)})
    by_call = rows(3, labels=[3, 4], texts=["a three"])
    assert set(by_config["drop"]) == {"image", "scalars"}
    jax.tree.map(np.testing.assert_array_equal, by_config, by_call)
    # What the call says goes first.
    np.testing.assert_array_equal(rows(2, wanted={"labels": (3,)}, labels=[9])["label"], [9, 9])


def test_nothing_given_is_the_runs_examples(rows, made):
    resolved, workdir = made
    got = rows(120)
    assert set(got) == set(ALL)
    digits = Digits("test")
    with np.load(workdir / EXAMPLES) as kept:
        for name in ("label", "text", "scalars"):
            np.testing.assert_array_equal(got[name][:100], kept[name])
            np.testing.assert_array_equal(got[name][100:], kept[name][:20])
        np.testing.assert_array_equal(got["image"][:100], kept["image"])
        assert str(kept["captions"][0]) in digits.captions
    again = rows(100, texts=[f"a handwritten {WORDS[label]}" for label in got["label"][:100]])
    np.testing.assert_array_equal(again["text"], got["text"][:100])
    # A model that is given labels alone needs no examples: classes in turn.
    labelled = changed(resolved, model__conditions=("label",))
    only = told(labelled, None, asked(labelled, 12))[0]
    assert set(only) == {"label"}
    np.testing.assert_array_equal(only["label"], np.arange(12) % 10)
    unconditional = changed(resolved, model__conditions=(), sample__guidance_scale=None)
    assert told(unconditional, None, asked(unconditional, 3))[0] == {}


def test_what_samples_are_told_to_be(made):
    """For samples.npz: what was dropped is not named."""
    resolved, workdir = made

    def read(config, **settings):
        conditions = [condition.in_folder(workdir) for condition in from_config.conditions(config)]
        return request.read(config, EDM(), settings, conditions=conditions, workdir=workdir, num_images=3)

    examples = load_examples(workdir, from_config.conditions(resolved))
    nothing, label = read(resolved), read(changed(resolved, sample__labels=(4,)))
    text, both = read(resolved, texts=("a", "b")), read(resolved, labels=(4,), texts=("a",))
    assert nothing.texts == [str(text) for text in examples["captions"]][:3]
    np.testing.assert_array_equal(nothing.labels, examples["label"][:3])
    assert (label.texts, list(label.labels)) == (None, [4] * 3)
    assert (text.texts, text.labels) == (["a", "b", "a"], None)
    assert (both.texts, list(both.labels)) == (["a"] * 3, [4] * 3)
    assert read(changed(resolved, model__conditions=("label",))).texts is None


def test_several_labels_an_image(rows):
    several = {"data__labels_per_image": 3, "data__class_names": ("cat", "dog", "horse", "owl")}

    def labels(given):
        return rows(len(given), several, labels=given)["label"]

    got = labels([["dog", "owl"], 2, [], "cat", (0, 1, 2), np.array([3])])
    expected = [[1, 3, -1], [2, -1, -1], [-1, -1, -1], [0, -1, -1], [0, 1, 2], [3, -1, -1]]
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.int32
    for given, said in (
        ([["dog", "cat", "owl", 2]], "labels holds 4 labels for an image; this model knows up to 3"),
        ([["dgo"]], "labels holds 'dgo', no name of a class; did you mean 'dog'?"),
        ([[4]], "labels holds 4; labels are 0..3"),
        ([1.5], "must hold whole numbers or names of classes"),
    ):
        with pytest.raises(UserError) as error:
            labels(given)
        assert said in str(error.value)


NAMED = {"data__class_names": ("aeroplane", "cat", "dog")}


@pytest.mark.parametrize(
    ("given", "changes", "said"),
    [
        ({"labels": ["cta"]}, NAMED, "labels holds 'cta', no name of a class; did you mean 'cat'?"),
        ({"labels": ["zebra"]}, NAMED, "no name of a class; there are aeroplane, cat, dog"),
        ({"labels": [3]}, NAMED, "labels holds 3; labels are 0..2"),
        ({"labels": [-1]}, {}, "labels holds -1; labels are 0..9"),
        ({"labels": [2.5]}, {}, "labels must hold whole numbers or names of classes, as in labels=[3, 3, 5]; not 2.5"),
        ({"labels": [True]}, {}, "must hold whole numbers or names of classes"),
        ({"labels": [[1, 2]]}, {}, "must hold whole numbers or names of classes"),
        ({"labels": "cat"}, NAMED, "labels='cat' must be a sequence of labels"),
        ({"labels": []}, {}, "label: there are none"),
        ({"texts": []}, {}, "text: there are none"),
        ({"texts": "a red heart"}, {}, "texts must be strings, one an image or fewer"),
        ({"texts": [3]}, {}, "texts must be strings"),
        ({"texts": ["half \ud83d"]}, {}, "not valid Unicode"),
        ({"images": np.zeros((2, 8, 4, 1), np.uint8)}, {}, "are [2, 8, 4, 1]; this model's are [n, 8, 8, 1]"),
        ({"images": np.zeros((8, 8, 1), np.uint8)}, {}, "are [8, 8, 1]; this model's are [n, 8, 8, 1]"),
        ({"images": np.zeros((1, 8, 8, 3), np.uint8)}, {}, "are [1, 8, 8, 3]; this model's"),
        ({"images": np.zeros((1, 8, 8, 1), int)}, {}, "are int64 from 0 to 0; give uint8, or floats in [-1, 1]"),
        ({"images": GREY.astype(np.float32)}, {}, "are float32 from 100 to 100; give uint8, or floats in [-1, 1]"),
        ({"images": GREY * np.float32(np.nan)}, {}, "give uint8, or floats in [-1, 1]"),
        ({"images": np.zeros((0, 8, 8, 1), np.uint8)}, {}, "image: there are none"),
        ({"scalars": np.zeros((2, 3))}, {}, "scalars are [2, 3]; they must be finite, [n, 1]: ink"),
        ({"scalars": np.array([0.5, 0.6])}, {}, "scalars are [2]; they must be finite, [n, 1]"),
        ({"scalars": np.array([[np.inf]])}, {}, "they must be finite"),
        ({"scalars": np.array([["much"]])}, {}, "scalars are no array of numbers"),
        ({"texts": ["a"]}, {"condition__image__drop_rate": 0.0}, "never learned to do without its image: give one"),
        ({"labels": [1]}, {"model__drop_rate": 0.0}, "never learned to do without its text: give one an image"),
        ({"texts": ["a"]}, {"model__conditions": ("label", "image")}, "without texts; it takes label, image"),
        ({"images": GREY}, {"model__conditions": ("label",)}, "without condition images; it takes label"),
        ({"scalars": [[1]]}, {"model__conditions": ("text",)}, "without scalars; it takes text"),
        ({"labels": [1]}, {"model__conditions": ("text",)}, "without labels; it takes text"),
        ({"labels": [1]}, {"model__conditions": ()}, "without labels; it takes nothing"),
    ],
)
def test_what_cannot_be_asked_for_is_told_in_one_line(rows, given, changes, said):
    with pytest.raises(UserError) as error:
        rows(2, changes, **given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_never_dropped_can_be_given(rows):
    """Own drop rates go before the one of all."""
    needed = {"condition__image__drop_rate": 0.0, "model__drop_rate": 0.1}
    assert set(rows(2, needed, images=GREY)["drop"]) == {"label", "text", "scalars"}
    own = {f"condition__{name}__drop_rate": 0.2 for name in ("text", "image", "scalars")} | {"model__drop_rate": 0.0}
    assert set(rows(2, own, labels=[1])["drop"]) == {"text", "image", "scalars"}
    assert "drop" not in rows(2, {"model__drop_rate": 0.0})


def test_drop_rates_reach_the_task(made):
    resolved, _ = made
    own = changed(resolved, model__drop_rate=0.3, condition__text__drop_rate=0.0, condition__scalars__drop_rate=0.15)
    task = from_config.task(own)
    assert {condition.name: condition.drop_rate for condition in task.conditions} == {
        "label": 0.3,
        "text": 0.0,
        "image": 0.3,
        "scalars": 0.15,
    }


def test_runs_without_examples_or_with_broken_ones(made, tmp_path):
    resolved, _ = made
    for content in (None, b"", b"PK\x03\x04 torn"):
        if content is not None:
            (tmp_path / EXAMPLES).write_bytes(content)
        with pytest.raises(
            UserError,
            match=r"say what to draw \(label, text, image, scalars\): .*"
            + ("this run has no examples" if content is None else "npz is damaged: copy it again"),
        ):
            told(resolved, tmp_path, asked(resolved))
    with pytest.raises(UserError, match=r"cannot read .*tokenizer\.json"):
        told(resolved, tmp_path, asked(resolved), texts=["a"])


def test_a_classifier_guides_models_of_any_conditions(made):
    """It needs a class, which is given to the model too where that reads labels, and never made up."""
    resolved, workdir = made
    by_reader = {"method": "classifier", "classifier_workdir": "x", "guidance_scale": 2.0}
    texts = changed(resolved, model__conditions=("text",))
    got, _ = told(texts, workdir, asked(texts, 2, **by_reader), labels=[3])
    np.testing.assert_array_equal(got["label"], [3, 3])
    assert set(got["drop"]) == {"text"}
    for wanted in (resolved, texts):
        with pytest.raises(UserError, match="guides to a class: say to which by labels"):
            told(wanted, workdir, asked(wanted, 2, **by_reader), texts=["a three"])
    assert set(told(resolved, workdir, asked(resolved, 2, **by_reader))[0]) == set(ALL)
    with pytest.raises(UserError, match="guides to a class"):
        told(texts, workdir, asked(texts, 2, **by_reader))


def test_a_long_text_is_cut_and_told_when_sampling(rows):
    with pytest.warns(UserWarning, match=r"1 of 2 texts are longer than condition\.text\.length=16") as caught:
        got = rows(2, texts=["a one", "a handwritten " * 20])
    assert len(caught) == 1
    assert got["text"].shape == (2, 16)
    assert got["text"][1, -1] == 2  # its end mark
    with pytest.raises(UserError, match="tokens long"):
        rows(2, {"condition__text__on_long": "error"}, texts=["a handwritten " * 20])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows(2, texts=["a handwritten eight"])


def test_an_evaluation_gives_the_conditions_of_held_out_images(trained):
    model = jdiff.load(trained[0])
    result = model.evaluate(6, features="pixels", batch_size=3, **FAST)
    assert result["fd_pixels"] > 0
    assert "held-out images" in result.facts["sampling"]["class_mix"]
    given = model.evaluate(6, features="pixels", texts=["a handwritten two"], **FAST)
    assert given.facts["sampling"]["class_mix"] == ""
    assert given["fd_pixels"] != result["fd_pixels"]
    judge = scoring.judge(request.overridden(model.config, {"features": "pixels"}, ("eval",)), model.mesh)
    asked = scoring.plan(model, judge, 6).requests[0]
    assert set(asked.in_turn) == {"label", "text", "image", "scalars"}
    _, held_out = from_config.sources(model.config)
    assert len(asked.captions) == len(asked.in_turn["label"]) == len(held_out)
    texts = set(held_out.captions)
    assert {text in texts for text in asked.captions} == {True}
    np.testing.assert_array_equal(
        asked.in_turn["text"]["tokens"][0] if isinstance(asked.in_turn["text"], dict) else asked.in_turn["text"][0],
        jax.tree.leaves(model.request(1, texts=[asked.captions[0]]).in_turn["text"])[0][0],
    )

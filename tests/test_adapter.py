"""A condition image by an adapter beside a frozen model (ControlNet)."""

import shutil

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import jdiff
from jdiff.data.sources.digits import Digits
from jdiff.data.transforms import Thumbnail
from jdiff.networks.blocks import ResBlock
from tests.conftest import TINY, config, refusal, run_here

ADAPTER = (
    "--config.model.conditions=('label','image')",
    "--config.condition.image.into=adapter",
    "--config.condition.image.factor=2",
)
FAST = ("--config.train.learning_rate=0.03", "--config.train.ema_halflife_images=8")
LABELS = np.arange(6)


def thumbnails(count):
    source = Digits("test")
    return np.stack([Thumbnail(2)(source[number]["image"]) for number in range(count)])


def network(model):
    return {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(model.params["network"]).items()}


def train(base, *more, cwd):
    result = run_here(
        config("digits"), f"--config.train.initial={base}", *ADAPTER, *TINY, *more, "--workdir=run", cwd=cwd
    )
    assert result.status == 0, result.err
    return cwd / "run", result


@pytest.fixture(scope="module")
def adapted(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted")
    return train(tiny_run.workdir, "--config.train.steps=6", *FAST, cwd=folder)


def test_it_begins_as_the_frozen_model(tiny_run, tmp_path):
    """Joints of zeros: trained for no time at all, it draws what the model draws; and copies stand in the adapter."""
    run, result = train(tiny_run.workdir, "--config.train.steps=1", "--config.train.learning_rate=0", cwd=tmp_path)
    assert "the adapter begins as a copy of the encoder, with joints of zeros" in result.out
    base, model = jdiff.load(tiny_run.workdir), jdiff.load(run)
    drawn = model.sample(6, labels=LABELS, cond_images=thumbnails(6))
    np.testing.assert_array_equal(drawn, base.sample(6, labels=LABELS))
    before, after = network(base), network(model)
    np.testing.assert_array_equal(after["adapter/encoder/first/kernel"], before["first/kernel"])
    table = "conditioner/embedders_label/table"
    np.testing.assert_array_equal(after[f"adapter/encoder/{table}"], before[table])


def test_the_adapter_alone_is_trained(tiny_run, adapted):
    before, after = network(jdiff.load(tiny_run.workdir)), network(jdiff.load(adapted[0]))
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)
    own = {name for name in after if name not in before}
    assert own
    assert all(name.startswith("adapter/") for name in own)
    assert np.abs(after["adapter/encoder/joint_0/kernel"]).max() > 0
    # The copy of the encoder learns as well, once the joints are no longer zero.
    assert np.abs(after["adapter/encoder/down0_0/conv_0/kernel"] - before["down0_0/conv_0/kernel"]).max() > 0


@pytest.mark.slow
def test_without_it_the_frozen_model_is_left(tiny_run, adapted):
    """At scale 0, or without an image, to the bit; else the image shows; guidance leads away from the model."""
    base, model = jdiff.load(tiny_run.workdir), jdiff.load(adapted[0])
    alone = base.sample(6, labels=LABELS)
    images = thumbnails(6)
    np.testing.assert_array_equal(model.sample(6, labels=LABELS, cond_images=images, adapter_scale=0.0), alone)
    np.testing.assert_array_equal(model.sample(6, labels=LABELS), alone)
    far = {"labels": LABELS, "adapter_scale": 100.0}  # so little trained, it says little
    shown = model.sample(6, cond_images=images, **far)
    assert (shown != alone).any()
    assert (model.sample(6, cond_images=images[::-1], **far) != shown).any()
    assert (model.sample(6, cond_images=images, **{**far, "adapter_scale": 50.0}) != shown).any()
    assert (model.sample(6, cond_images=images, guidance_scale=3.0, **far) != shown).any()


def test_joints_are_added_as_the_paper_has_it(adapted):
    """The decoder's blocks get skip + joint, and the middle's output + the last joint; the way down is as without."""
    model = jdiff.load(adapted[0])
    unet, params = model.task.network, model.params["network"]
    rng = np.random.default_rng(0)
    x, c_noise = jnp.asarray(rng.normal(size=(2, 8, 8, 1)), jnp.float32), jnp.array([0.3, -0.2])
    cond = {"label": jnp.array([1, 2]), "image": jnp.asarray(rng.normal(size=(2, 8, 8, 1)), jnp.float32)}

    def joints(**scale):
        return unet.adapter.apply({"params": params["adapter"]}, x, c_noise, {**cond, **scale})

    by_one, by_two = joints(), joints(adapter_scale=jnp.full(2, 2.0))
    for one, two in zip(by_one, by_two, strict=True):
        np.testing.assert_allclose(2 * one, two, rtol=1e-6)
        assert np.abs(one).max() > 0

    def told(network, own):
        _, kept = network.apply({"params": own}, x, c_noise, cond, capture_intermediates=True)
        return lambda name: kept["intermediates"][name]["__call__"][0]

    whole, alone = told(unet, params), told(unet.clone(adapter=None), {**params, "adapter": {}})
    for name in ("first", "down0_0", "middle_1"):
        np.testing.assert_array_equal(whole(name), alone(name), err_msg=name)
    embedding = nn.silu(whole("noise") + whole("conditioner").vector)
    first, down, middle = (
        alone(name) + joint for name, joint in zip(("first", "down0_0", "middle_1"), by_one, strict=True)
    )

    def block(name, *inputs):
        made = ResBlock(unet.channels, unet.style)
        return made.apply({"params": params[name]}, jnp.concatenate(inputs, axis=-1), embedding, False)

    np.testing.assert_allclose(whole("up0_0"), up := block("up0_0", middle, down), atol=1e-5)
    np.testing.assert_allclose(whole("up0_1"), block("up0_1", up, first), atol=1e-5)


@pytest.mark.slow
def test_the_frozen_model_is_moved_and_the_seed_another(tiny_run, adapted, tmp_path):
    """The run is sampled and goes on wherever the frozen model lies by now; but beside that model alone."""
    run = shutil.copytree(adapted[0], tmp_path / "run")
    base = shutil.copytree(tiny_run.workdir, tmp_path / "elsewhere")
    drawn = jdiff.load(adapted[0]).sample(4, labels=LABELS[:4], cond_images=thumbnails(4))
    given = ("--config.sample.num_images=4", "--config.sample.labels=(0,1,2,3)", "--out=out")
    result = run_here("--mode=sample", f"--workdir={run}", f"--config.train.initial={base}", *given, cwd=tmp_path)
    assert result.status == 0, result.err
    train(base, "--config.train.steps=7", "--config.seed=1", *FAST, cwd=tmp_path)
    np.testing.assert_array_equal(network(jdiff.load(run))["first/kernel"], network(jdiff.load(base))["first/kernel"])
    assert drawn.shape == (4, 8, 8, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfloat16", "remat"])
def test_it_learns_in_other_forms(name, tiny_run, tmp_path):
    form = {"bfloat16": "--config.network.dtype=bfloat16", "remat": "--config.network.remat=True"}[name]
    run, _ = train(tiny_run.workdir, "--config.train.steps=2", *FAST, form, cwd=tmp_path)
    assert np.isfinite(jdiff.load(run).sample(2, labels=LABELS[:2], cond_images=thumbnails(2))).all()


@pytest.mark.slow
def test_it_resumes_to_the_bit(tiny_run, adapted, tmp_path):
    train(tiny_run.workdir, "--config.train.steps=3", *FAST, cwd=tmp_path)
    run, _ = train(tiny_run.workdir, "--config.train.steps=6", *FAST, cwd=tmp_path)
    whole, resumed = network(jdiff.load(adapted[0])), network(jdiff.load(run))
    for name, array in whole.items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)


@pytest.mark.slow
def test_exported_it_needs_no_other_folder(adapted, tmp_path):
    run, _ = adapted
    model = jdiff.load(run)
    assert run_here("--mode=export", f"--workdir={run}", f"--out={tmp_path / 'out'}", cwd=tmp_path).status == 0
    drawn = jdiff.load(tmp_path / "out").sample(4, labels=LABELS[:4], cond_images=thumbnails(4))
    np.testing.assert_array_equal(drawn, model.sample(4, labels=LABELS[:4], cond_images=thumbnails(4)))
    # Another training may start from it, and then its adapter goes on.
    again, result = train(tmp_path / "out", "--config.train.steps=1", "--config.train.learning_rate=0", cwd=tmp_path)
    assert "begins as a copy" not in result.out
    np.testing.assert_array_equal(jdiff.load(again).sample(4, labels=LABELS[:4], cond_images=thumbnails(4)), drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "condition.image.into='adapter' stands beside a trained model, which stays frozen: set train.initial"),
        (
            ["--config.network.name=dit", "--config.train.initial={dit}"],
            "condition.image.into='adapter' stands beside a UNet",
        ),
        (["--config.lora.rank=2", "--config.train.initial={base}"], "choose one"),
        (
            ["--config.train.initial={base}", "--config.model.conditions=('label','image','text')"],
            "a model that is frozen beside an adapter learns nothing new: keep its conditions and classes",
        ),
        (
            ["--config.train.initial={base}", "--config.model.conditions=('image',)"],
            "a model that is frozen beside an adapter learns nothing new: keep its conditions and classes",
        ),
    ],
)
def test_wrong_beginnings(arguments, message, tiny_run, dit_run, tmp_path):
    given = [argument.format(base=tiny_run.workdir, dit=dit_run.workdir) for argument in arguments]
    line = refusal(config("digits"), *ADAPTER, *given, *TINY, "--config.train.steps=1", "--workdir=run", cwd=tmp_path)
    assert message in line


def test_a_scale_wants_an_adapter(tiny_run, tmp_path):
    line = refusal("--mode=sample", f"--workdir={tiny_run.workdir}", "--config.sample.adapter_scale=0.5", cwd=tmp_path)
    assert "sample.adapter_scale=0.5: this model has no adapter" in line

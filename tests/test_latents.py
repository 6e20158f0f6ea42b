"""Diffusion in an autoencoder's latents: trained, sampled, edited, moved and exported as in pixels."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jdiff
import jdiff.config
from jdiff.common.errors import UserError
from jdiff.common.ranges import Range
from jdiff.common.weights import Weights
from jdiff.data.sources.digits import Digits
from jdiff.networks.autoencoder import Autoencoder, Layout
from jdiff.networks.bottlenecks import Plain
from jdiff.networks.norm_statistics import norm_statistics, with_norm_statistics
from jdiff.spaces.first_stage import FirstStage
from jdiff.spaces.latents import AUTOENCODER, Latents, as_state, decoding, meaning
from jdiff.spaces.pixels import Pixels
from jdiff.spaces.tiles import in_tiles
from tests.conftest import TINY, config, refusal, run_here

SMALL = (
    "--config.autoencoder.channels=8",
    "--config.autoencoder.channel_mults=(1,2)",
    "--config.train.steps=60",
    "--config.train.warmup_images=0",
    "--config.train.batch_size=32",
    "--config.train.sample_every=0",
    "--config.train.ema_halflife_images=300",
    "--config.train.holdout_images=32",
    "--config.log.every=20",
)
SHORT = (*TINY, "--config.train.warmup_images=0", "--config.network.channel_mults=(1,)")


def losses(workdir: Path, name: str = "loss") -> list[float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [row[name] for row in rows if name in row]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny VAE, and a tiny model of its latents, 4x4x4 for 8x8 pixels."""
    folder = tmp_path_factory.mktemp("latents")
    for name, more in (("vae", SMALL), ("ldm", (*SHORT, "--config.train.steps=60", "--config.space.autoencoder=vae"))):
        result = run_here(config(f"digits_{name}"), *more, f"--workdir={name}", cwd=folder)
        assert result.status == 0, result.err
    return folder


@pytest.fixture(scope="module")
def model(folder) -> jdiff.Model:
    return jdiff.load(folder / "ldm")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    source = Digits("test")
    return np.stack([record["image"] for record in source.__getitems__(range(len(source)))])


def test_latents_have_mean_0_and_deviation_1_on_held_out_images(model, images):
    latents = model.encode(images)
    assert latents.shape == (len(images), 4, 4, 4)
    np.testing.assert_allclose(latents.mean(axis=(0, 1, 2)), 0, atol=0.05)
    means = np.square(latents).mean(axis=(0, 1, 2))  # of means alone, without what sampling adds
    assert (means < 1.1).all()
    task = model.task
    drawn = np.asarray(task.space.encode(model.weights, jnp.asarray(images), jax.random.key(0)))
    np.testing.assert_allclose(drawn.std(axis=(0, 1, 2)), 1, atol=0.05)


def test_images_come_back_through_latents(model, folder, images):
    back = model.decode(model.encode(images))
    assert (back.dtype, back.shape) == (np.uint8, images.shape)
    error = np.mean((back.astype(float) - images) ** 2)
    assert error < 0.5 * images.std() ** 2
    own = jdiff.load(folder / "vae")
    np.testing.assert_allclose(own.reconstruct(images).astype(int), back.astype(int), atol=2)


def test_every_call_works_in_latents(model, images):
    four = images[:4]
    for drawn in (
        model.sample(num_images=4, guidance_scale=2.0),
        model.sample(num_images=4, sampler="dpmpp_2m", steps=3, labels=[3]),
        model.img2img(four, sigma=1.0),
        model.interpolate(four[0], four[1], 4, label=2),
        model.reconstruct(four, steps=3, rtol=0.1, atol=0.1),
    ):
        assert (drawn.dtype, drawn.shape) == (np.uint8, four.shape)
    assert model.trajectory(2).shape == (5, 2, 8, 8, 1)
    assert model.noise([0, 1]).shape == (2, 4, 4, 4)
    with pytest.raises(UserError, match=r"bits_per_dim counts the bits of pixel values, and this model's x is latents"):
        model.bits_per_dim(four)


def test_inpainting_changes_nothing_outside_the_mask(model, images):
    masks = np.zeros((4, 8, 8), bool)
    masks[:, 3:6, 2:7] = True  # no multiple of the latents' places
    painted = model.inpaint(images[:4], masks)
    np.testing.assert_array_equal(painted[~masks], images[:4][~masks])
    assert (painted[masks] != images[:4][masks]).mean() > 0.3
    with pytest.raises(UserError, match=r"masks are bool \[4, 4, 4\]; they must be bool \[4, 8, 8\]"):
        model.inpaint(images[:4], masks[:, ::2, ::2])


def test_a_latent_is_painted_where_any_of_its_pixels_is(model):
    mask = np.zeros((1, 8, 8, 1), bool)
    mask[0, 2, 5] = True
    expected = np.zeros((4, 4), bool)
    expected[1, 2] = True
    np.testing.assert_array_equal(model.task.space.mask(mask)[0, ..., 0], expected)


@pytest.mark.slow
def test_the_runs_folder_is_complete(model, folder, tmp_path):
    """Copied elsewhere, without the autoencoder's own run, and exported, it draws the same images to the bit."""
    drawn = model.sample(num_images=6)
    shutil.copytree(folder / "ldm", tmp_path / "moved")
    (folder / "vae").rename(folder / "hidden")
    try:
        np.testing.assert_array_equal(jdiff.load(tmp_path / "moved").sample(num_images=6), drawn)
        model.export(tmp_path / "exported")
        np.testing.assert_array_equal(jdiff.load(tmp_path / "exported").sample(num_images=6), drawn)
        again = (config("digits_ldm"), *SHORT, "--config.space.autoencoder=vae", "--workdir=ldm")
        result = run_here(*again, "--config.train.steps=65", cwd=folder)
        assert result.status == 0, result.err
        assert "trained to step 65" in result.out
    finally:
        (folder / "hidden").rename(folder / "vae")
    shutil.rmtree(tmp_path / "moved" / "autoencoder")
    with pytest.raises(UserError, match=r"autoencoder/weights.safetensors is missing, this run's autoencoder"):
        jdiff.load(tmp_path / "moved")


def test_an_autoencoder_is_read_without_what_its_training_needs(folder, tmp_path):
    """Neither the run that its decoder was trained from nor the files of LPIPS."""
    vae, training = jdiff.load(folder / "vae"), {"decoder_only": True, "adversary": "hinge", "losses": ("lpips",)}
    vae.config.autoencoder.update(training, lpips_weights=("gone/vgg16.pth", "gone/vgg.pth"))
    vae.config.train.initial = "gone"
    vae.export(tmp_path / "vae")
    black = np.zeros((1, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(jdiff.load(tmp_path / "vae").encode(black), jdiff.load(folder / "vae").encode(black))


def test_an_autoencoders_weights_lie_once_in_the_runs_folder(folder):
    names = {file.name for file in (folder / "ldm" / "autoencoder").iterdir()}
    assert names >= {"config.json", "weights.safetensors"}
    (latest,) = sorted((folder / "ldm" / "checkpoints").glob("[0-9]*"))[-1:]
    assert "autoencoder" not in (latest / "weights" / "_METADATA").read_text()
    own = jdiff.load(folder / "ldm" / "autoencoder")
    assert own.config.task == "autoencoder"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flip", "sampled"),
    [(False, False), (True, False), (True, True)],
)
def test_prepared_latents_train_the_same_model(folder, tmp_path, flip, sampled):
    """To the bit, latents being means or drawn anew at every step by the step's key; mirrored copies take the place of
    mirrored images.
    """
    more = (*SHORT, "--config.train.steps=10", "--config.log.every=1", f"--config.data.flip={flip}")
    more = (*more, f"--config.space.autoencoder={folder / 'vae'}", f"--config.space.sampled={sampled}")
    result = run_here("--mode=prepare", config("digits_ldm"), *more, "--out=prepared", cwd=tmp_path)
    assert result.status == 0, result.err
    key = "--config.space.prepared=prepared"
    assert key in result.out
    for name, given in (("encoded", ()), ("read", (key,))):
        result = run_here(config("digits_ldm"), *more, *given, f"--workdir={name}", cwd=tmp_path)
        assert result.status == 0, result.err
    encoded, read = tmp_path / "encoded", tmp_path / "read"
    assert len(losses(read)) == 10
    assert losses(encoded) == losses(read)
    assert losses(encoded, "holdout_loss") == losses(read, "holdout_loss")
    if sampled:
        result = run_here(config("digits_ldm"), *more, "--config.space.sampled=False", "--workdir=means", cwd=tmp_path)
        assert result.status == 0, result.err
        assert losses(tmp_path / "means") != losses(read)


@pytest.mark.slow
def test_prepared_latents_are_of_the_autoencoder_that_the_run_keeps(folder, tmp_path):
    shutil.copytree(folder / "vae", tmp_path / "vae")
    ldm = (config("digits_ldm"), *SHORT, "--config.space.autoencoder=vae")
    assert run_here("--mode=prepare", *ldm, "--out=latents", cwd=tmp_path).status == 0
    ldm = (*ldm, "--config.space.prepared=latents", "--workdir=ldm")
    assert run_here(*ldm, "--config.train.steps=2", cwd=tmp_path).status == 0
    shutil.rmtree(tmp_path / "vae")
    result = run_here(*ldm, "--config.train.steps=3", cwd=tmp_path)
    assert result.status == 0, result.err


@pytest.mark.slow
def test_prepared_latents_of_something_else_are_refused(folder, tmp_path):
    ldm = (config("digits_ldm"), *SHORT, "--config.train.steps=2")
    of_vae = (*ldm, f"--config.space.autoencoder={folder / 'vae'}")
    assert run_here("--mode=prepare", *of_vae, "--out=latents", cwd=tmp_path).status == 0
    prepared = "--config.space.prepared=latents"
    other = ("--config.autoencoder.bottleneck=fsq", "--config.train.steps=1")
    assert run_here(config("digits_vae"), *SMALL, *other, "--workdir=other", cwd=tmp_path).status == 0
    said = refusal(*ldm, "--config.space.autoencoder=other", prepared, "--workdir=a", cwd=tmp_path)
    assert "latents holds latents of another autoencoder; prepare them again: --mode=prepare" in said
    said = refusal(*of_vae, prepared, "--config.data.flip=True", "--workdir=b", cwd=tmp_path)
    assert "was prepared with data.flip=False, and this is True" in said
    said = refusal(*of_vae, prepared, "--config.data.quarter_turns=True", "--workdir=c", cwd=tmp_path)
    assert "data.quarter_turns=True: prepared latents are of whole images as they are" in said
    said = refusal(*of_vae, "--config.space.prepared=vae", "--workdir=d", cwd=tmp_path)
    assert "holds no latents.json, as latents of --mode=prepare do" in said


@pytest.mark.slow
def test_an_encoder_that_takes_too_much_memory_reads_a_batch_in_parts(folder, tmp_path):
    """As the advice says: in preparing, in measuring the latents and at every step."""
    features = FirstStage.features

    def limited(self, weights, images, dropout=None):
        if len(images) > 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        return features(self, weights, images, dropout)

    ldm = (config("digits_ldm"), *SHORT, "--config.train.steps=2", f"--config.space.autoencoder={folder / 'vae'}")
    with mock.patch.object(FirstStage, "features", limited):
        prepare = ("--mode=prepare", "--out=prepared")
        said = refusal(*prepare, *ldm, cwd=tmp_path)
        assert "out of memory where train.batch_size=16 images are encoded: set train.accumulate=2 " in said
        for mode in (prepare, ("--workdir=run",)):
            result = run_here(*mode, *ldm, "--config.train.accumulate=2", cwd=tmp_path)
            assert result.status == 0, result.err


def colour_folder(top: Path, side: int = 8) -> Path:
    rng = np.random.default_rng(0)
    (top / "photos").mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(top / "photos" / f"{number}.png")
    return top / "photos"


def test_bad_autoencoders_are_told_in_one_line(folder, tmp_path):
    ldm = (config("digits_ldm"), *SHORT, "--config.train.steps=2", "--workdir=run")
    of = "--config.space.autoencoder="
    said = refusal(*ldm, f"{of}nowhere", cwd=tmp_path)
    assert "nowhere holds no config.json: give the folder of a run of task='autoencoder'" in said
    said = refusal(*ldm, of, cwd=tmp_path)
    assert "model.space='latents' needs an autoencoder: set space.autoencoder" in said
    said = refusal(*ldm, f"{of}{folder / 'ldm'}", cwd=tmp_path)
    assert "is a run of task='diffusion'; give one of task='autoencoder'" in said
    photos = (
        "--config.data.name=folder",
        f"--config.data.dir={colour_folder(tmp_path)}",
        "--config.model.conditions=()",
    )
    vae = f"{of}{folder / 'vae'}"
    said = refusal(*ldm, vae, *photos, cwd=tmp_path)
    assert "is of images of 1 channels, and these have 3: set data.channels=1, or train" in said
    assert run_here(*ldm, vae, *photos, "--config.data.channels=1", cwd=tmp_path).status == 0
    said = refusal(*ldm, vae, *photos, "--config.data.channels=1", "--config.data.low=10", "--workdir=b", cwd=tmp_path)
    assert "was trained with data.range=(0.0, 255.0), and these images have (10.0, 255.0)" in said
    said = refusal(
        *ldm, vae, *photos, "--config.data.channels=1", "--config.data.image_size=9", "--workdir=c", cwd=tmp_path
    )
    assert "images of 9x9 do not divide by 2, as an autoencoder of 2 levels halves them: set data.image_size=8" in said
    assert not any((tmp_path / name).exists() for name in "bc")


def test_too_small_tiles_are_told(folder):
    for run in (folder / "ldm", folder / "vae"):
        with pytest.raises(UserError, match=r"space.tile=4 is too small for tiles that overlap: take at least 8"):
            jdiff.model.restore(jdiff.config.override(jdiff.config.of_run(run), ["--config.space.tile=4"]), run)


def test_an_autoencoder_decodes_in_tiles_too(folder, images):
    """As the diffusion model of its latents does."""
    own = jdiff.config.override(jdiff.config.of_run(folder / "vae"), ["--config.space.tile=8"])
    large = images[:2].repeat(3, axis=1).repeat(3, axis=2)
    with pytest.warns(UserWarning, match="images of 24x24 by a model that was trained on 8x8"):
        whole, tiled = (
            one.in_size((24, 24)) for one in (jdiff.load(folder / "vae"), jdiff.model.restore(own, folder / "vae"))
        )
    latents = whole.encode(large)
    np.testing.assert_array_equal(tiled.encode(large), latents)
    assert 0 < np.abs(tiled.decode(latents).astype(int) - whole.decode(latents)).mean() < 20


def test_missing_statistics_are_told(folder, tmp_path):
    shutil.copytree(folder / "ldm", tmp_path / "ldm")
    held = json.loads((tmp_path / "ldm" / "config.json").read_text())
    held["space"]["mean"] = []
    (tmp_path / "ldm" / "config.json").write_text(json.dumps(held))
    with pytest.raises(UserError, match=r"space.mean=\(\) and space.std=.*a number for each of 4 channels of latents"):
        jdiff.load(tmp_path / "ldm")


@pytest.mark.slow
def test_image_conditions_are_given_to_latents_as_channels(folder, tmp_path):
    """Four pixels of a thumbnail to each place of the latents."""
    more = (*SHORT, "--config.train.steps=3", f"--config.space.autoencoder={folder / 'vae'}", "--workdir=run")
    given = ("--config.model.conditions=('image',)", "--config.condition.image.view=thumbnail")
    assert run_here(config("digits_ldm"), *more, *given, cwd=tmp_path).status == 0
    model = jdiff.load(tmp_path / "run")
    assert model.sample(num_images=2).shape == (2, 8, 8, 1)
    assert model.params["network"]["conditioner"]["embedders_image"]["null"].shape == (4,)


@pytest.mark.parametrize(("side", "shape"), [(8, (12, 20)), (5, (5, 17)), (16, (16, 16))])
def test_tiles_of_a_local_function_are_the_whole(side, shape):
    """A decoder that sees each place alone gives the same in tiles as in one."""
    z = jax.random.normal(jax.random.key(0), (2, *shape, 3))
    enlarge = lambda z: jnp.repeat(jnp.repeat(z, 2, axis=1), 2, axis=2)  # noqa: E731
    tiled = in_tiles(enlarge, z, side=side, overlap=2, scale=2)
    np.testing.assert_allclose(tiled, enlarge(z), atol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_where_its_autoencoder_is_called_otherwise(folder, tmp_path):
    shutil.copytree(folder / "ldm", tmp_path / "ldm")
    shutil.copytree(folder / "vae", tmp_path / "moved_vae")
    again = (config("digits_ldm"), *SHORT, "--config.train.steps=70", "--workdir=ldm")
    result = run_here(*again, "--config.space.autoencoder=moved_vae", cwd=tmp_path)
    assert result.status == 0, result.err
    other = ("--config.train.steps=1", "--config.seed=5", "--workdir=other_vae")
    assert run_here(config("digits_vae"), *SMALL, *other, cwd=tmp_path).status == 0
    said = refusal(*again, "--config.space.autoencoder=other_vae", cwd=tmp_path)
    assert "other_vae holds another autoencoder than" in said


@pytest.mark.slow
def test_another_decoder_of_the_same_latents_is_taken_and_another_encoder_refused(model, folder, tmp_path):
    vae = jdiff.load(folder / "vae")
    for name in ("encoder", "decoder"):
        own = vae.params["autoencoder"]
        params = {"autoencoder": {**own, name: jax.tree.map(lambda leaf: 1.1 * leaf, own[name])}}
        changed = Weights(params, {"mse": jnp.float32(0.5)})
        vae.with_weights(changed, step=9).export(tmp_path / f"other_{name}")
    draw = ("--mode=sample", f"--workdir={folder / 'ldm'}", "--out=drawn", "--config.sample.num_images=4")
    other = f"--config.space.autoencoder={tmp_path / 'other_decoder'}"
    result = run_here(*draw, other, cwd=tmp_path)
    assert result.status == 0, result.err
    assert f"decodes by {tmp_path / 'other_decoder'}, whose encoder is this model's and whose decoder is" in result.out
    drawn = np.load(tmp_path / "drawn" / "samples.npz")["images"]
    assert np.abs(drawn.astype(int) - model.sample(4)).mean() > 0.1
    assert run_here("--mode=export", f"--workdir={folder / 'ldm'}", other, "--out=whole", cwd=tmp_path).status == 0
    whole = jdiff.load(tmp_path / "whole")
    np.testing.assert_array_equal(whole.sample(4), drawn)
    np.testing.assert_array_equal(whole.encode(drawn), model.encode(drawn))
    said = refusal(*draw, "--config.space.autoencoder=other_encoder", cwd=tmp_path)
    assert f"space.autoencoder=other_encoder holds another autoencoder than {folder / 'ldm' / 'autoencoder'}" in said


def test_the_way_from_latents_to_pixels_says_nothing_of_what_latents_are():
    """Diffusers' autoencoders have a convolution before their decoder, which is trained with it."""

    def own(**params):
        return {AUTOENCODER: {"params": {"autoencoder": {"encoder": 1, "decoder": 2, **params}}, "state": {"mse": 3}}}

    assert meaning(own(quant=4, post_quant=5)) == meaning(own(quant=4, post_quant=6))
    assert meaning(own(quant=4)) != meaning(own(quant=5))
    assert decoding(own(quant=4, post_quant=5)) == {"decoder": 2, "post_quant": 5}


@pytest.mark.slow
def test_a_run_goes_on_beside_a_decoder_trained_for_its_latents(folder, tmp_path):
    """Latents prepared by the one serve with the other, being the same; a new run takes the new decoder."""
    shutil.copytree(folder / "ldm", tmp_path / "ldm")
    start = (*SMALL, "--config.train.steps=2", f"--config.train.initial={folder / 'vae'}", "--workdir=fine")
    assert run_here(config("digits_vae"), *start, "--config.autoencoder.decoder_only=True", cwd=tmp_path).status == 0
    of_vae, of_fine = (f"--config.space.autoencoder={place}" for place in (folder / "vae", "fine"))
    assert run_here("--mode=prepare", config("digits_ldm"), *SHORT, of_vae, "--out=latents", cwd=tmp_path).status == 0
    again = (config("digits_ldm"), *SHORT, of_fine, "--config.space.prepared=latents", "--config.train.steps=62")
    result = run_here(*again, "--workdir=ldm", cwd=tmp_path)
    assert result.status == 0, result.err
    assert "space.autoencoder=fine has another decoder than ldm/autoencoder, which this run keeps: " in result.out
    result = run_here(*again, f"--config.train.initial={folder / 'ldm'}", "--workdir=new", cwd=tmp_path)
    assert result.status == 0, result.err
    assert f"has the encoder of {folder / 'ldm' / 'autoencoder'} and another decoder, which is taken" in result.out
    kept, fine, first = (
        jdiff.load(place).params["autoencoder"]["decoder"]["last"]["kernel"]
        for place in (tmp_path / "new" / "autoencoder", tmp_path / "fine", folder / "vae")
    )
    np.testing.assert_array_equal(kept, fine)
    assert not np.array_equal(kept, first)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [0, 2])
def test_fine_tuning_keeps_the_latents_that_were_learned(folder, tmp_path, lora):
    start = (config("digits_ldm"), *SHORT, "--config.train.steps=2", f"--config.train.initial={folder / 'ldm'}")
    own = ("--config.space.autoencoder=", f"--config.lora.rank={lora}", "--config.data.flip=True", "--workdir=fine")
    result = run_here(*start, *own, cwd=tmp_path)
    assert result.status == 0, result.err
    fine, first = (jdiff.load(where).config.space for where in (tmp_path / "fine", folder / "ldm"))
    assert (fine.mean, fine.std) == (first.mean, first.std)


def test_other_sizes_than_the_trained_one(model):
    with pytest.warns(UserWarning, match="images of 16x24 by a model that was trained on 8x8"):
        wide = model.sample(num_images=2, size=(16, 24), steps=2)
    assert wide.shape == (2, 16, 24, 1)
    assert model.sample(num_images=2, steps=2).shape == (2, 8, 8, 1)
    with pytest.raises(UserError, match=r"sample.size=\(9, 16\): sides must be multiples of 2 for this network"):
        model.sample(num_images=2, size=(9, 16))


def test_tiles_of_a_decoder_with_norms_have_no_seams():
    """A brightness that grows from left to right makes each tile's own statistics others than the whole's."""
    network = Autoencoder(
        features=4, layout=Layout(channels=8, channel_mults=(1, 2), blocks_per_level=1, middle_attention=False)
    )
    stage = FirstStage(network, Plain(4), Pixels((16, 16, 3), Range("float32", -100.0, 100.0)), tile=64)
    rows, columns = np.mgrid[:64, :64] / 64
    own = stage.init(jax.random.key(0))
    z = jnp.asarray(np.stack([columns, rows, columns * rows, columns**2], axis=-1)[None], jnp.float32)
    decode = partial(replace(stage, tile=0).decode, own)
    levels = lambda decode: 127.5 * np.asarray(jax.jit(decode)(z)).clip(-1, 1)  # noqa: E731
    space = Latents(first_stage=stage, mean=(0.0,) * 4, std=(1.0,) * 4)
    tiled = levels(lambda z: space.decode(Weights({}, as_state(own)), z) / 100)
    alike = levels(lambda z: with_norm_statistics(decode, norm_statistics(decode, z[:, ::2, ::2]))(z))
    alone = levels(partial(in_tiles, decode, side=32, overlap=8, scale=2))
    seam = lambda apart: np.abs(np.diff(apart, axis=2)).max()  # noqa: E731
    assert seam(alone - levels(decode)) > 3
    assert seam(tiled - alike) < 1


def test_half_precision_decodes_the_same_within_its_digits(folder):
    half = jdiff.config.override(jdiff.config.of_run(folder / "ldm"), ["--config.space.dtype=bfloat16"])
    whole, rounded = (
        model.sample(num_images=4, steps=2).astype(int)
        for model in (jdiff.load(folder / "ldm"), jdiff.model.restore(half, folder / "ldm"))
    )
    assert 0 < np.abs(whole - rounded).mean() < 3


@pytest.mark.slow
def test_a_copy_that_a_failed_start_left_is_replaced(folder, tmp_path):
    """It is another autoencoder's, of a run that never began."""
    other = (config("digits_vae"), *SMALL, "--config.train.steps=1", "--config.seed=5", "--workdir=other")
    assert run_here(*other, cwd=tmp_path).status == 0
    shutil.copytree(folder / "ldm" / "autoencoder", tmp_path / "run" / "autoencoder")
    latents = (config("digits_ldm"), *SHORT, "--config.train.steps=1", "--config.space.autoencoder=other")
    result = run_here(*latents, "--workdir=run", cwd=tmp_path)
    assert result.status == 0, result.err
    kept, given, left = (
        jdiff.load(place).params["autoencoder"]["decoder"]["first"]["kernel"]
        for place in (tmp_path / "run" / "autoencoder", tmp_path / "other", folder / "ldm" / "autoencoder")
    )
    np.testing.assert_array_equal(kept, given)
    assert not np.array_equal(kept, left)


@pytest.mark.slow
def test_what_guides_must_live_in_the_same_latents(folder, tmp_path):
    short = (*SHORT, "--config.train.steps=1")
    assert run_here(config("digits"), *short, "--workdir=pixels", cwd=tmp_path).status == 0
    other = (config("digits_vae"), *SMALL, "--config.train.steps=1", "--config.seed=5", "--workdir=other_vae")
    assert run_here(*other, cwd=tmp_path).status == 0
    theirs = (config("digits_ldm"), *short, "--config.space.autoencoder=other_vae", "--workdir=other")
    assert run_here(*theirs, cwd=tmp_path).status == 0
    model = jdiff.load(folder / "ldm")
    for name, said in (("pixels", "this model's x is 'latents'"), ("other", "the latents of another autoencoder")):
        guided = {"method": "autoguidance", "weak_workdir": str(tmp_path / name), "guidance_scale": 2.0}
        with pytest.raises(UserError, match=said):
            model.sample(2, steps=2, **guided)
    itself = {"method": "autoguidance", "weak_workdir": str(folder / "ldm"), "guidance_scale": 2.0}
    assert model.sample(2, steps=2, **itself).shape == (2, 8, 8, 1)


@pytest.mark.slow
def test_latents_of_several_shapes(folder, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(48):
        size = ((8, 16), (16, 8), (12, 12))[number % 3]
        Image.fromarray(rng.integers(0, 255, size, np.uint8)).save(tmp_path / "images" / f"{number}.png")
    data = ("--config.data.name=folder", "--config.data.dir=images", "--config.data.channels=1")
    shapes = (*data, "--config.data.image_size=12", "--config.data.buckets=3", "--config.model.conditions=()")
    latents = (config("digits_ldm"), *SHORT, *shapes, f"--config.space.autoencoder={folder / 'vae'}")
    result = run_here(*latents, "--config.train.steps=4", "--workdir=run", cwd=tmp_path)
    assert result.status == 0, result.err
    autoencoder = (config("digits_vae"), *SMALL, *shapes, "--config.train.steps=4", "--config.train.sample_every=4")
    result = run_here(*autoencoder, "--workdir=vae", cwd=tmp_path)
    assert result.status == 0, result.err

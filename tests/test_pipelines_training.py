"""Training that starts from a pipeline of diffusers: whole or by low-rank parts, and back out."""

import json
import shutil

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

import jdiff
from jdiff import interop
from jdiff.data.frozen_text import FrozenEncoder
from tests import pipelines
from tests.conftest import CACHE, config, refusal, run_here
from tests.pipelines import TEXTS, drawn, levels, opened

FEW = (
    "--config.train.batch_size=4",
    "--config.train.learning_rate=0.01",
    "--config.train.warmup_images=0",
    "--config.train.ema_halflife_images=0",
    "--config.train.holdout_images=4",
    "--config.train.sample_every=0",
    "--config.network.dtype=float32",
    "--config.network.remat=False",
    "--config.data.image_size=0",  # the pipeline's
    "--config.log.every=1",
    f"--config.machine.compilation_cache={CACHE}",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("training") / "pipeline", levels=1)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Images of several sizes with captions."""
    folder = tmp_path_factory.mktemp("captioned")
    rng, lines = np.random.default_rng(0), []
    for number in range(12):
        pixels = rng.integers(0, 256, (16 + number, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": TEXTS[number % 2]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def train(*arguments, cwd, workdir="run"):
    result = run_here(config("stable_diffusion"), *FEW, *arguments, f"--workdir={workdir}", cwd=cwd)
    assert result.status == 0, result.err
    return cwd / workdir, result


def weights(network):
    return {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(network).items()}


def null_of(folder):
    encoder = FrozenEncoder(str(folder / "text_encoder"), 77, padding="read")
    return encoder.features([""])["features"][0]


NULL = "conditioner/embedders_text/null"


def check(run, folder, captioned, tmp_path):
    """What the run learned is where the pipeline has weights alone, and diffusers draws by it what it draws."""
    ours = jdiff.load(run)
    before, after = weights(interop.load(folder / "unet")[1]), weights(ours.params["network"])
    null = after.pop(NULL)
    assert ours.config.data.shape == (16, 16, 3)
    assert ours.config.model.conditions == ("text",)
    moved = {name for name, array in after.items() if np.abs(array - before[name]).max() > 1e-4}
    assert any("cross_0" in name for name in moved)
    np.testing.assert_allclose(null, null_of(folder), atol=1e-5)  # not trained, whatever is dropped
    ours.export(tmp_path / "out", like=folder)
    z = pipelines.noise(2, 4)
    theirs = levels(drawn(opened(tmp_path / "out"), z, texts=TEXTS, guidance_scale=7.5))
    settings = {"sampler": "ddim", "ladder": "leading", "steps_offset": 1, "final_sigma": "sigma_min"}
    drawn_here = ours.sample(noise=z, steps=10, texts=TEXTS, guidance_scale=7.5, **settings)
    assert np.abs(drawn_here.astype(int) - theirs).max() <= 1
    untrained = levels(drawn(opened(folder), z, texts=TEXTS, guidance_scale=7.5))
    assert np.abs(untrained.astype(int) - theirs).max() > 10


@pytest.mark.slow
def test_low_rank_parts_beside_a_pipeline(folder, captioned, tmp_path):
    """A captioned folder and the pipeline are all that the command is given."""
    start = (f"--config.data.dir={captioned}", f"--config.train.initial={folder}", "--config.lora.rank=2")
    run, result = train(*start, "--config.train.steps=3", cwd=tmp_path)
    assert f"train.initial={folder} is a StableDiffusionPipeline: the process, the latents and the" in result.out
    assert "was trained for model.schedule='scaled_linear' and model.prediction='eps', says " in result.out
    check(run, folder, captioned, tmp_path)
    settings = json.loads((run / "config.json").read_text())
    assert settings["model"]["beta_end"] == pytest.approx(0.004)
    assert settings["space"]["std"] == [pytest.approx(1 / 0.3)] * 4
    assert settings["condition"]["text"]["null"] == "empty"


@pytest.mark.slow
def test_all_weights_of_a_pipeline_and_the_run_goes_on(folder, captioned, tmp_path):
    """It goes on without the pipeline, and its weights decay, but for the empty text."""
    own = shutil.copytree(folder, tmp_path / "own")
    start = (f"--config.data.dir={captioned}", f"--config.train.initial={own}", "--config.train.weight_decay=0.5")
    run, _ = train(*start, "--config.train.steps=2", cwd=tmp_path)
    shutil.rmtree(own)
    run, result = train(*start, "--config.train.steps=4", cwd=tmp_path)
    assert "training: steps 2 to 4" in result.out
    check(run, folder, captioned, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("make", [pipelines.dit, pipelines.ldm])
def test_pipelines_without_texts(make, captioned, tmp_path):
    """Classes are known by the pipeline's names; others are new."""
    folder = make(tmp_path / "pipeline")
    classes = tmp_path / "images"
    for number, file in enumerate(sorted(captioned.glob("*.png"))):
        place = classes / ["class 7, no. 7", "another"][number % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    start = (f"--config.data.dir={classes}", f"--config.train.initial={folder}", "--config.model.conditions=()")
    run, result = train(*start, "--config.train.steps=2", "--config.train.learning_rate=0", cwd=tmp_path)
    before, after = (weights(jdiff.load(place).params["network"]) for place in (folder, run))
    if make is pipelines.dit:
        assert "embedders_label/table: 1 of 2 classes are new" in result.out
        table = "conditioner_0/embedders_label/table"
        np.testing.assert_array_equal(after[table][[1, 2]], before[table][[7, 1000]])
    for name in before:
        if "embedders_label" not in name:
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert jdiff.load(run).sample(2, steps=3).shape == (2, 16, 16, 3)


@pytest.mark.slow
def test_a_run_keeps_its_text_encoder(folder, captioned, tmp_path):
    """Moved, with the encoder's own folder deleted, it draws the same images to the bit and trains on; another encoder
    is refused.
    """
    own = shutil.copytree(folder, tmp_path / "own")
    small = (
        f"--config.data.dir={captioned}",
        "--config.data.image_size=16",
        "--config.network.channels=8",
        "--config.network.channel_mults=(1,)",
        "--config.network.attention_levels=()",
        "--config.network.middle_attention=False",
        "--config.condition.text.encoder=frozen",
        f"--config.condition.text.path={own / 'text_encoder'}",
        "--config.condition.text.length=12",
    )
    run, result = train(*small, "--config.train.steps=1", cwd=tmp_path)
    files = [file for part in ("text_encoder", "tokenizer") for file in (run / part).iterdir()]
    size = sum(file.stat().st_size for file in files) / 1e6
    assert f"the text encoder of {own / 'text_encoder'} ({size:,.1f} MB with its tokenizer) is kept in" in result.out
    drawn = jdiff.load(run).sample(texts=TEXTS, steps=2)
    shutil.rmtree(own)
    moved = run.rename(tmp_path / "moved")
    np.testing.assert_array_equal(jdiff.load(moved).sample(texts=TEXTS, steps=2), drawn)
    _, result = train(*small, "--config.train.steps=2", cwd=tmp_path, workdir="moved")
    assert "training: steps 1 to 2" in result.out
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(folder / part, own / part)
    (own / "tokenizer" / "tokenizer_config.json").write_text("{}")
    line = refusal(config("stable_diffusion"), *FEW, *small, "--workdir=moved", cwd=tmp_path)
    assert "holds another text encoder than" in line


@pytest.mark.slow
def test_the_empty_text_stands_in_for_a_dropped_one_in_a_model_trained_anew(folder, captioned, tmp_path):
    run, _ = train(
        f"--config.data.dir={captioned}",
        "--config.data.image_size=16",
        "--config.network.channels=8",
        "--config.network.channel_mults=(1,)",
        "--config.network.attention_levels=(0,)",
        "--config.network.attention=transformer",
        "--config.condition.text.encoder=frozen",
        f"--config.condition.text.path={folder / 'text_encoder'}",
        "--config.condition.text.length=77",
        "--config.condition.text.projected=False",
        "--config.condition.text.padding=read",
        "--config.condition.text.null=empty",
        "--config.train.steps=2",
        cwd=tmp_path,
    )
    null = weights(jdiff.load(run).params["network"])[NULL]
    np.testing.assert_allclose(null, null_of(folder), atol=1e-5)


def test_a_dropped_text_is_what_the_config_says(captioned, tmp_path):
    """The empty text is for features that go to the network as they are."""
    line = refusal(
        config("stable_diffusion"),
        *FEW,
        f"--config.data.dir={captioned}",
        "--config.data.image_size=16",
        "--config.condition.text.null=empty",
        cwd=tmp_path,
    )
    assert "condition.text.null='empty' is for the features of a frozen encoder as they are: set" in line

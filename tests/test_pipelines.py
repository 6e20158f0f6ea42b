"""Pipelines of diffusers: the same images from the same latents, there and back, and what is refused."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import jdiff
from jdiff.common.errors import UserError
from jdiff.from_config.sampling import SAMPLERS
from jdiff.interop import pipelines as interop_pipelines
from tests import pipelines
from tests.conftest import refusal
from tests.pipelines import TEXTS, diffusers, drawn, levels, opened

KINDS = {"sd": pipelines.stable_diffusion, "dit": pipelines.dit, "ldm": pipelines.ldm}
CHANNELS = {"sd": 4, "dit": 4, "ldm": 3}
ASKED = {"sd": {"texts": TEXTS}, "dit": {"labels": [3, 7]}, "ldm": {}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: make(root / kind) for kind, make in KINDS.items()}


@pytest.fixture(scope="module")
def models(folders):
    return {kind: jdiff.load(folder) for kind, folder in folders.items()}


def noise(kind):
    return pipelines.noise(2, CHANNELS[kind])


def theirs(kind, folder, guidance_scale):
    call = {} if kind == "ldm" else {"guidance_scale": guidance_scale}
    return levels(drawn(opened(folder), noise(kind), **ASKED[kind], **call))


def settings_of(folder):
    """The model's settings that draw as the pipeline's scheduler does."""
    keys = interop_pipelines.read(folder).sampling
    return {name.removeprefix("sample."): value for name, value in keys.items() if name.startswith("sample.")}


def differ(ours, others):
    return int(np.abs(ours.astype(int) - others).max())


@pytest.mark.parametrize(("kind", "scale"), [("sd", 1.0), ("sd", 7.5), ("dit", 7.5), ("ldm", None)])
def test_images_are_those_of_the_pipeline_by_ddim(folders, models, kind, scale):
    """Its scheduler's steps, offset and last step are the model's own settings."""
    others = theirs(kind, folders[kind], scale)
    ours = models[kind].sample(noise=noise(kind), steps=10, **ASKED[kind], guidance_scale=scale)
    assert others.std() > 40
    assert differ(ours, others) <= 1


def with_scheduler(folder, to, scheduler, **settings):
    """A copy of the pipeline with another scheduler of the same process."""
    folder = shutil.copytree(folder, to)
    made = scheduler.from_config({**opened(folder).scheduler.config, **settings})
    made.save_pretrained(folder / "scheduler")
    pipelines.with_index(folder, scheduler=["diffusers", scheduler.__name__])
    return folder


@pytest.mark.parametrize(
    ("kind", "scheduler", "spacing"),
    [
        ("sd", "Euler", "leading"),
        ("dit", "Euler", "linspace"),
        ("ldm", "Euler", "trailing"),
        ("sd", "DDIM", "trailing"),
        ("ldm", "DDIM", "trailing"),
    ],
)
def test_images_are_those_of_other_schedulers(folders, models, kind, scheduler, spacing, tmp_path):
    """But for linspace by DDIM, where they step by T // N, whatever the distance (tests/test_parity.py)."""
    kind_of_scheduler = getattr(diffusers, {"Euler": "EulerDiscreteScheduler", "DDIM": "DDIMScheduler"}[scheduler])
    folder = with_scheduler(folders[kind], tmp_path / kind, kind_of_scheduler, timestep_spacing=spacing)
    settings = settings_of(folder) | {"steps": 10, "guidance_scale": None if kind == "ldm" else 7.5}
    assert (settings["sampler"], settings["ladder"]) == (scheduler.lower(), spacing)
    call, pipeline = {} if kind == "ldm" else {"guidance_scale": 7.5}, opened(folder)
    pipeline = pipelines.with_latents_kept(pipeline) if kind == "dit" else pipeline
    others, start = levels(drawn(pipeline, noise(kind), **ASKED[kind], **call)), noise(kind)
    if scheduler == "Euler" and kind != "sd":
        # The process begins with sqrt(1 + sigma^2) z; their LDM with sigma z, and their DiT with z: from the same x.
        sigma = models[kind].request(2, **settings, **ASKED[kind]).sigmas[0]
        start = start * np.float32({"ldm": sigma, "dit": 1}[kind] / np.sqrt(1 + sigma**2))
    assert differ(models[kind].sample(noise=start, **settings, **ASKED[kind]), others) <= 1


def test_v_prediction_and_another_table(tmp_path):
    """The process is what the scheduler's file says."""
    scheduler = {"beta_schedule": "linear", "beta_end": 0.01, "timestep_spacing": "trailing"}
    folder = pipelines.stable_diffusion(tmp_path / "v", prediction="v_prediction", scheduler=scheduler)
    model = jdiff.load(folder)
    assert (model.config.model.prediction, model.config.model.schedule) == ("v", "linear")
    ours = model.sample(noise=noise("sd"), steps=10, texts=TEXTS)  # guided by 7.5, the pipeline's default
    assert differ(ours, theirs("sd", folder, 7.5)) <= 1


def test_a_dropped_text_is_the_empty_text(models):
    """As in the pipeline, whose images without guidance are those of the text "" (scale 0)."""
    with_text = models["sd"].sample(noise=noise("sd"), steps=10, texts=TEXTS, guidance_scale=0.0)
    empty = models["sd"].sample(noise=noise("sd"), steps=10, texts=["", ""], guidance_scale=7.5)
    assert differ(with_text, empty) <= 1
    assert differ(with_text, models["sd"].sample(noise=noise("sd"), steps=10, texts=TEXTS, guidance_scale=7.5)) > 40


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in ("flow_map", "consistency")])
def test_every_sampler_draws_from_text(models, sampler):
    images = models["sd"].sample(2, sampler=sampler, steps=4, texts=TEXTS, ladder="auto")
    assert images.shape == (2, 16, 16, 3)
    assert images.std() > 20


@pytest.mark.parametrize("kind", KINDS)
def test_back_out_diffusers_draws_the_same(folders, models, kind, tmp_path):
    models[kind].export(tmp_path / "out", like=folders[kind])
    np.testing.assert_array_equal(theirs(kind, tmp_path / "out", 7.5), theirs(kind, folders[kind], 7.5))
    names = {file.relative_to(folders[kind]) for file in folders[kind].rglob("*") if file.is_file()}
    assert names <= {file.relative_to(tmp_path / "out") for file in (tmp_path / "out").rglob("*") if file.is_file()}


@pytest.mark.parametrize("kind", ["sd", "dit"])
def test_a_run_s_folder_of_it_is_complete_by_itself(folders, models, kind, tmp_path):
    """The command samples from it, and says so where it is given the pipeline."""
    line = refusal("--mode=sample", f"--workdir={folders[kind]}", cwd=tmp_path)
    assert f"jdiff.load({str(folders[kind])!r}).export(FOLDER) makes a run's folder of it" in line
    moved = shutil.copytree(folders[kind], tmp_path / "moved")
    jdiff.load(moved).export(tmp_path / "run")
    shutil.rmtree(moved)
    asked = {"noise": noise(kind), "steps": 10, "guidance_scale": 7.5, **ASKED[kind]}
    np.testing.assert_array_equal(jdiff.load(tmp_path / "run").sample(**asked), models[kind].sample(**asked))


def test_classes_have_the_pipeline_s_names(models):
    assert models["dit"].config.data.class_names[7] == "class 7, no. 7"
    assert models["dit"].request(1, labels=["class 7, no. 7"]).labels.tolist() == [7]


def test_without_texts_torch_is_not_needed(folders, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torch", "transformers", "diffusers")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert jdiff.load(folders["ldm"]).config.model.space == "latents"


def test_what_is_left_out_is_said(folders, tmp_path):
    folder = shutil.copytree(folders["dit"], tmp_path / "checked")
    pipelines.with_index(folder, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    with pytest.warns(UserWarning, match="checked: safety_checker left out"):
        jdiff.load(folder)


def test_a_class_that_is_not_known_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["dit"], tmp_path / "other")
    pipelines.with_index(folder, _class_name="FluxPipeline")
    with pytest.raises(UserError, match="is a pipeline of the class 'FluxPipeline', which is not known here"):
        jdiff.load(folder)


def test_a_model_of_another_kind_is_not_written_as_this_pipeline(folders, models, tmp_path):
    other = pipelines.stable_diffusion(tmp_path / "v", prediction="v_prediction")
    with pytest.raises(UserError, match=r"model\.prediction is 'eps' here and 'v' there"):
        models["sd"].export(tmp_path / "out", like=other)
    with pytest.raises(UserError, match="is the pipeline itself: give another folder"):
        models["sd"].export(folders["sd"], like=folders["sd"])
    with pytest.raises(UserError, match=r"model\.schedule is 'scaled_linear' here and 'linear' there"):
        models["ldm"].export(tmp_path / "out", like=folders["dit"])
    assert not Path(tmp_path / "out").exists()


def test_texts_are_read_by_the_pipeline_s_encoder(folders, models, tmp_path):
    """A copy of it is the same; another is refused, whose features the network never saw."""
    copy = shutil.copytree(folders["sd"], tmp_path / "copy")
    models["sd"].export(tmp_path / "out", like=copy)
    encoder = opened(copy).text_encoder
    next(encoder.parameters()).data += 1
    encoder.save_pretrained(copy / "text_encoder")
    with pytest.raises(UserError, match="which is another encoder than"):
        models["sd"].export(tmp_path / "other", like=copy)

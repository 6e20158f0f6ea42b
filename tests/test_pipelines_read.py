"""What is read of a pipeline's folder: its parts, its process, its way of sampling; and what is refused."""

import json
import shutil

import pytest

from jdiff.common.errors import UserError
from jdiff.interop.pipelines import is_known, read
from jdiff.interop.schedulers import sampling_of
from tests import pipelines
from tests.pipelines import diffusers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("read") / "pipeline")


def test_what_a_pipeline_is(folder):
    what = read(folder)
    assert (what.kind, what.sides, what.channels, what.latents) == ("StableDiffusionPipeline", (16, 16), 3, 4)
    assert (what.mean, what.std) == (0.0, pytest.approx(1 / 0.3))
    assert (what.text_encoder, what.text_length, what.class_names) == (folder / "text_encoder", 77, ())
    assert what.process["schedule"] == "scaled_linear"
    assert what.process["beta_end"] == pytest.approx(0.004)
    assert (what.process["prediction"], what.process["learned_variance"]) == ("eps", False)
    assert what.sampling == {
        "sample.sampler": "ddim",
        "sample.ladder": "leading",
        "sample.steps_offset": 1,
        "sample.final_sigma": "sigma_min",
        "sample.guidance_scale": 7.5,
    }
    assert what.notes == ()


@pytest.mark.filterwarnings("ignore")  # they say that the file should be changed
def test_what_stable_diffusion_s_class_changes_of_its_scheduler(folder, tmp_path):
    """It sets steps_offset to 1 and clip_sample to False, whatever the file says."""
    other = shutil.copytree(folder, tmp_path / "other")
    with_json(other / "scheduler" / "scheduler_config.json", steps_offset=0, clip_sample=True)
    assert read(other).sampling == read(folder).sampling
    theirs = pipelines.opened(other).scheduler.config
    assert (theirs.steps_offset, theirs.clip_sample) == (1, False)


def test_a_network_of_classes_with_a_learned_variance(tmp_path):
    what = read(pipelines.dit(tmp_path / "dit"))
    assert what.process["learned_variance"]
    assert len(what.class_names) == 1000
    assert what.class_names[7] == "class 7, no. 7"
    pipelines.with_index(what.folder, id2label=None)
    assert read(what.folder).class_names[7] == "7"


@pytest.mark.parametrize(
    ("scheduler", "keys"),
    [
        (diffusers.DDIMScheduler(), {"sampler": "ddim", "ladder": "leading", "guidance.threshold": "static"}),
        (diffusers.DDIMScheduler(timestep_spacing="trailing", clip_sample=False), {"ladder": "trailing"}),
        (diffusers.DDPMScheduler(variance_type="fixed_large", clip_sample=False), {"variance": "large"}),
        (diffusers.EulerDiscreteScheduler(), {"sampler": "euler", "ladder": "linspace", "final_sigma": "zero"}),
        (diffusers.EulerDiscreteScheduler(final_sigmas_type="sigma_min"), {"final_sigma": "sigma_min"}),
        (diffusers.EulerDiscreteScheduler(use_karras_sigmas=True), {"sampler": "euler", "ladder": "karras"}),
        (diffusers.EulerAncestralDiscreteScheduler(), {"sampler": "euler_ancestral", "ladder": "linspace"}),
        (diffusers.PNDMScheduler(), {"sampler": "dpmpp_2m", "ladder": None}),
        (diffusers.UniPCMultistepScheduler(), {"sampler": "unipc", "ladder": None}),
    ],
)
def test_how_a_scheduler_draws(scheduler, keys):
    made = sampling_of(json.loads(scheduler.to_json_string()))
    for name, value in keys.items():
        assert made.get(name if "." in name else f"sample.{name}") == value
    assert ("guidance.threshold" in made) == bool(scheduler.config.get("clip_sample"))


def test_settings_of_another_class_do_not_count(folder):
    """A scheduler made from another's config keeps all of it."""
    made = diffusers.EulerDiscreteScheduler.from_config(pipelines.opened(folder).scheduler.config)
    assert not made.config.set_alpha_to_one
    assert sampling_of(json.loads(made.to_json_string()))["sample.final_sigma"] == "zero"


def test_what_is_left_out(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "checked")
    pipelines.with_index(
        other,
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    (note,) = read(other).notes
    assert note == f"{other}: safety_checker, feature_extractor left out (images are not checked)"


def with_json(file, **changed):
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


BROKEN = {
    "class": (
        lambda at: pipelines.with_index(at, _class_name="StableDiffusionXLPipeline"),
        "is a pipeline of the class 'StableDiffusionXLPipeline', which is not known here; StableDiffusionPipeline, ",
    ),
    "part": (lambda at: shutil.rmtree(at / "vae"), "lacks the folder vae, a AutoencoderKL by its model_index.json"),
    "tokenizer": (lambda at: shutil.rmtree(at / "tokenizer"), "lacks the folder tokenizer, a CLIPTokenizer by its"),
    "not named": (
        lambda at: pipelines.with_index(at, unet=None),
        "its model_index.json names no unet, which a StableDiffusionPipeline has",
    ),
    "null": (lambda at: with_json(at / "model_index.json", text_encoder=[None, None]), "names no text_encoder, which"),
    "other part": (
        lambda at: pipelines.with_index(at, text_encoder=["transformers", "T5EncoderModel"]),
        "its text_encoder is a T5EncoderModel, which is not known here; only a CLIPTextModel is",
    ),
    "other unet": (
        lambda at: with_json(at / "unet" / "config.json", _class_name="UNet3DConditionModel"),
        "unet holds a UNet3DConditionModel, where a UNet2DConditionModel is needed",
    ),
    "process": (
        lambda at: with_json(at / "scheduler" / "scheduler_config.json", trained_betas=[0.1]),
        "the process that it was trained under is not known: trained_betas=[0.1] is not known here",
    ),
    "no scheduler": (
        lambda at: (at / "scheduler" / "scheduler_config.json").unlink(),
        "scheduler lacks scheduler_config.json (No such file or directory)",
    ),
    "latents": (
        lambda at: with_json(at / "vae" / "config.json", latent_channels=8),
        "unet takes 4 channels, and latents of vae have 8",
    ),
    "shift": (
        lambda at: with_json(at / "vae" / "config.json", shift_factor=0.1),
        "shift_factor=0.1 of vae is not read by a StableDiffusionPipeline, so which latents unet learned is not known",
    ),
    "text width": (
        lambda at: with_json(at / "text_encoder" / "config.json", hidden_size=16),
        "unet takes tokens of 12 features, and text_encoder gives 16",
    ),
    "scaling factor": (
        lambda at: with_json(at / "vae" / "config.json", scaling_factor=0),
        "cannot be read as a Stable",
    ),
    "widths": (
        lambda at: with_json(at / "vae" / "config.json", block_out_channels=8),
        "cannot be read as a StableDiff",
    ),
    "length": (
        lambda at: with_json(at / "tokenizer" / "tokenizer_config.json", model_max_length="long"),
        "cannot be read as a StableDiffusionPipeline: ",
    ),
    "size": (
        lambda at: with_json(at / "unet" / "config.json", sample_size=None),
        "its sample_size=None does not say of which size its latents are",
    ),
    "index": (lambda at: (at / "model_index.json").write_text("{"), "model_index.json is not JSON: "),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_pipeline_is_refused_in_one_line(folder, fault, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    spoil, words = BROKEN[fault]
    spoil(broken)
    with pytest.raises(UserError) as caught:
        read(broken)
    message = str(caught.value)
    assert str(broken) in message
    assert words in message
    assert "\n" not in message


def test_other_pipelines_give_their_network_alone(folder, tmp_path):
    """train.initial takes the network of a class that is not known here, as of a bare model."""
    other = shutil.copytree(folder, tmp_path / "other")
    pipelines.with_index(other, _class_name="DDPMPipeline")
    assert (is_known(folder), is_known(other), is_known(tmp_path)) == (True, False, False)

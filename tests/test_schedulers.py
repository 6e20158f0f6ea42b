"""The scheduler beside a model of diffusers says under which process it was trained."""

import json
import re
import shutil

import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

import jdiff.config
from jdiff import from_config, interop
from jdiff.common.errors import UserError
from jdiff.interop.schedulers import SCHEDULER
from jdiff.weights.start import checked_process, with_pretrained_network
from tests.conftest import TINY, config, refusal, run_here

NETWORK = {
    "_class_name": "UNet2DModel",
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline's folder, trained for v with a last step without signal."""
    folder = tmp_path_factory.mktemp("pipeline")
    shapes = {tuple(name.split("/")): shape for name, shape in interop.describe(NETWORK).shapes.items()}
    rng = np.random.default_rng(0)
    params = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    interop.save(unflatten_dict(params), NETWORK, folder / "unet")
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
    }
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / SCHEDULER).write_text(json.dumps(scheduler))
    return folder


COMMAND = (config("digits"), *TINY, "--config.model.conditions=()", "--config.train.steps=1", "--workdir=run")
KEYS = {
    "model.schedule": "scaled_linear",
    "model.beta_start": "0.00085",
    "model.beta_end": "0.012",
    "model.zero_terminal_snr": "True",
    "model.prediction": "v",
}


def keys_to_set(line):
    return re.findall(r"--config\.\S+", line)


def refused(initial, cwd):
    """The keys to set."""
    line = refusal(*COMMAND, f"--config.train.initial={initial}", cwd=cwd)
    assert "was trained under another process, says " in line
    assert "(model.schedule is 'edm' here, " in line
    return keys_to_set(line)


@pytest.mark.parametrize("given", ["", "unet"])
def test_another_process_is_refused_and_the_keys_to_set_make_it(pipeline, given, tmp_path, capsys):
    keys = refused(pipeline / given, tmp_path)
    assert keys == [f"--config.{name}={value}" for name, value in KEYS.items()]
    assert not (tmp_path / "run").exists()
    settings = jdiff.config.override(jdiff.config.load("digits"), [*keys, f"--config.train.initial={pipeline / given}"])
    settings.data.shape, settings.model.conditions = (8, 8, 1), ()
    made = with_pretrained_network(settings, tmp_path / "run")
    trained_for = "was trained for model.schedule='scaled_linear' and model.prediction='v', says "
    assert trained_for + str(pipeline / "scheduler" / SCHEDULER) in capsys.readouterr().out
    assert from_config.task(made).network.channels == 8


def test_of_a_pipeline_of_another_class_the_network_alone_is_taken(pipeline, tmp_path, capsys):
    other = shutil.copytree(pipeline, tmp_path / "other")
    (other / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    settings = jdiff.config.override(
        jdiff.config.load("digits"), [f"--config.{name}={value}" for name, value in KEYS.items()]
    )
    settings.train.initial = str(other)
    assert with_pretrained_network(settings, tmp_path / "run").network.channels == 8
    assert f"train.initial={other}: of this pipeline the network alone, unet, is taken" in capsys.readouterr().out


@pytest.mark.slow
def test_the_refused_command_trains_with_the_keys_to_set(pipeline, tmp_path):
    keys = refused(pipeline, tmp_path)
    result = run_here(*COMMAND, f"--config.train.initial={pipeline}", *keys, cwd=tmp_path)
    assert result.status == 0, result.err
    assert "trained to step 1" in result.out


def test_only_what_differs_is_named(pipeline, tmp_path):
    same = [f"--config.{name}={value}" for name, value in KEYS.items() if name != "model.prediction"]
    line = refusal(*COMMAND, f"--config.train.initial={pipeline}", *same, cwd=tmp_path)
    assert keys_to_set(line) == ["--config.model.prediction=v"]


def said_of(network, **changed):
    """What is said of these weights under the digits' config with some keys changed."""
    settings = jdiff.config.load("digits")
    for name, value in changed.items():
        group, _, key = name.partition("__")
        settings[group][key] = value
    return checked_process(settings, network)


@pytest.mark.parametrize("place", [SCHEDULER, f"scheduler/{SCHEDULER}", f"../{SCHEDULER}", f"../scheduler/{SCHEDULER}"])
def test_where_a_scheduler_lies(pipeline, place, tmp_path):
    network = shutil.copytree(pipeline / "unet", tmp_path / "theirs" / "unet")
    file = (network / place).resolve()
    file.parent.mkdir(exist_ok=True)
    shutil.copy(pipeline / "scheduler" / SCHEDULER, file)
    with pytest.raises(UserError, match=r"--config\.model\.prediction=v "):
        said_of(network)


def test_without_a_scheduler_it_is_said_that_nothing_was_checked(tmp_path):
    line = said_of(tmp_path)
    assert "no scheduler_config.json lies beside these weights, so it could not be checked" in line
    assert "model.schedule='edm' and model.prediction='edm'" in line


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        ({"_class_name": "ScoreSdeVeScheduler"}, "the class 'ScoreSdeVeScheduler' is not known here"),
        ({"_class_name": "DDPMScheduler", "beta_schedule": "laplace"}, "beta_schedule='laplace' is not known here"),
        ({"_class_name": "DDPMScheduler", "trained_betas": [0.1]}, r"trained_betas=\[0.1\] is not known here"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, "EDMEulerScheduler with prediction"),
    ],
)
def test_a_process_that_is_not_known_is_said(scheduler, words, tmp_path):
    (tmp_path / SCHEDULER).write_text(json.dumps(scheduler))
    line = said_of(tmp_path)
    assert "it could not be checked that these weights were trained for" in line
    assert re.search(words, line)


@pytest.mark.parametrize(
    ("scheduler", "keys", "advice"),
    [
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
            {"model__schedule": "linear", "model__prediction": "eps", "objective__draw": "steps"},
            {"model.schedule": "flow", "model.prediction": "flow", "objective.draw": "uniform"},
        ),
        (
            {"_class_name": "EDMEulerScheduler", "sigma_data": 0.75},
            {"model__sigma_data": 0.5, "model__zero_terminal_snr": True, "model__schedule": "cosine"},
            {"model.schedule": "edm", "model.sigma_data": "0.75", "model.zero_terminal_snr": "False"},
        ),
    ],
)
def test_flows_and_edm(scheduler, keys, advice, tmp_path):
    """The keys to set make a process, whatever goes with a table alone."""
    (tmp_path / SCHEDULER).write_text(json.dumps(scheduler))
    with pytest.raises(UserError) as error:
        said_of(tmp_path, **keys)
    assert keys_to_set(str(error.value)) == [f"--config.{name}={value}" for name, value in advice.items()]
    settings = jdiff.config.load("digits")
    for name, value in keys.items():
        group, _, key = name.partition("__")
        settings[group][key] = value
    settings = jdiff.config.override(settings, keys_to_set(str(error.value)))
    settings.data.shape, settings.model.conditions = (8, 8, 1), ()
    from_config.task(settings)


@pytest.mark.parametrize("text", ["{", "[]", '{"_class_name": "DDPMScheduler", "beta_start": "low"}'])
def test_a_damaged_file_is_named(text, tmp_path):
    (tmp_path / SCHEDULER).write_text(text)
    with pytest.raises(UserError, match=f"{SCHEDULER} cannot be read as a scheduler's"):
        said_of(tmp_path)

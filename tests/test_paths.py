"""~ is the home folder in every path, wherever it is given; a shell leaves it alone behind --workdir=."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import jdiff
import jdiff.main
from jdiff import config as configs
from jdiff import interop
from jdiff.common.errors import UserError
from jdiff.common.paths import expanded
from jdiff.data.frozen_text import FrozenEncoder
from jdiff.data.sources.arrays import Arrays
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.packed import Packed
from jdiff.weights.start import with_pretrained_network
from tests.conftest import TINY, config, run_here


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and another folder to be in, which must stay empty."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    yield home
    assert not list(here.iterdir())


def images(folder):
    folder.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def commanded(*arguments):
    result = run_here(*arguments, cwd=".")
    assert result.status == 0, result.err


def test_every_path_of_the_command(home, tiny_run):
    shutil.copytree(tiny_run.workdir, home / "run")
    (home / "mine.py").write_text("from configs.digits import get_config\n")
    commanded("--config=~/mine.py", "--mode=prepare", "--out=~/packed")
    assert (home / "packed" / "index.json").is_file()
    commanded("--mode=export", "--workdir=~/run", "--out=~/exported")
    assert (home / "exported" / "weights.safetensors").is_file()
    result = run_here("--config=~/mine.py", "--config.train.steps=10", *TINY, "--workdir=~/run", cwd=".")
    assert (result.status, "already trained to step 10" in result.out) == (0, True), result.err


def test_runs_that_a_call_or_a_config_names(home, tiny_run):
    shutil.copytree(tiny_run.workdir, home / "run")
    model = jdiff.load("~/run")
    guided = {"method": "autoguidance", "guidance_scale": 2.0, "sampler": "euler", "steps": 2}
    assert model.sample(1, weak_workdir="~/run", **guided).shape == (1, 8, 8, 1)
    model.export("~/exported")
    settings = model.config.copy_and_resolve_references()
    settings.train.initial = "~/exported"
    assert with_pretrained_network(settings, home / "next").train.initial == str(home / "exported")


def test_models_of_diffusers(home):
    settings = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [8],
        "norm_num_groups": 4,
        "latent_channels": 2,
    }
    described = interop.describe(settings)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), _shapes(described))
    interop.save(params, settings, "~/theirs")
    _, read = interop.load("~/theirs")
    assert jax.tree.map(np.shape, read) == jax.tree.map(np.shape, params)
    interop.save_like(params, home / "theirs", home / "copy")


def _shapes(described):
    from flax.traverse_util import unflatten_dict

    return unflatten_dict(
        {tuple(name.split("/")): np.empty(shape, np.float32) for name, shape in described.shapes.items()}
    )


def test_data(home):
    images(home / "images")
    np.save(home / "x.npy", np.zeros((4, 8, 8), np.uint8))
    assert len(Folder("~/images", "train", holdout=0.0)) == 8
    assert len(Arrays("~/x.npy", "train", holdout=0.0)) == 4
    commanded(config("digits"), "--mode=prepare", "--out=~/packed")
    assert len(Packed("~/packed", "train")) == 1500
    (home / "encoder").mkdir()
    with pytest.raises(UserError, match=r"~/encoder holds no config\.json"):  # it is found
        FrozenEncoder("~/encoder", 8, "error").width  # noqa: B018


def test_compiled_programs(home, monkeypatch):
    said = {}
    monkeypatch.setattr(jax.config, "update", said.__setitem__)
    monkeypatch.setattr("jdiff.common.host.use_all_cores", lambda batch: None)
    monkeypatch.setattr("jdiff.common.host.keep_freed_memory", lambda: None)
    jdiff.main.prepare_jax(configs.defaults())
    assert said["jax_compilation_cache_dir"] == str(home / ".cache" / "jdiff" / "xla")


def test_a_name_that_nobody_has_is_left_as_it_is():
    assert str(expanded("~nobody-of-this-name/x")) == "~nobody-of-this-name/x"

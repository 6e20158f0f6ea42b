"""Configs: every one is whole, overrides are read by type, mistakes are told in one line."""

import pytest

from jdiff import config
from jdiff.common.errors import UserError
from tests.conftest import REPOSITORY

FILES = sorted(
    path.stem for path in (REPOSITORY / "configs").glob("*.py") if path.stem not in ("__init__", "base", "networks")
)


def digits():
    return config.load(REPOSITORY / "configs" / "digits.py")


@pytest.mark.parametrize("name", FILES)
def test_every_config_has_the_same_keys_and_passes_its_checks(name):
    settings = config.load(REPOSITORY / "configs" / f"{name}.py")
    assert {key for key, _ in config.items(settings)} == {key for key, _ in config.items(config.defaults())}
    config.check(settings)


def test_every_key_says_what_it_means():
    lines = (REPOSITORY / "configs" / "base.py").read_text().splitlines()
    bare = [line.strip() for line in lines if " = " in line and "ConfigDict()" not in line and "#" not in line]
    explained_by_the_line_above_or_the_field = {
        "train.b1 = 0.9",
        "train.b2 = 0.999",
        "train.eps = 1e-8",
        "train.learning_rate = 2e-4",
        "network.attention_heads = 1",
        "network.dropout = 0.0",
        "model.beta_end = 0.02",
        "model.sigma_max = placeholder(float)",
        "objective.huber_delta = 1.0",
        "sample.atol = 2e-2",
        "sample.s_min = 0.0",
        "sample.s_noise = 1.0",
        "sample.sigma_max = placeholder(float)",
        "sample.num_images = 100",
        "sample.seed = 0",
        "log.tensorboard = True",
        'log.wandb_project = "jdiff"',
    }
    assert set(bare) <= explained_by_the_line_above_or_the_field


def test_overrides_are_read_by_type():
    settings = config.override(
        digits(),
        [
            "--config.train.steps=7",
            "--config.train.learning_rate=1",
            "--config.data.flip=true",
            "--config.network.channel_mults=(9,)",
            "--config.network.channel_mults=(1,2,4)",
            "--config.train.batch_size",
            "64",
            "--config.sample.labels=3",
            "--config.sample.guidance_scale=3",
            "--noconfig.log.progress",
        ],
    )
    assert settings.train.steps == 7
    assert settings.train.batch_size == 64
    assert (settings.train.learning_rate, type(settings.train.learning_rate)) == (1.0, float)
    assert settings.data.flip is True
    assert settings.network.channel_mults == (1, 2, 4)
    assert settings.sample.labels == (3,)
    assert settings.sample.guidance_scale == 3.0
    assert settings.log.progress is False
    assert config.override(settings, ["--config.sample.guidance_scale=None"]).sample.guidance_scale is None
    assert config.override(digits(), ["--config.model.conditions=()"]).model.conditions == ()


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--config.train.stpes=7", "unknown config key 'train.stpes'; did you mean 'train.steps'"),
        ("--config.trian.steps=7", "did you mean 'train.steps'"),
        ("--config.steps=7", "did you mean 'sample.steps' or 'train.steps'"),
        ("--config.sample.guidance=2", "did you mean 'sample.guidance_scale'"),
        ("--config.train.steps=many", "--config.train.steps=many"),
        ("--config.train.steps=1.5", "--config.train.steps=1.5"),
        ("--config.data.flip=maybe", "--config.data.flip=maybe"),
        ("--config.train=5", "unknown config key 'train'"),
        ("--config.train.steps", "Missing value"),
        ("stray", "stray"),
    ],
)
def test_wrong_keys_and_types(argument, says):
    with pytest.raises(UserError) as error:
        config.override(digits(), [argument])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--config.train.batch_size=0", "train.batch_size=0 must be at least 1"),
        ("--config.network.dropout=1.0", "network.dropout=1.0 must lie in"),
        ("--config.train.steps=0", "train.epochs and train.images"),
        ("--config.train.accumulate=7", "does not divide by train.accumulate=7"),
        ("--config.network.attention_levels=(2,)", "must lie in 0..1"),
        ("--config.seed=-1", "seed=-1"),
        (f"--config.sample.seed={2**32}", "must lie in 0..2^32 - 1"),
        ("--config.network.channel_mults=()", "must hold whole numbers"),
        ("--config.network.channel_mults=(1,'a')", "must hold whole numbers; 'a' is none"),
    ],
)
def test_values_that_cannot_be_right(argument, says):
    with pytest.raises(UserError) as error:
        config.check(config.override(digits(), [argument]))
    assert says in str(error.value)


def test_a_config_file_with_a_wrong_key_or_none_at_all(tmp_path):
    bad = tmp_path / "mine.py"
    bad.write_text(
        "from configs import base\ndef get_config():\n c = base.get_config()\n c.train.stpes = 5\n return c\n"
    )
    with pytest.raises(UserError, match=r"mine.py: .*Did you mean .steps."):
        config.load(bad)
    with pytest.raises(UserError, match=r"no config file .*mien.py; did you mean 'mine.py'"):
        config.load(tmp_path / "mien.py")


def test_a_run_gives_back_its_config(tmp_path):
    settings = config.override(digits(), ["--config.sample.labels=(1,2)", "--config.sample.guidance_scale=None"])
    (tmp_path / config.FILE).write_text(config.to_json(settings))
    again = config.of_run(tmp_path)
    assert dict(config.items(again)) == dict(config.items(settings))
    assert config.override(again, ["--config.sample.guidance_scale=2.5"]).sample.guidance_scale == 2.5


def test_only_what_is_free_may_differ_on_resume(tmp_path):
    free = ["train.steps=9", "sample.steps=9", "log.every=9", "checkpoint.keep=9", "machine.threads=9"]
    config.check_resumable(digits(), config.override(digits(), [f"--config.{item}" for item in free]), tmp_path)
    for item in ("seed=9", "train.batch_size=64", "data.flip=true", "model.drop_rate=0.5", "train.learning_rate=0.1"):
        with pytest.raises(UserError, match=item.split("=")[0] + " is "):
            config.check_resumable(digits(), config.override(digits(), [f"--config.{item}"]), tmp_path)


def test_the_duration_given_goes_before_the_configs_own():
    train = config.override(digits(), ["--config.train.epochs=2"]).train
    assert (train.steps, train.epochs, train.images) == (0, 2.0, 0)


def test_wrong_names_list_the_right_ones():
    with pytest.raises(UserError, match=r"'huen' is unknown; did you mean 'heun'\?; it is one of heun, ddim"):
        config.one_of("sample.sampler", "huen", ["heun", "ddim"])

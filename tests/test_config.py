"""Configs: every one is whole, overrides are read by type, mistakes are told in one line."""

import math

import pytest

from jdiff import config, from_config
from jdiff.common.errors import UserError
from jdiff.common.settings import IDENTITY, SILENT, TOLD
from tests.conftest import REPOSITORY

FILES = sorted(
    path.stem
    for path in (REPOSITORY / "configs").glob("*.py")
    if path.stem not in ("__init__", "base", "networks", "autoencoders", "flow_maps")
)


def digits():
    return config.load(REPOSITORY / "configs" / "digits.py")


@pytest.mark.parametrize("name", FILES)
def test_every_config_has_the_same_keys_and_passes_its_checks(name):
    settings = config.load(REPOSITORY / "configs" / f"{name}.py")
    assert {key for key, _ in config.items(settings)} == {key for key, _ in config.items(config.defaults())}
    config.check(settings)


def test_every_key_says_what_it_means_and_what_a_change_does():
    for name, setting in config.settings().items():
        assert setting.meaning, name
        assert setting.resume in (IDENTITY, SILENT, TOLD), name


def test_every_number_has_a_range_that_holds_its_default_and_neither_nan_nor_infinity():
    defaults = dict(config.items(config.defaults()))
    for name, setting in config.settings().items():
        value = defaults[name]
        several = setting.of in (int, float) and isinstance(value, tuple)
        if not (several or setting.kind in (int, float) or type(value) in (int, float)):
            continue
        assert setting.allowed, name
        assert not setting.fault(value), name
        for bad in (math.nan, -math.inf, *(() if setting.allowed.endswith("inf]") else (math.inf,))):
            assert setting.fault((bad,) if several else bad), (name, bad)


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
        ("--config.train.since=(0,)", "train.since=(0,) must be (step, images seen)"),
        ("--config.network.attention_levels=(2,)", "must lie in 0..1"),
        ("--config.seed=-1", "seed=-1"),
        (f"--config.sample.seed={2**32}", "must lie in [0, 2^32)"),
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


@pytest.mark.parametrize("name", [name for name, setting in config.settings().items() if setting.resume == SILENT])
def test_what_does_not_change_the_weights_may_differ_on_resume(name, tmp_path):
    assert config.check_resumable(digits(), another(name), tmp_path) == {}


@pytest.mark.parametrize("name", [name for name, setting in config.settings().items() if setting.resume == TOLD])
def test_what_changes_the_training_is_told_on_resume(name, tmp_path):
    given = another(name)
    if name == "data.augment":
        with pytest.raises(UserError, match=r"data.augment is 0.0 there, 0.5 here"):
            config.check_resumable(digits(), given, tmp_path)
        return
    told = config.check_resumable(digits(), given, tmp_path)
    assert told == {name: (config.config_value(digits(), name), config.config_value(given, name))}


@pytest.mark.parametrize("name", [name for name, setting in config.settings().items() if setting.resume == IDENTITY])
def test_what_the_weights_are_is_refused_on_resume(name, tmp_path):
    with pytest.raises(UserError, match=name + " is "):
        config.check_resumable(digits(), another(name), tmp_path)


def another(name):
    """The digits' config with another value of a key."""
    settings, setting = digits().copy_and_resolve_references(), config.settings()[name]
    *groups, key = name.split(".")
    place = settings[groups[0]] if groups else settings
    for group in groups[1:]:
        place = place[group]
    value = place[key]
    if isinstance(value, bool):
        place[key] = not value
    elif isinstance(value, tuple):
        place[key] = (*value, {int: 1, float: 1.0, str: "other"}.get(setting.of, 1))
    elif isinstance(value, str):
        place[key] = value + "x"
    else:
        place[key] = type(value or (setting.kind or type(value))())(0.5 if value != 0.5 else 0.25) or 7
    return settings


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("train.steps=ten", "train.steps='ten' must be a whole number"),
        ("train.steps=1e3", "train.steps='1e3' must be a whole number"),
        ("train.learning_rate=fast", "train.learning_rate='fast' must be a number"),
        ("data.flip=maybe", "data.flip='maybe' must be true or false"),
        ("sample.order=", "sample.order='' must be a whole number"),
    ],
)
def test_what_is_no_number_is_told_in_words(argument, says):
    with pytest.raises(UserError, match=says):
        config.override(digits(), [f"--config.{argument}"])


def test_none_and_keys_that_do_not_exist_are_refused_in_a_file_too():
    settings = digits()
    settings.train.batch_size = None
    with pytest.raises(UserError, match=r"train\.batch_size=None needs a value"):
        config.check(settings)
    settings = digits()
    with settings.unlocked():
        settings.train.stpes = 3
    with pytest.raises(UserError, match=r"'train\.stpes'; did you mean 'train\.steps'"):
        config.check(settings)


def test_a_config_may_import_as_it_is_made(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("def get_config():\n from configs import digits\n return digits.get_config()\n")
    assert dict(config.items(config.load(mine))) == dict(config.items(digits()))


def test_images_are_counted_over_a_change_of_the_batch_size():
    settings = config.override(digits(), ["--config.train.images=160", "--config.train.batch_size=16"])
    assert (from_config.total_steps(settings), from_config.images_seen(settings, 6)) == (10, 96)
    settings.train.since, settings.train.batch_size = (6, 96), 32
    assert (from_config.total_steps(settings), from_config.images_seen(settings, 8)) == (8, 160)
    settings.train.images = 2**53
    with pytest.raises(UserError, match="a run counts fewer than 2\\^31"):
        from_config.total_steps(settings)


def test_the_duration_given_goes_before_the_configs_own():
    train = config.override(digits(), ["--config.train.epochs=2"]).train
    assert (train.steps, train.epochs, train.images) == (0, 2.0, 0)


def test_wrong_names_list_the_right_ones():
    with pytest.raises(UserError, match=r"'huen' is unknown; did you mean 'heun'\?; it is one of heun, ddim"):
        config.one_of("sample.sampler", "huen", ["heun", "ddim"])

"""What --help prints: every mode, every group of keys, every key."""

import jdiff.config
from jdiff.main import MODES
from jdiff.usage import GROUPS
from tests.conftest import run_here


def test_help_names_every_mode_and_group(tmp_path):
    result = run_here("--help", cwd=tmp_path)
    assert result.status == 0
    assert len(result.out.splitlines()) < 45
    for name, mode in MODES.items():
        assert f"{name:<12}{mode.what}" in result.out
    of_config = {name.split(".")[0] for name in jdiff.config.settings() if "." in name}
    assert set(GROUPS) == of_config


def test_help_of_a_group_has_each_key_with_default_and_meaning(tmp_path):
    settings = {name: one for name, one in jdiff.config.settings().items() if name.startswith("sample.")}
    result = run_here("--help=sample", cwd=tmp_path)
    assert result.status == 0
    told = " ".join(result.out.split())
    for name, setting in settings.items():
        assert f"--config.{name}=" in told
        assert " ".join(setting.meaning.split()) in told
    assert "--config.sample.steps=18" in told
    assert "--config.train" not in told


def test_help_of_one_key_of_all_and_of_none(tmp_path):
    assert run_here("--help=sample.steps", cwd=tmp_path).out.startswith("--config.sample.steps=18\n")
    everything = run_here("--help=all", cwd=tmp_path).out
    assert all(f"--config.{name}=" in everything for name in jdiff.config.settings())
    wrong = run_here("--help=sampel", cwd=tmp_path)
    assert wrong.status == 1
    assert "did you mean 'sample'?" in wrong.err


def test_every_key_has_a_meaning():
    for name, setting in jdiff.config.settings().items():
        assert setting.meaning.strip(), name

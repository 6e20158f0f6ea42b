"""Runs of earlier versions still load, sample and go on.

runs_of_version_1.zip holds two runs of 40 steps by commit 2777fc9, and the samples that it drew (expected.npz): "plain"
(labels; network.wave_offset=1; the averaged weights alone) and "given" (labels and images, these as "planes"; Fourier
features of network.waves=16; a learned uncertainty, which was averaged then).
"""

import json
import zipfile

import numpy as np
import pytest

import jdiff
import jdiff.config
from jdiff.common.errors import UserError
from jdiff.migration import RENAMED, RENAMED_VALUES, VERSION, migrated
from tests.conftest import REPOSITORY, TINY, config, run_here

SAMPLERS = {"plain": {"sampler": "predictor_corrector", "corrector_steps": 2}, "given": {"sampler": "heun"}}
KEYS = (
    "--config.model.conditions=('label','image')",
    "--config.condition.image.into=concat",
    "--config.objective.uncertainty=True",
    "--config.network.noise_embedding=fourier",
    "--config.network.noise_channels=16",
    "--config.train.warmup_images=0",
    "--config.train.ema_halflife_images=100",
    "--config.checkpoint.keep=1",
)


@pytest.fixture
def runs(tmp_path):
    with zipfile.ZipFile(REPOSITORY / "tests" / "runs_of_version_1.zip") as packed:
        packed.extractall(tmp_path)
    return tmp_path


def test_the_fingerprint_of_frozen_weights_was_one_of_low_rank_parts():
    assert migrated({"version": 2, "lora": {"base": "ab", "rank": 4}}) == {
        "lora": {"rank": 4},
        "train": {"initial_fingerprint": "ab"},
    } | migrated({"version": 3})


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_of_version_1_samples_as_it_did(runs, name):
    """To the bit on the machine that drew them; another processor may round a value to the next level."""
    expected = np.load(runs / name / "expected.npz")["images"].astype(int)
    images = jdiff.load(runs / name).sample(10, **SAMPLERS[name]).astype(int)
    assert np.abs(images - expected).max() <= 1
    assert (images != expected).mean() < 0.01


def test_a_run_of_version_1_goes_on(runs):
    result = run_here(config("digits"), *TINY, *KEYS, "--config.train.steps=50", "--workdir=given", cwd=runs)
    assert result.status == 0, result.err
    rows = [json.loads(line) for line in (runs / "given" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row][-3:] == [40, 45, 50]
    assert [row["loss"] for row in rows if "loss" in row][-1] == pytest.approx(0.7632342576980591, rel=1e-4)  # there
    assert json.loads((runs / "given" / "config.json").read_text())["version"] == VERSION
    assert jdiff.load(runs / "given").step == 50


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_key_is_refused_by_its_new_name(old):
    settings = jdiff.config.load(REPOSITORY / "configs" / "digits.py")
    with pytest.raises(UserError, match=f"unknown config key '{old}'; it is called {RENAMED[old]} now"):
        jdiff.config.override(settings, [f"--config.{old}=1"])
    assert RENAMED[old] in dict(jdiff.config.items(settings))


@pytest.mark.parametrize(("key", "old"), RENAMED_VALUES)
def test_an_old_value_is_refused_by_its_new_name(key, old):
    settings = jdiff.config.load(REPOSITORY / "configs" / "digits.py")
    with pytest.raises(UserError, match=f"{key}='{old}' is called '{RENAMED_VALUES[key, old]}' now"):
        jdiff.config.check(jdiff.config.override(settings, [f"--config.{key}={old}"]))


def test_a_call_with_an_old_setting_is_told_the_new_one(tiny_run):
    with pytest.raises(UserError, match=r"unknown setting 'moves'; it is called sample\.corrector_steps now"):
        jdiff.load(tiny_run.workdir).sample(1, moves=2)

"""A user's mistake: one clear line on stderr, exit status not zero, nothing lost."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jdiff
from tests.conftest import TINY, config, refusal, run_command, run_here

DIGITS = (config("digits"), *TINY, "--config.train.steps=4", "--config.log.progress=false", "--workdir=run")
FOLDER = (
    config("folder"),
    *TINY,
    "--config.train.steps=2",
    "--config.log.progress=false",
    "--workdir=run",
)


def refused(*arguments, cwd, status=1, **environment):
    """The one line that the command ended in, in a process of its own: background threads speak there too."""
    result = run_command(*arguments, cwd=cwd, **environment)
    assert result.status == status, (result.out, result.err)
    assert result.err.startswith("jdiff: ")
    assert result.err.count("\n") == 1, result.err
    return result.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config.train.stpes=4"], "unknown config key 'train.stpes'; did you mean 'train.steps'?"),
        (["--config.train.steps=soon"], "train.steps='soon' must be a whole number"),
        (["--config.data.name=digit"], "data.name='digit' is unknown; did you mean 'digits'?"),
        (
            ["--config.data.name=tfds:cifar10", "--config.data.dir=none"],
            "tfds build cifar10 --file_format=array_record",
        ),
        (["--config.network.channel_mults=(1,1,1,1,1)"], "sides must be multiples of 16"),
        (["--config.sample.labels=(3,10)"], "sample.labels holds 10; labels are 0..9"),
        (["--config.sample.sampler=dpm9"], "sample.sampler='dpm9' is unknown"),
        (["--config.model.conditions=('txet',)"], "did you mean 'text'"),
        (["--config.objective.draw=steps"], "objective.draw='steps' needs a table"),
        (["--config.task=clasifier"], "did you mean 'classifier'"),
        (["--config.log.wandb=true"], 'pip install "jdiff-diffusion[wandb]"'),
        (["--config.machine.fsdp=5"], "machine.fsdp=5 does not divide the"),
        (["--config.train.steps=None"], "train.steps needs a value"),
        (["--config.network.attention_heads=5"], "8 channels do not divide by 5 attention heads: change"),
        (["--config.data.channels=4"], "digits has images of 1 channels"),
        (["--config.sample.eta=2"], "sample.eta=2.0 must lie in [0, 1]"),
        (["--wokdir=x"], "did you mean 'workdir'"),
        (["--mode=evalute"], "--mode='evalute' is unknown; did you mean 'evaluate'?"),
        (["--mood=train"], "unknown"),
    ],
)
def test_mistakes_in_the_command(tmp_path, monkeypatch, arguments, says):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    assert says in refusal(*DIGITS, *arguments, cwd=tmp_path)


def test_no_config_and_no_run(tmp_path):
    assert "needs --config=FILE" in refusal("--workdir=run", cwd=tmp_path)
    assert "there is no config file" in refusal("--config=configs/none.py", cwd=tmp_path)
    assert "needs --workdir=DIR" in refusal("--mode=sample", cwd=tmp_path)
    assert "run holds no run" in refused("--mode=sample", "--workdir=run", cwd=tmp_path)


def test_debug_shows_the_traceback(tmp_path):
    result = run_command("--mode=sample", "--workdir=run", "--debug", cwd=tmp_path)
    assert result.status == 1
    assert "Traceback" in result.err


def test_folders_of_images(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    folder = [*FOLDER, f"--config.data.dir={images}", "--config.data.image_size=16"]
    assert "no images below" in refusal(*folder, cwd=tmp_path)
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (20 + i, 30, 3), np.uint8)).save(images / f"{i}.jpg")
    whole = (images / "0.jpg").read_bytes()
    (images / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    line = refusal(*folder, cwd=tmp_path)
    assert "torn.jpg cannot be read" in line
    assert "data.on_bad_file=skip" in line
    assert "sides must be multiples of 2" in refusal(
        *folder,
        "--config.data.image_size=15",
        "--config.data.on_bad_file=skip",
        "--config.network.channel_mults=(1,1)",
        cwd=tmp_path,
    )
    result = run_here(*folder, "--config.data.on_bad_file=skip", cwd=tmp_path)
    assert result.status == 0, result.err
    assert "skipped 1 unreadable of" in result.out


def test_a_run_of_another_config_is_left_alone(tiny_run):
    before = {path: path.stat().st_mtime_ns for path in tiny_run.workdir.rglob("*") if path.is_file()}
    line = refusal(
        config("digits"),
        *TINY,
        f"--workdir={tiny_run.workdir}",
        "--config.train.learning_rate=0.5",
        "--config.network.channels=24",
        cwd=tiny_run.workdir,
    )
    assert "learning_rate" not in line
    assert "network.channels is 8 there, 24 here" in line
    assert before == {path: path.stat().st_mtime_ns for path in tiny_run.workdir.rglob("*") if path.is_file()}


def test_a_run_without_a_checkpoint(tiny_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text((tiny_run.workdir / "config.json").read_text())
    assert "holds no checkpoint yet" in refusal("--mode=sample", "--workdir=run", cwd=tmp_path)
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        jdiff.load(tmp_path / "run")


def test_a_trained_model_cannot_be_overridden(tiny_run, tmp_path):
    line = refusal("--mode=sample", f"--workdir={tiny_run.workdir}", "--config.network.channels=16", cwd=tmp_path)
    assert "network.channels is 8 there, 16 here" in line


def test_looking_at_a_run_leaves_its_save_alone(tiny_run, tmp_path):
    """A notebook may load a model while the run is being saved."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run.workdir, run)
    (run / "checkpoints" / "99.orbax-checkpoint-tmp").mkdir()
    jdiff.load(run)
    assert (run / "checkpoints" / "99.orbax-checkpoint-tmp").exists()


def test_labels_out_of_range_when_sampling(tiny_run, tmp_path):
    line = refusal("--mode=sample", f"--workdir={tiny_run.workdir}", "--config.sample.labels=(11,)", cwd=tmp_path)
    assert "sample.labels holds 11; labels are 0..9" in line


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB; needs the right to mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_at_a_save(small_disk):
    often = ["--config.train.steps=40", "--config.checkpoint.every=2", "--config.checkpoint.keep=50"]
    arguments = [*DIGITS, *often, "--config.log.tensorboard=false"]
    line = refused(*arguments, cwd=small_disk)
    assert "No space left on device" in line
    assert "the checkpoint of step" in line
    step = int(line.split("the checkpoint of step ")[1].split()[0])
    assert jdiff.load(small_disk / "run").step == step
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    result = run_here(*arguments, cwd=small_disk)
    assert result.status == 0, result.err
    assert f"steps {step} to 40" in result.out


@pytest.mark.slow
def test_a_workdir_that_turned_read_only(small_disk):
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert run_here(*DIGITS, "--config.log.tensorboard=false", cwd=small_disk).status == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    line = refused(*DIGITS, "--config.train.steps=9", cwd=small_disk)
    assert "read-only" in line.lower()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert jdiff.load(small_disk / "run").step == 4


@pytest.mark.slow
def test_after_a_loss_that_is_not_finite_the_advice_helps(tiny_run, tmp_path):
    """A learning rate that blows the weights up, in a run that was good: only what was good is kept, and each of the
    changes that the line names is taken.
    """
    shutil.copytree(tiny_run.workdir, tmp_path / "run")
    start = jdiff.load(tmp_path / "run").step
    wild = [
        *DIGITS,
        "--config.train.learning_rate=1e15",
        "--config.train.clip_norm=0",
        "--config.train.warmup_images=0",
    ]
    often = [f"--config.train.steps={start + 300}", "--config.train.max_skipped_in_row=20"]
    line = refusal(*wild, *often, "--config.checkpoint.every=1", cwd=tmp_path)
    assert "not been finite for" in line
    assert f"the last good checkpoint is of step {start}; the same command goes on from there" in line
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["skipped"] >= 20
    assert jdiff.load(tmp_path / "run").step == start
    assert list((tmp_path / "run" / "set_aside" / "not_finite").iterdir())
    short = f"--config.train.steps={start + 2}"
    for change in ("train.clip_norm=1.0", "train.warmup_images=2147483647", "train.learning_rate=0.002"):
        assert change.split("=")[0] in line
        again = run_here(*wild, *often, short, f"--config.{change}", cwd=tmp_path)
        assert f"steps {start} to {start + 2}" in again.out
    assert again.status == 0, again.err
    assert jdiff.load(tmp_path / "run").step == start + 2


@pytest.mark.slow
def test_a_short_run_whose_steps_are_all_skipped_is_an_error(tmp_path):
    wild = ["--config.train.steps=4", "--config.train.learning_rate=1e30", "--config.train.clip_norm=0"]
    line = refusal(*DIGITS, *wild, "--config.train.warmup_images=0", cwd=tmp_path)
    assert "not been finite for" in line
    assert "there is no good checkpoint; the same command starts anew" in line
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    mended = run_here(*DIGITS, "--config.train.steps=4", cwd=tmp_path)
    assert mended.status == 0, mended.err

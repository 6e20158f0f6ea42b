"""A run's folder that several use at once, or that was copied in part."""

import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import jdiff
from jdiff.common.errors import UserError
from jdiff.training.checkpoints import ALL, DIGESTS, OF_SAMPLES, damage
from tests.conftest import TINY, config, refusal, run_here
from tests.forked import server
from tests.test_resume import ARGUMENTS, assert_same_state, steps_saved, wait_for

SHORT = (*ARGUMENTS, "--config.train.steps=20", "--config.checkpoint.every=5")


@pytest.mark.slow
@pytest.mark.parametrize(("readers", "seconds"), [(2, 5), (10, 120)])
def test_two_trainings_readers_and_a_sweeper(tmp_path, readers, seconds):
    workdir, until = tmp_path / "run", threading.Event()
    steps: list[int] = []

    def read() -> None:
        while not until.is_set():
            model = jdiff.load(workdir)
            assert np.isfinite(model.params["network"]["noise"]["dense_0"]["kernel"]).all()
            steps.append(model.step)

    def sweep() -> None:
        while not until.is_set():
            for step in steps_saved(workdir)[:-1]:
                shutil.rmtree(workdir / "checkpoints" / str(step), ignore_errors=True)
            time.sleep(0.02)

    arguments = (*ARGUMENTS, "--config.train.steps=100000", "--config.checkpoint.every=2", "--config.checkpoint.keep=1")
    with server() as commands, ThreadPoolExecutor() as pool:
        process = commands.start(*arguments, cwd=tmp_path)
        wait_for(lambda: steps_saved(workdir))
        try:
            users = [pool.submit(read) for _ in range(readers)] + [pool.submit(sweep)]
            told = refusal(*arguments, cwd=tmp_path)
            assert f"jdiff: run is in use: process {process.pid} on {os.uname().nodename}, since " in told
            time.sleep(seconds)
        finally:
            until.set()
            process.send(signal.SIGKILL)
        for user in users:
            user.result()
        assert process.wait() == -signal.SIGKILL, process.err.read_text()
    assert len(set(steps)) > 1, "the readers have seen the run go on"

    assert json.loads((workdir / "owner.json").read_text())["process"] == process.pid
    last = steps_saved(workdir)[-1] + 3
    result = run_here(*arguments, f"--config.train.steps={last}", cwd=tmp_path)  # a dead holder is followed
    assert result.status == 0, result.err
    assert not (workdir / "owner.json").exists()
    logged = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert logged == sorted({*range(2, last, 2), last})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    result = run_here(*SHORT, cwd=folder)
    assert result.status == 0, result.err
    return folder


def largest(folder: Path) -> Path:
    return max((file for file in folder.rglob("*") if file.parent.name == "d"), key=lambda file: file.stat().st_size)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def overwrite(file: Path, part: slice, *, bit: bool = False) -> None:
    """Other bytes, as many as before."""
    held = np.frombuffer(file.read_bytes(), np.uint8).copy()
    held[part] = held[part] ^ 1 if bit else 0
    file.write_bytes(held.tobytes())


DAMAGE = {
    "no meta": lambda folder: shutil.rmtree(folder / "meta"),
    "a torn meta": lambda folder: cut(folder / "meta" / "metadata"),
    "no weights": lambda folder: shutil.rmtree(folder / "weights"),
    "no arrays": lambda folder: shutil.rmtree(folder / "weights" / "ocdbt.process_0"),
    "a file less": lambda folder: largest(folder / "weights").unlink(),
    "a short file": lambda folder: cut(largest(folder / "weights")),
    "a torn tree": lambda folder: cut(folder / "weights" / "_METADATA"),
    "all but its name": lambda folder: [shutil.rmtree(part) for part in folder.iterdir() if part.is_dir()],
}


# What a disk or a copy does to a file that keeps its size.
CHANGED = {
    "a bit": lambda folder: overwrite(largest(folder / "weights"), slice(1000, 1001), bit=True),
    "ten zeros": lambda folder: overwrite(largest(folder / "weights"), slice(1000, 1010)),
    "a tail of zeros": lambda folder: overwrite(largest(folder / "weights"), slice(2000, None)),
}


@pytest.mark.parametrize("how", [*DAMAGE, *CHANGED])
def test_a_damaged_checkpoint_is_named_with_the_one_before_that_is_whole(whole, tmp_path, how, capfd):
    shutil.copytree(whole / "run", tmp_path / "run")
    (DAMAGE | CHANGED)[how](tmp_path / "run" / "checkpoints" / "20")
    cut(largest(tmp_path / "run" / "checkpoints" / "15" / "weights"))
    with pytest.raises(UserError, match=r"checkpoints/20 is damaged \(.*the one of step 10 is whole") as caught:
        jdiff.load(tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert "take it with sample.checkpoint=10" in str(caught.value)
    assert jdiff.load(tmp_path / "run" / ".." / "run", checkpoint=10).step == 10


@pytest.mark.parametrize("how", [*DAMAGE, "a tail of zeros"])
def test_a_damaged_checkpoint_without_digests(whole, tmp_path, how):
    """Of a run of before there were any: what cannot be decoded is told."""
    folder = shutil.copytree(whole / "run" / "checkpoints" / "20", tmp_path / "20")
    (folder / DIGESTS).unlink()
    assert damage(folder, ALL) == ""
    (DAMAGE | CHANGED)[how](folder)
    assert damage(folder, OF_SAMPLES)


def test_damaged_digests_are_left_aside(whole, tmp_path):
    folder = shutil.copytree(whole / "run" / "checkpoints" / "20", tmp_path / "20")
    assert all((other / DIGESTS).is_file() for other in (whole / "run" / "checkpoints").iterdir())
    cut(folder / DIGESTS)
    assert damage(folder, ALL) == ""


def test_a_damaged_checkpoint_at_sample_and_resume(whole, tmp_path):
    shutil.copytree(whole / "run", tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    cut(checkpoints / "20" / "meta" / "metadata")
    cut(largest(checkpoints / "15" / "training"))
    told = refusal("--mode=sample", "--workdir=run", "--config.sample.checkpoint=20", cwd=tmp_path)
    assert "run/checkpoints/20 is damaged (" in told
    assert "take it with sample.checkpoint=15" in told  # of which samples need no optimizer
    result = run_here("--mode=sample", "--workdir=run", "--config.sample.checkpoint=15", cwd=tmp_path)
    assert result.status == 0, result.err
    result = run_here(*SHORT, cwd=tmp_path)
    assert result.status == 0, result.err
    assert "checkpoints/20 is damaged (meta/metadata is not as it was saved)" in result.out
    assert "; 15, 20 now in " in result.out
    assert sorted(path.name for path in (tmp_path / "run" / "set_aside" / "damaged").glob("*[05]")) == ["15", "20"]
    assert "training: steps 10 to 20" in result.out
    assert_same_state(tmp_path / "run", whole / "run", 20)


def test_no_checkpoint_is_whole(whole, tmp_path):
    shutil.copytree(whole / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        cut(path / "weights" / "_METADATA")
    told = refusal(*SHORT, cwd=tmp_path)
    assert "no earlier one is whole: copy it again" in told
    assert steps_saved(tmp_path / "run") == steps_saved(whole / "run")


def test_torn_metrics_of_a_checkpoint(tiny_run, tmp_path):
    shutil.copytree(tiny_run.workdir, tmp_path / "run")
    cut(tmp_path / "run" / "checkpoints" / "10" / "metrics" / "metrics")
    assert jdiff.load(tmp_path / "run", checkpoint="best").step == 10
    result = run_here(config("digits"), *TINY, "--config.train.steps=10", "--workdir=run", cwd=tmp_path)
    assert result.status == 0
    assert "the score of step 10 is not known" in result.err


def test_a_torn_config_comes_back_from_a_checkpoint(tiny_run, tmp_path):
    """As the message says."""
    shutil.copytree(tiny_run.workdir, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    before = jdiff.config.of_run(tmp_path / "run")
    cut(file)
    told = refusal("--mode=sample", "--workdir=run", cwd=tmp_path)
    assert "run/config.json is damaged (" in told
    assert "copy it again, or put there what run/checkpoints/STEP/meta/metadata holds" in told
    meta = json.loads((tmp_path / "run" / "checkpoints" / "10" / "meta" / "metadata").read_text())
    file.write_text(json.dumps(meta["config"]))
    assert jdiff.config.of_run(tmp_path / "run") == before

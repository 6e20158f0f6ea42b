"""kill -9 at random moments: the run resumes, and ends in the same weights to the bit. Signals save and say where."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jdiff
from jdiff.modes import train
from jdiff.training import sharding
from jdiff.training.checkpoints import Checkpoints
from tests.conftest import TINY, config, run_command, run_here, start_command

ARGUMENTS = (config("digits"), *TINY, "--config.checkpoint.every=9", "--workdir=run")
QUIET = ("--config.log.tensorboard=false", "--config.log.progress=false")


def final_state(workdir: Path, step: int):
    """Everything in the last checkpoint."""
    settings = jdiff.config.of_run(workdir)
    task, mesh = jdiff.from_config.task(settings), sharding.make_mesh()
    abstract = sharding.abstract(mesh, jax.eval_shape(lambda: train.initial_state(settings, task)))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest() == step
        return checkpoints.restore(step, abstract)


def wait_for(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None and not condition():
        time.sleep(0.002)


def lines_logged(workdir: Path) -> int:
    file = workdir / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.parametrize(("kills", "steps"), [(5, 200), pytest.param(12, 480, marks=pytest.mark.slow)])
def test_killed_runs_end_in_the_same_weights(tmp_path, kills, steps):
    """Every other time while a save is under way."""
    arguments = (*ARGUMENTS, *QUIET, f"--config.train.steps={steps}")
    straight = tmp_path / "straight"
    straight.mkdir()
    assert run_command(*arguments, cwd=straight).status == 0

    killed = tmp_path / "killed"
    killed.mkdir()
    workdir, chance, while_saving = killed / "run", random.Random(0), 0
    for attempt in range(kills):
        process = start_command(*arguments, cwd=killed)
        lines = lines_logged(workdir) + chance.randint(1, 4)  # of five steps each: the last kill comes before the end
        wait_for(lambda lines=lines: lines_logged(workdir) >= lines, process)
        if attempt % 2:
            wait_for(lambda: list((workdir / "checkpoints").glob("*tmp*")), process)  # a save is under way
        time.sleep(chance.uniform(0, 0.02))
        saving = bool(list((workdir / "checkpoints").glob("*tmp*")))
        process.kill()
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err
        while_saving += saving
    assert while_saving >= kills // 4
    result = run_command(*arguments, cwd=killed)
    assert result.status == 0, result.err

    a, b = final_state(straight / "run", steps), final_state(workdir, steps)
    for name in ("step", "params", "ema", "opt_state", "skipped"):
        jax.tree.map(np.testing.assert_array_equal, getattr(a, name), getattr(b, name))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == sorted(set(steps)), "a killed run's lines must not stand twice"
    print(f"{kills} kills, {while_saving} of them during a save")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_where(tmp_path, number):
    arguments = [*ARGUMENTS, "--config.checkpoint.every=100000", "--config.train.steps=100000"]
    process = start_command(*arguments, cwd=tmp_path)
    wait_for(lambda: lines_logged(tmp_path / "run") > 3, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    line = out.splitlines()[-1]
    assert line.startswith("stopped at step ")
    assert "run/checkpoints" in line
    step = int(line.split()[3])
    assert jdiff.load(tmp_path / "run").step == step
    again = run_here(*arguments, f"--config.train.steps={step + 3}", cwd=tmp_path)
    assert again.status == 0, again.err
    assert f"steps {step} to {step + 3}" in again.out.replace(",", "")


def test_metrics_of_a_torn_line_and_of_lost_steps_are_dropped(tmp_path):
    from jdiff.training.writers import Jsonl

    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 5, "loss": 1.0}\n{"step": 10, "loss": 0.9}\n{"step": 15, "lo')
    writer = Jsonl(file, start=5)
    writer.scalars(10, {"loss": float("nan")})
    writer.close()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"step": 5, "loss": 1.0},
        {"step": 10, "loss": None},
    ]


def test_a_workdir_may_be_moved(tiny_run, tmp_path):
    shutil.copytree(tiny_run.workdir, tmp_path / "elsewhere")
    assert jdiff.load(tmp_path / "elsewhere").sample(2, steps=2).shape == (2, 8, 8, 1)

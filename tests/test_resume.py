"""Ends at random moments, of every kind: the run resumes, and comes to the same weights to the bit."""

import contextlib
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jdiff
from jdiff.training import sharding
from jdiff.training.checkpoints import Checkpoints
from jdiff.weights.start import initial_state
from tests.conftest import TINY_DIT, config, start_command
from tests.forked import server

ARGUMENTS = (
    *(config("digits"), *TINY_DIT, "--config.log.every=2", "--config.checkpoint.every=5", "--workdir=run"),
    *("--config.log.tensorboard=false", "--config.log.progress=false", "--config.train.holdout_images=0"),
)


def final_state(workdir: Path, step: int):
    """Everything in the last checkpoint."""
    settings = jdiff.config.of_run(workdir)
    task, mesh = jdiff.from_config.task(settings), sharding.make_mesh()
    abstract = sharding.abstract(mesh, jax.eval_shape(lambda: initial_state(settings, task)))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest() == step
        return checkpoints.restore(step, abstract)


def assert_same_state(one: Path, other: Path, step: int) -> None:
    a, b = final_state(one, step), final_state(other, step)
    for name in ("step", "params", "ema", "opt_state", "skipped"):
        jax.tree.map(np.testing.assert_array_equal, getattr(a, name), getattr(b, name))


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def lines_logged(workdir: Path) -> int:
    file = workdir / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def steps_saved(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def is_saving(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*tmp*"))


# Signals, the second one where there is one after 0.15 s; and when: before the first step, at a line of the log, in a
# save.
ENDS = (
    *((signal.SIGKILL, "save"), (signal.SIGTERM, "line"), (signal.SIGKILL, "line"), (signal.SIGINT, "twice")),
    *((signal.SIGUSR1, "save"), (signal.SIGKILL, "start"), (signal.SIGHUP, "line"), (signal.SIGINT, "twice")),
    *((signal.SIGKILL, "save"), (signal.SIGTERM, "start"), (signal.SIGINT, "line"), (signal.SIGKILL, "line")),
)


@pytest.mark.parametrize("ends", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_runs_that_were_ended_come_to_the_same_weights(tmp_path, ends):
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    killed.mkdir()
    straight.mkdir()
    workdir, chance, while_saving = killed / "run", random.Random(0), 0
    with server() as commands:
        for number, moment in (ENDS * ends)[:ends]:
            kept, before = steps_saved(workdir), lines_logged(workdir)
            process = commands.start(*ARGUMENTS, "--config.train.steps=100000", cwd=killed)
            wait_for(lambda process=process: process.out.exists() and "training: steps" in process.out.read_text())
            if moment != "start":
                lines = lines_logged(workdir) + chance.randint(1, 4)
                wait_for(lambda lines=lines: lines_logged(workdir) >= lines)
            if moment == "save":
                wait_for(lambda: is_saving(workdir))
            time.sleep(chance.uniform(0, 0.02))
            while_saving += is_saving(workdir)
            process.send(number)
            if moment == "twice":
                time.sleep(0.15)
                if process.err.read_text():  # it has not ended by then
                    process.send(number)
            status, err = process.wait(), process.err.read_text()
            if number == signal.SIGKILL:
                assert status == -number, err
                continue
            assert status == 128 + number, err
            name = "Ctrl-C" if number == signal.SIGINT else number.name
            if moment == "start":
                step = kept[-1]
                assert err == (
                    f"jdiff: {name}: stopped; nothing was trained since the checkpoint of step {step}, and nothing is "
                    "lost\n"
                )
                continue
            assert err.startswith(f"jdiff: {name}: saving, then stopping; a second {name} stops without\n")
            saved = re.search(r"stopped at step (\d+) and saved it in run/checkpoints", process.out.read_text())
            lost = re.search(r"jdiff: Ctrl-C: stopped at step (\d+); (.*)\n", err)
            assert saved or (lost and moment == "twice")
            if saved:
                assert steps_saved(workdir)[-1] == int(saved[1]) > max(kept, default=0)
            elif gone := re.match(r"the (\d+) steps since the checkpoint of step (\d+) are lost", lost[2]):
                assert steps_saved(workdir)[-1] == int(gone[2]) == int(lost[1]) - int(gone[1])
            assert lines_logged(workdir) > before
        steps = steps_saved(workdir)[-1] + 7
        for folder in (killed, straight):
            process = commands.start(*ARGUMENTS, f"--config.train.steps={steps}", cwd=folder)
            assert process.wait() == 0, process.err.read_text()
    assert while_saving >= ends // 5
    assert_same_state(straight / "run", workdir, steps)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = [row["step"] for row in rows if "loss" in row]
    assert logged == sorted(set(logged)), "an ended run's lines must not stand twice"


WAITING = """
import hashlib, sys
from jdiff.training.interrupt import Interrupt, Training
with Interrupt(Training({step}, lambda: {saved})):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # as a compilation does, it lets no Python run in this thread
"""


@pytest.mark.parametrize(
    ("step", "saved", "words"),
    [
        (30, 20, "Ctrl-C: stopped at step 30; the 10 steps since the checkpoint of step 20 are lost"),
        (30, 30, "Ctrl-C: stopped at step 30; nothing is lost, step 30 is saved"),
        (30, None, "Ctrl-C: stopped at step 30; the 30 steps since the start, as there is no checkpoint yet, are lost"),
        (None, None, "Ctrl-C: stopped; nothing was trained yet, and nothing is lost"),
    ],
)
def test_a_signal_is_answered_at_once_and_the_second_one_says_what_is_lost(step, saved, words):
    code = WAITING.format(step=step, saved=saved)
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        if step:
            assert process.stderr.readline() == "jdiff: Ctrl-C: saving, then stopping; a second Ctrl-C stops without\n"
            process.send_signal(signal.SIGINT)  # a wrapper passes on what the terminal has sent already
            time.sleep(0.15)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
        assert process.stderr.read() == f"jdiff: {words}\n"
        assert process.wait() == 130
        assert time.monotonic() - began < 5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("seconds", [0, 0.2, 0.4])
def test_a_signal_while_the_command_starts(tmp_path, seconds):
    process = start_command(*ARGUMENTS, cwd=tmp_path)

    def heeds() -> bool:
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())[1]
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    wait_for(heeds)
    time.sleep(seconds)  # within an import, maybe
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert err == "jdiff: stopped while starting; nothing is lost\n"
    assert not (tmp_path / "run").exists()


IN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "jdiff.main", *sys.argv[1:]])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="opens a terminal")
def test_a_closed_terminal(tmp_path):
    """Its process saves, although it can say nothing any more."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    arguments = [*ARGUMENTS, "--config.log.progress=true", "--config.train.steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, *arguments], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)

    def trains() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 4096)
        return lines_logged(tmp_path / "run") > 0

    wait_for(trains)
    os.close(ours)
    assert process.wait(60) == 128 + signal.SIGHUP
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps_saved(tmp_path / "run")[-1] == rows[-1]["step"]


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

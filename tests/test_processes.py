"""Several processes train as one: they find each other, come to the same losses, and end together."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs import base
from jdiff.common import distributed
from jdiff.common.errors import UserError
from jdiff.common.processes import of_first_process
from jdiff.training.interrupt import Interrupt, Training
from tests.conftest import FAST_COMPILE, REPOSITORY, TINY, config, run_here, start_command

ONE_DEVICE = "--xla_force_host_platform_device_count=1"
TWO_DEVICES = "--xla_force_host_platform_device_count=2"
SMALL = (
    *TINY,
    *("--config.network.name=dit", "--config.network.width=16", "--config.network.depth=1"),
    *("--config.network.attention_heads=2", "--config.network.patch_size=2", "--config.train.holdout_images=0"),
    *("--config.log.every=1", "--config.log.tensorboard=false", "--config.log.pictures=false"),
    "--config.checkpoint.every=5",
)
DIGITS = (config("digits"), *SMALL)
DISTRIBUTED = "--config.machine.distributed=true"


def free_port() -> int:
    """In the range of JAX's ports under Slurm."""
    for port in range(61440 + os.getpid() % 2048, 65536):
        with socket.socket() as test:
            try:
                test.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("no free port")


def slurm(port: int, process: int) -> dict[str, str]:
    """What Slurm sets in each of two tasks on one node."""
    ours = {"JOB_ID": port - 61440, "STEP_NODELIST": "localhost", "STEP_NUM_NODES": 1, "JOB_NUM_NODES": 1}
    return {
        f"SLURM_{name}": str(value)
        for name, value in {**ours, "NTASKS": 2, "PROCID": process, "LOCALID": process}.items()
    }


def plain(port: int, process: int) -> dict[str, str]:
    """What Kubeflow, SkyPilot or a user's ssh set."""
    variables = {distributed.ADDRESS: f"localhost:{port}", distributed.COUNT: 2, distributed.INDEX: process}
    return {name: str(value) for name, value in variables.items()}


def start(process, arguments, cwd, environment):
    written = {"JDIFF_TEST_WRITTEN": str(cwd / f"written_{process}"), "PYTHONPATH": str(REPOSITORY)}
    return start_command(
        *arguments, DISTRIBUTED, cwd=cwd, module="tests.impatient", XLA_FLAGS=ONE_DEVICE, **written, **environment
    )


def start_two(arguments, cwd, environment):
    port = free_port()
    return [start(process, arguments, cwd, environment(port, process)) for process in (0, 1)]


def ended(process, timeout=120):
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def losses(workdir: Path) -> list[float]:
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row["loss"] for row in rows if "loss" in row]


def wait_for(condition, processes, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until and all(process.poll() is None for process in processes) and not condition():
        time.sleep(0.005)


# Both trainings in one process: sys.argv[1] holds the arguments of each.
ONE_PROCESS = """
import json, sys
from jdiff.main import main
sys.exit(max(main(arguments) for arguments in json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """The arguments of a training on a small captioned folder."""
    folder = tmp_path_factory.mktemp("captioned")
    chance, words = np.random.default_rng(0), ("a red heart", "one blue circle", "two green stars")
    rows = [json.dumps({"file_name": f"{index}.png", "text": words[index % 3]}) for index in range(32)]
    for index in range(32):
        Image.fromarray(chance.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{index}.png")
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return (
        *(config("folder"), f"--config.data.dir={folder}", "--config.data.image_size=8", *SMALL),
        *("--config.model.conditions=('text',)", "--config.condition.text.width=16", "--config.condition.text.depth=1"),
        *("--config.condition.text.length=8", "--config.condition.text.vocabulary=300"),
        *("--config.train.steps=8", "--config.train.images=0", "--config.train.epochs=0.0"),
    )


@pytest.fixture(scope="module")
def on_two_devices(captioned, tmp_path_factory):
    """The losses of one process with two devices: of digits, and of the captioned folder."""
    folder = tmp_path_factory.mktemp("one")
    runs = [[*DIGITS, "--config.train.steps=12", "--workdir=digits"], [*captioned, "--workdir=captioned"]]
    devices = {"XLA_FLAGS": f"{FAST_COMPILE} {TWO_DEVICES}"}
    command = [sys.executable, "-c", ONE_PROCESS, json.dumps(runs)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **devices}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 cpu device") == 2
    return {name: losses(folder / name) for name in ("digits", "captioned")}


def assert_lost(status, err, seconds):
    """One line, in good time."""
    assert status == 1, err
    line = [line for line in err.splitlines() if not line.startswith("step ")]
    assert len(line) == 1, err
    assert line[0].startswith("jdiff: process ")
    assert "has ended or cannot be reached" in line[0]
    assert seconds < 60


MOMENTS = ("before the first step", "between two steps", "during a save")


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "victim"), [(moment, victim) for moment in MOMENTS for victim in (0, 1)])
def test_slurm_tasks_train_as_one_until_one_is_killed(tmp_path, on_two_devices, moment, victim, request):
    slow = "slow" in request.keywords
    patience = {"JDIFF_TEST_HEARTBEAT": "30"} if slow else {}  # as it is for a user
    arguments = (*DIGITS, "--config.train.steps=100000", "--workdir=run")
    two = start_two(arguments, tmp_path, lambda port, process: slurm(port, process) | patience)
    workdir = tmp_path / "run"
    if moment == MOMENTS[0]:
        wait_for(lambda: (workdir / "config.json").exists(), two)
    else:
        wait_for(lambda: len(losses(workdir)) >= 12, two)
    if moment == MOMENTS[2]:
        wait_for(lambda: list((workdir / "checkpoints").glob("*tmp*")), two)
    two[victim].kill()
    began = time.monotonic()
    status, _, err = ended(two[1 - victim])
    assert_lost(status, err, time.monotonic() - began)
    assert ended(two[victim])[0] == -signal.SIGKILL
    assert f"process {victim} " in err
    if moment == MOMENTS[0]:
        assert not losses(workdir)
    else:
        assert len(on_two_devices["digits"]) == 12
        assert losses(workdir)[:12] == on_two_devices["digits"]
        others = [
            path
            for path in (tmp_path / "written_1").read_text().split("\n")
            if path.startswith(f"{workdir}/") and not path.startswith(f"{workdir}/checkpoints")
        ]
        assert not others, "only the first process writes"

    kept = [int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit()]
    last = max(kept, default=0)
    if last:
        digests = json.loads((workdir / "checkpoints" / str(last) / "digests.json").read_text())
        assert {"ocdbt.process_0", "ocdbt.process_1"} < {name.split("/")[1] for name in digests if "/" in name}
    again = run_here(*DIGITS, f"--config.train.steps={last + 3}", "--workdir=run", cwd=tmp_path)
    assert again.status == 0, again.err
    assert f"steps {last:,} to {last + 3:,}" in again.out
    if slow:
        arguments = (*DIGITS, f"--config.train.steps={last + 6}", "--workdir=run")
        for process in start_two(arguments, tmp_path, slurm):
            status, _, err = ended(process)
            assert status == 0, err
        assert "in 2 processes" in (workdir / "history.txt").read_text().splitlines()[-1]


@pytest.mark.slow
def test_one_that_hangs_ends_the_other(tmp_path):
    two = start_two((*DIGITS, "--config.train.steps=100000", "--workdir=run"), tmp_path, plain)
    wait_for(lambda: len(losses(tmp_path / "run")) >= 12, two)
    two[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    status, _, err = ended(two[0])
    two[1].send_signal(signal.SIGCONT)
    assert_lost(status, err, time.monotonic() - began)
    assert ended(two[1])[0] == 1


@pytest.mark.slow
def test_both_answer_sigterm_and_save_long_before_the_next_line_of_the_log(tmp_path):
    arguments = (*DIGITS, "--config.train.steps=100000000", "--config.log.every=100000000", "--workdir=run")
    checkpoints = tmp_path / "run" / "checkpoints"
    two = start_two((*arguments, "--config.checkpoint.every=50"), tmp_path, plain)
    wait_for(lambda: (checkpoints / "50").exists(), two)
    began = time.monotonic()
    for process in two:  # as Slurm does
        process.send_signal(signal.SIGTERM)
    for process in two:
        status, out, err = ended(process)
        assert status == 128 + signal.SIGTERM, err
        assert "jdiff: SIGTERM: saving, then stopping; a second SIGTERM stops without\n" in err
        if process is two[0]:
            last = out.splitlines()[-1]
    assert time.monotonic() - began < 30
    step = int(re.match(r"stopped at step (\d+) and saved it in run/checkpoints;", last)[1])
    assert (checkpoints / str(step)).is_dir()


@pytest.mark.parametrize(("step_seconds", "most", "least"), [(0.01, 40, 10), (3.0, 100, 100)])
def test_how_often_processes_ask_each_other(monkeypatch, step_seconds, most, least):
    """Every two seconds or so, whatever log.every."""
    now, asked = [1000.0], []

    def gather(mine):
        asked.append(now[0])
        return np.stack([mine, mine])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("jax.experimental.multihost_utils.process_allgather", gather)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    interrupt = Interrupt(Training())
    for step in range(51, 51 + (2000 if step_seconds < 1 else 100)):
        now[0] += step_seconds
        assert not interrupt.asked(step, 10**6)
    assert least <= len(asked) <= most
    assert max(np.diff(asked)) <= max(2.5, step_seconds * 1.01)
    interrupt.signal = int(signal.SIGTERM)
    assert any(interrupt.asked(step, 10**6) for step in range(step + 1, step + 500))


def test_what_the_first_process_finds_is_what_all_find(monkeypatch):
    sent = []

    def found(process, find):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda: process)
        send = (lambda value: sent.append(value) or value) if process == 0 else (lambda value: sent.pop(0))
        monkeypatch.setattr("jax.experimental.multihost_utils.broadcast_one_to_all", send)
        return of_first_process(find)

    def refuse():
        raise UserError("a fault")

    for value in (None, [3, "damagé", None]):
        assert found(0, lambda value=value: value) == value
        assert found(1, refuse) == value
    with pytest.raises(UserError, match="a fault"):
        found(0, refuse)
    with pytest.raises(UserError, match="a fault"):
        found(1, lambda: 1)


@pytest.mark.slow
def test_processes_given_by_variables_train_on_captions_to_the_same_losses(tmp_path, captioned, on_two_devices):
    for process in start_two([*captioned, "--workdir=run"], tmp_path, plain):
        status, _, err = ended(process)
        assert status == 0, err
    assert len(on_two_devices["captioned"]) == 8
    assert losses(tmp_path / "run") == on_two_devices["captioned"]
    written = (tmp_path / "written_1").read_text()
    assert "checkpoints" in written
    for name in ("config.json", "tokenizer.json", "examples.npz", "history.txt", "metrics.jsonl"):
        assert (tmp_path / "run" / name).is_file()
        assert name not in written


@pytest.mark.slow
def test_processes_that_keep_an_autoencoder_train_in_its_latents(tmp_path):
    small = ("--config.autoencoder.channels=8", "--config.autoencoder.channel_mults=(1,2)")
    vae = (config("digits_vae"), *TINY, *small, "--config.train.steps=5", "--workdir=vae")
    assert run_here(*vae, cwd=tmp_path).status == 0
    latents = (config("digits_ldm"), *TINY, "--config.space.autoencoder=vae", "--config.train.steps=10")
    assert run_here(*latents, "--workdir=alone", cwd=tmp_path).status == 0
    processes = start_two((*latents, "--workdir=two"), tmp_path, slurm)
    for status, _, err in map(ended, processes):
        assert status == 0, err
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "alone"), rtol=1e-4)


@pytest.mark.slow
def test_processes_evaluate_as_one_and_go_on_after_a_kill(tmp_path):
    """In an empty cache, so that they measure the data together; the numbers are those of one process."""
    trained = run_here(*DIGITS, "--config.train.steps=2", "--workdir=run", cwd=tmp_path)
    assert trained.status == 0, trained.err
    asked = (
        *("--mode=evaluate", "--workdir=run", "--config.eval.features=pixels", "--config.eval.num_images=64"),
        *("--config.sample.batch_size=8", "--config.sample.sampler=ddim", "--config.sample.steps=20"),
    )
    cache = {"JDIFF_CACHE": str(tmp_path / "cache")}
    shards = tmp_path / "two" / "seed_0" / "shards"
    processes = start_two([*asked, "--out=two"], tmp_path, lambda *given: plain(*given) | cache)
    wait_for(lambda: len(list(shards.glob("0*.npz"))) >= 2, processes)
    for process in processes:
        process.kill()
        process.communicate()
    assert shards.is_dir()
    for process in start_two([*asked, "--out=two"], tmp_path, lambda *given: plain(*given) | cache):
        status, _, err = ended(process)
        assert status == 0, err
    alone = run_here(*asked, "--out=one", cwd=tmp_path)
    assert alone.status == 0, alone.err
    two, one = (json.loads((tmp_path / out / "evaluation.json").read_text())["numbers"] for out in ("two", "one"))
    assert two.keys() == one.keys()
    for name, number in one.items():
        assert two[name]["value"] == pytest.approx(number["value"], rel=1e-3, abs=1e-3), name


@pytest.mark.parametrize("process", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_processes_that_do_not_meet(tmp_path, process):
    environment = plain(free_port(), process) | {"JDIFF_TEST_PATIENCE": "2"}
    status, _, err = ended(start(process, DIGITS, tmp_path, environment))
    assert status == 1
    assert err.count("\n") == 1, err
    assert err.startswith("jdiff: 2 processes did not meet at localhost:")
    assert "JAX_PROCESS_ID or machine.process" in err


@pytest.mark.slow
def test_a_signal_ends_one_that_waits_for_the_others(tmp_path):
    process = start(1, DIGITS, tmp_path, plain(free_port(), 1))
    time.sleep(10)  # it has begun to wait, and does so for 60 s
    process.send_signal(signal.SIGTERM)
    assert ended(process, 10) == (128 + signal.SIGTERM, "", "jdiff: stopped while starting; nothing is lost\n")


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot open port {port} of localhost:{port}: .*machine.coordinator"):
            distributed._check_port(f"localhost:{port}")


NOBODY = ("SLURM", "OMPI", "JAX_COORD", "JAX_NUM", "JAX_PROCESS", "KUBERNETES")


@pytest.fixture
def alone(monkeypatch):
    """join(keys, variables), in a process that JAX takes for one that has not begun and that no launcher started."""
    for name in [name for name in os.environ if name.startswith(NOBODY)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    monkeypatch.setattr(distributed, "_end_in_a_line", lambda here: None)

    def join(keys, variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        machine = base.get_config().machine
        machine.update(keys)
        distributed.join(machine, debug=False)

    yield join
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    ("keys", "variables", "says"),
    [
        ({}, {}, "needs the first process's address, the number of processes, this process's index: set JAX_COORD"),
        ({}, {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}, "needs this process's index: set JAX_PROC"),
        ({"process": 1}, {"JAX_COORDINATOR_ADDRESS": "a:1"}, "needs the number of processes: set JAX_NUM_PROCESSES"),
        (
            {"processes": 2, "process": 1},
            {},
            r"needs the first process's address: set JAX_COORDINATOR_ADDRESS=HOST:PORT",
        ),
        ({"coordinator": "a"}, {}, r"machine.coordinator='a' must be HOST:PORT, such as node1:1234"),
        ({}, {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two' must be a whole number, at least 1"),
        ({}, {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2 must be below JAX_NUM_PROCESSES=2"),
        (
            {},
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
            r"this is a Slurm job without SLURM_STEP_NODELIST: start the command by srun",
        ),
        (
            {},
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},
            r"needs the first process's address \(Open MPI 5 does not tell it: mpirun -x JAX_COORDINATOR_ADDRESS=",
        ),
    ],
)
def test_what_is_missing_is_named(alone, keys, variables, says):
    with pytest.raises(UserError, match=says):
        alone(keys, variables)


def test_keys_go_before_variables_and_these_before_open_mpi():
    machine = base.get_config().machine
    variables = {"JAX_NUM_PROCESSES": "4", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "3"}
    found = distributed.place(machine, variables)
    assert (found.coordinator, found.processes, found.process) == (None, 4, 3)
    machine.update(coordinator="[::1]:9", process=2)
    found = distributed.place(machine, {**variables, "JAX_COORDINATOR_ADDRESS": "a:1"})
    assert (found.coordinator, found.processes, found.process) == ("[::1]:9", 4, 2)

"""Memory that runs out: pictures and samples are drawn in smaller batches, and a step says what takes less."""

import re
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest

import jdiff
from jdiff import compiled
from jdiff.common.errors import DrawingError, UserError, is_out_of_memory
from jdiff.modes import train
from jdiff.training import sharding
from jdiff.training.memory import smaller_steps
from tests.conftest import TINY, config, refusal, run_here

DIGITS = (config("digits"), *TINY, "--workdir=run", "--config.log.tensorboard=false")
FULL = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (FULL, True),
        (MemoryError(), True),
        (np._core._exceptions._ArrayMemoryError((2**40,), np.dtype(float)), True),
        # As the CPU's own thread tells it.
        (
            jax.errors.JaxRuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes."),
            True,
        ),
        (jax.errors.JaxRuntimeError("INTERNAL: Failed to launch: CUDA_ERROR_OUT_OF_MEMORY"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: something else"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_taken_for_memory_that_ran_out(error, is_one):
    assert is_out_of_memory(error) == is_one


# Draws more than this process may hold: a batch takes 60 kB an image.
TOO_MANY = """
import resource, sys, jax, jdiff
jax.config.update("jax_num_cpu_devices", 1)
model, settings = jdiff.load(sys.argv[1]), {"sampler": "ddim", "steps": 1, "guidance_scale": 1.0}
model.sample(2, **settings)
now = 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1])
resource.setrlimit(resource.RLIMIT_AS, (now + (2200 << 20),) * 2)
batches = list(model.stream(40_000, batch_size=40_000, **settings))
print(*[len(batch.images) for batch in batches])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process as Linux does")
def test_a_batch_that_does_not_fit_is_halved(tiny_run):
    """Real memory, in a process that may take little."""
    command = [sys.executable, "-c", TOO_MANY, str(tiny_run.workdir)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    sizes = [int(size) for size in result.stdout.split()]
    assert sum(sizes) == 40_000
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) <= {40_000 >> halvings for halvings in range(1, 5)}
    assert "out of memory for 40000 images at a time; going on with 20000; set sample.batch_size=20000" in result.stderr


def full_beyond(images: int, frames: int = 10**6):
    """Programs that walk take no more than so many images at a time; fewer with their trajectories."""
    walk = compiled.walk

    def limited(task, mesh, weights, guidances, seed, sigmas, rows, *, keep_trajectory=False, **form):
        if len(rows["indices"]) > (frames if keep_trajectory else images):
            raise FULL
        return walk(task, mesh, weights, guidances, seed, sigmas, rows, keep_trajectory=keep_trajectory, **form)

    return mock.patch.object(compiled, "walk", limited)


def test_samples_in_smaller_batches_are_the_same(tiny_run):
    settings = {"batch_size": 10, "sampler": "ddim", "steps": 2}
    whole = jdiff.load(tiny_run.workdir).sample(10, **settings)
    with full_beyond(3):
        model = jdiff.load(tiny_run.workdir)
        with pytest.warns(UserWarning, match="out of memory for .* images at a time") as caught:
            halved = model.sample(10, **settings)
    assert [str(warning.message).split("; set ")[1] for warning in caught] == [
        "sample.batch_size=5",
        "sample.batch_size=2",
    ]
    assert np.abs(halved.astype(int) - whole).max() <= 1
    with full_beyond(0):
        model = jdiff.load(tiny_run.workdir)
        with (
            pytest.warns(UserWarning, match="going on with 1"),
            pytest.raises(DrawingError, match="out of memory, even for 1 images at a time"),
        ):
            model.sample(2, **settings)


@pytest.mark.parametrize("images", [1, 8])
def test_one_of_several_processes_ends_where_it_would_go_on_alone(images):
    """The others wait for its part of what it would leave out."""
    with mock.patch("jax.process_count", return_value=2), pytest.raises(UserError, match="out of memory") as caught:
        compiled._smaller(images, sharding.make_mesh(), FULL)
    assert type(caught.value) is UserError


def test_training_goes_on_without_a_picture(tmp_path):
    """It is drawn in smaller batches, and left out where none fits."""
    often = ["--config.train.steps=2", "--config.train.sample_every=2", "--config.train.trajectory_every=1"]
    with full_beyond(4, frames=0):
        result = run_here(*DIGITS, *often, cwd=tmp_path)
    assert result.status == 0, result.err
    assert "out of memory for 10 images at a time; going on with 5; set sample.batch_size=5" in result.err
    assert "out of memory for 5 images at a time; going on with 2; set sample.batch_size=2" in result.err
    assert "left out at step 1: out of memory, even for 1 images at a time" in result.out
    assert "left out at step 2: out of memory, even for 1 images at a time" in result.out
    assert "trained to step 2" in result.out
    assert {path.name for path in (tmp_path / "run" / "samples").iterdir()} == {"forward.png", "step_0000002.png"}


def failing_at(step: int):
    """Training's step, for which memory runs out once, at this step."""
    make = train.make_step

    def make_failing(config, task, state):
        advance = make(config, task, state)

        def advance_or_fail(state, batch):
            if int(state.step) + 1 == step:
                raise FULL
            return advance(state, batch)

        return advance_or_fail

    return mock.patch.object(train, "make_step", make_failing)


@pytest.mark.slow
def test_a_step_that_does_not_fit_saves_first_and_says_what_does(tmp_path):
    run = [*DIGITS, "--config.train.steps=6"]
    with failing_at(4):
        line = refusal(*run, "--config.log.progress=false", cwd=tmp_path)
    assert "out of memory in a step of train.batch_size=16 images: set train.accumulate=2 (the same batch in 2" in line
    assert "or network.remat=True (more time), or train.batch_size=8; step 3 is saved" in line
    advice = [f"--config.{key}" for key in ("train.accumulate=2", "network.remat=True", "train.batch_size=8")]
    followed = run_here(*run, *advice, cwd=tmp_path)
    assert followed.status == 0, followed.err
    assert "steps 3 to 6 of 8 images" in followed.out
    assert "trained to step 6" in followed.out


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "devices", "remat", "advice"),
    [
        (128, 1, 2, False, ["train.accumulate=2 ", "network.remat=True", "train.batch_size=64"]),
        (24, 2, 4, True, ["train.accumulate=6 ", "train.batch_size=8"]),
        (9, 1, 1, True, ["train.accumulate=3 ", "train.batch_size=4"]),
        (8, 1, 8, True, []),
    ],
)
def test_what_takes_less_divides(batch_size, accumulate, devices, remat, advice):
    said = smaller_steps(batch_size, accumulate, devices, remat=remat)
    assert all(words in said for words in advice)
    for name, value in re.findall(r"(train\.\w+)=(\d+)", said):
        size, parts = (int(value), accumulate) if name == "train.batch_size" else (batch_size, int(value))
        assert size % (parts * devices) == 0
        assert size / parts <= batch_size / accumulate / 2
    assert bool(advice) == ("larger device" not in said)


@pytest.mark.slow
def test_a_step_of_real_memory(tmp_path):
    """23 GB in a process that may take 6: the CPU tells of it late, when the step's results are asked for."""
    arguments = [*DIGITS, "--config.train.batch_size=200000", "--config.train.steps=2"]
    command = ["bash", "-c", 'ulimit -v 6000000; exec "$0" -m jdiff.main "$@"', sys.executable, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=600)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "out of memory in a step of train.batch_size=200000 images: set train.accumulate=2" in result.stderr
    assert "nothing is saved yet" in result.stderr

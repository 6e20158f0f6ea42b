"""Eight devices do what one does: the same losses, the same initial noise to the bit, the same images."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import CACHE, REPOSITORY, TINY, config, run_command

ONE = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
WIDE = (*TINY, "--config.network.channels=24", "--config.log.every=1", "--config.train.learning_rate=5e-4")

# Runs in a process of its own, with one device or eight: sys.argv = (workdir, file to write).
SAMPLE = """
import sys
import jax, jax.numpy as jnp, numpy as np
import jdiff
from jdiff.common.keys import image_keys
from jdiff.diffusion import drivers
from jdiff.training import sharding

model = jdiff.load(sys.argv[1])
indices = jax.device_put(np.arange(64, dtype=np.uint32), sharding.of_batch(model.mesh))

@jax.jit
def prior(indices):
    schedule = model.task.parameterization.schedule
    return drivers.prior(image_keys(5, indices), jnp.zeros((64, 8, 8, 1)), jnp.float32(80), schedule)

arrays = {"prior": prior(indices)}
for size in (1, 7, 64):
    arrays[f"batch_{size}"] = model.sample(64, steps=8, seed=5, batch_size=size, guidance_scale=2.0)
arrays["noisy"] = model.sample(64, steps=8, seed=5, sampler="ddpm")
np.savez(sys.argv[2], devices=jax.device_count(), **arrays)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    arguments = (config("digits"), *WIDE, "--config.train.steps=20")
    one = run_command(*arguments, "--workdir=one", cwd=folder, **ONE)
    assert one.status == 0, one.err
    assert "1 cpu device" in one.out
    eight = run_command(*arguments, "--config.machine.fsdp=2", "--workdir=eight", cwd=folder, **EIGHT)
    assert eight.status == 0, eight.err
    assert "8 cpu device" in eight.out
    return folder


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_the_same_losses(runs):
    one, eight = losses(runs / "one"), losses(runs / "eight")
    assert len(one) == len(eight) == 20
    print(f"largest difference of a loss: {np.abs(np.subtract(one, eight)).max():.1e}")
    np.testing.assert_allclose(eight, one, atol=1e-4)


def samples(runs, environment, name):
    file = runs / f"{name}.npz"
    command = [sys.executable, "-c", SAMPLE, str(runs / "one"), str(file)]
    subprocess.run(command, check=True, env={**os.environ, **environment}, cwd=runs)
    return np.load(file)


@pytest.mark.slow  # CI has the losses on one and eight devices, and each layout compiled once
def test_the_same_noise_and_images_for_any_devices_and_batch_size(runs):
    one, eight = samples(runs, ONE, "from_one"), samples(runs, EIGHT, "from_eight")
    assert (one["devices"], eight["devices"]) == (1, 8)
    np.testing.assert_array_equal(one["prior"], eight["prior"])
    reference = one["batch_64"].astype(int)
    assert reference.std() > 5
    for arrays in (one, eight):
        for size in (1, 7, 64):
            assert np.abs(arrays[f"batch_{size}"] - reference).max() <= 1
    assert np.abs(one["noisy"].astype(int) - eight["noisy"]).max() <= 1


@pytest.mark.slow  # CI has two processes that go on as one
def test_a_checkpoint_of_one_layout_goes_on_in_another(runs):
    arguments = (config("digits"), *WIDE, "--config.train.steps=25")
    on_one = run_command(*arguments, "--workdir=eight", cwd=runs, **ONE)
    assert on_one.status == 0, on_one.err
    on_eight = run_command(*arguments, "--config.machine.fsdp=4", "--workdir=one", cwd=runs, **EIGHT)
    assert on_eight.status == 0, on_eight.err
    np.testing.assert_allclose(losses(runs / "eight")[20:], losses(runs / "one")[20:], atol=1e-4)


def test_parameters_are_really_split(runs):
    code = """
import jax
from jdiff import config, from_config
from jdiff.training import sharding
from jdiff.weights.start import begin
settings = config.of_run(__import__("pathlib").Path("one"))
mesh = sharding.make_mesh(fsdp=4)
state = begin(settings, from_config.task(settings), mesh, None, 0)
leaves = jax.tree.leaves(state.params)
whole = sum(leaf.nbytes for leaf in leaves)
local = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
moments = jax.tree.leaves(state.opt_state)
assert sum(m.addressable_shards[0].data.nbytes for m in moments) < 0.6 * sum(m.nbytes for m in moments)
assert local < 0.6 * whole, (local, whole)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **EIGHT}, cwd=runs)


@pytest.mark.slow
def test_batches_that_do_not_divide_by_the_devices(runs):
    arguments = (config("digits"), *WIDE, "--config.train.steps=25", "--workdir=none")
    result = run_command(*arguments, "--config.train.batch_size=20", cwd=runs, **EIGHT)
    assert result.status == 1
    assert result.err.strip() == "jdiff: train.batch_size=20 does not divide by the 8 devices; 16 does"
    result = run_command(*arguments, "--config.machine.fsdp=3", cwd=runs, **EIGHT)
    assert result.status == 1
    assert "machine.fsdp=3 does not divide the 8 devices" in result.err


# Three steps in every layout: how often each compiles, and how many leaves' shardings have changed. The network is the
# smallest on which the compiler, left to itself, changes some.
LAYOUTS = """
from dataclasses import replace

import flax.linen as nn
import jax
from jax.sharding import AxisType
from jdiff import config, from_config
from jdiff.modes import train
from jdiff.networks.conditioning import LabelEmbedding
from jdiff.networks.embeddings import NoiseEmbedding
from jdiff.resolve import resolve
from jdiff.training import sharding
from jdiff.weights.start import begin


class Perceptron(nn.Module):
    @nn.compact
    def __call__(self, x, c_noise, cond, *, train=False):
        h = nn.Dense(64)(x.reshape(len(x), -1)) + NoiseEmbedding(64, 64)(c_noise)
        h += LabelEmbedding(10, 64)(cond["label"], cond.get("drop", {}).get("label")).vector
        return nn.Dense(64)(nn.silu(h)).reshape(x.shape)


settings = config.load("configs/digits.py")
settings.train.batch_size = 16
source, _ = from_config.sources(settings)
settings = resolve(settings, source)
task = replace(from_config.task(settings), network=Perceptron())
compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
for devices in (1, 2, 4, 8):
    for fsdp in (fsdp for fsdp in (1, 2, 4) if devices % fsdp == 0):
        shape, types = (devices // fsdp, fsdp), (AxisType.Auto,) * 2
        mesh = jax.make_mesh(shape, ("data", "fsdp"), types, devices=jax.devices()[:devices])
        state = begin(settings, task, mesh, None, 0)
        before = [leaf.sharding for leaf in jax.tree.leaves(state)]
        split = sum(not where.is_fully_replicated for where in before)
        assert (split > 0) == (fsdp > 1), split
        next_state = train.make_step(settings, task, state)
        batches = sharding.on_devices(mesh, train.open_batches(settings, source, 0))
        counts = []
        for _ in range(3):
            batch = next(batches)
            compiled.clear()
            state, _ = next_state(state, batch)
            counts.append(sum("backend_compile" in name for name in compiled))
        changed = sum(leaf.sharding != first for leaf, first in zip(jax.tree.leaves(state), before))
        print(devices, fsdp, counts, changed)
"""


@pytest.mark.slow
def test_every_layout_compiles_once_and_keeps_its_shardings():
    faster = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_COMPILATION_CACHE_DIR": str(CACHE)}
    environment, command = {**os.environ, **EIGHT, **faster}, [sys.executable, "-c", LAYOUTS]
    done = subprocess.run(command, check=True, env=environment, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE)
    layouts = [(devices, fsdp) for devices in (1, 2, 4, 8) for fsdp in (1, 2, 4) if devices % fsdp == 0]
    assert done.stdout.splitlines() == [f"{devices} {fsdp} [1, 0, 0] 0" for devices, fsdp in layouts]

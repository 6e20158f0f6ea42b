# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Devices
#
# The batch is split over all devices; `machine.fsdp` splits the parameters, too. Here a CPU plays four devices.

# %%
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("jdiff") is None:  # on Colab: clone jdiff, and go to its folder notebooks
    where = os.environ.get("JDIFF_REPOSITORY", "..")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", where], check=True)
small = bool(os.environ.get("JDIFF_SMALL"))  # a check that everything runs, not a result

# %%
steps = 10 if small else 60
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
keys = "--config=digits --config.train.sample_every=0 --config.train.trajectory_every=0 --config.log.every=5 --config.checkpoint.every=5".split()


def train(workdir, steps, *more):
    command = [sys.executable, "-m", "jdiff.main", *keys, f"--workdir={workdir}", f"--config.train.steps={steps}", *more]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    print("\n".join(line for line in result.stdout.splitlines() if "device" in line or line.startswith(("step", "trained", "going"))))


train("runs/four", steps, "--config.machine.fsdp=2")

# %% [markdown]
# The run goes on with one device, from the same checkpoint: layouts are the machine's, not the run's.

# %%
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
train("runs/four", steps + 10)

# %% [markdown]
# And the same training on one device from the start has the same losses, to rounding.

# %%
import json
from pathlib import Path

train("runs/one", steps)


def losses(run):
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


four, one = losses("runs/four"), losses("runs/one")
{step: (round(four[step], 6), round(one[step], 6)) for step in one}

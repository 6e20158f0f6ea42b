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
# # Samplers: one initial noise, many ways down

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
from pathlib import Path

if not Path("runs/digits/checkpoints").is_dir():
    steps = 20 if small else 600
    # !{sys.executable} -m jdiff.main --config=digits --workdir=runs/digits --config.train.steps={steps}

# %%
import time

import matplotlib.pyplot as plt
import numpy as np

import jdiff

model = jdiff.load("runs/digits")
labels = np.arange(10)


def strip(axis, images, title):
    axis.imshow(np.concatenate(list(images.squeeze(-1)), axis=1), cmap="gray", vmin=0, vmax=255)
    axis.set_title(title, loc="left", fontsize=9)
    axis.axis("off")


# %% [markdown]
# The images of a seed start from the same noise, so deterministic samplers agree the better, the more calls they make.

# %%
cases = [("ddim", 5), ("ddim", 50), ("heun", 5), ("heun", 18), ("dpmpp_2m", 5), ("dpmpp_2m", 20), ("unipc", 5), ("euler_ancestral", 50)]
cases = cases[:3] if small else cases
figure, axes = plt.subplots(len(cases), 1, figsize=(8, len(cases) * 1.1))
for axis, (name, steps) in zip(axes, cases):
    images = model.sample(labels=labels, sampler=name, steps=steps, guidance_scale=1.0)
    calls, _ = model.nfe(sampler=name, steps=steps, guidance_scale=1.0)
    strip(axis, images, f"{name}, {steps} rungs, {calls} calls")
figure.tight_layout()

# %% [markdown]
# How far each is from the fine solution, against the calls that it takes.

# %%
count = 4 if small else 50
asked = dict(labels=np.arange(count) % 10, guidance_scale=1.0)
fine = model.sample(sampler="heun", steps=8 if small else 60, **asked).astype(float)
for name in ("ddim", "dpmpp_2m", "heun", "unipc"):
    steps = (2, 4) if small else (3, 5, 8, 12, 20)
    calls = [model.nfe(sampler=name, steps=one, guidance_scale=1.0)[0] for one in steps]
    errors = [np.sqrt(np.mean((model.sample(sampler=name, steps=one, **asked) - fine) ** 2)) for one in steps]
    plt.loglog(calls, errors, "o-", label=name)
plt.xlabel("denoiser calls")
plt.ylabel("rms difference, levels of 255")
plt.legend()

# %% [markdown]
# One noise in several numbers of steps, as one call; and how long it takes.

# %%
began = time.time()
compared = model.compare_steps((2, 4) if small else (5, 10, 20), num_images=8)
print(f"{time.time() - began:.1f} s")
figure, axes = plt.subplots(len(compared), 1, figsize=(7, len(compared) * 1.1))
for axis, images in zip(axes, compared):
    strip(axis, np.asarray(images), "")

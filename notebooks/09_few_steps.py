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
# # Few steps
#
# Users pay for every call of the network. First the best way to spend a few calls on a model as it is; then a model that needs one.

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

# %% [markdown]
# `tune` seeks sampler, ladder and guidance for a number of calls (here with few images; 5,000 are its default).

# %%
images = 48 if small else 300
# !{sys.executable} -m jdiff.main --mode=tune --workdir=runs/digits --config.tune.nfe="(5,)" --config.tune.images={images} --config.eval.features=pixels --config.tune.samplers="('dpmpp_2m',)" --config.tune.finalists=1

# %%
import matplotlib.pyplot as plt
import numpy as np

import jdiff

model = jdiff.load("runs/digits")
labels = np.arange(10)


def strips(found):
    figure, axes = plt.subplots(len(found), 1, figsize=(8, len(found) * 1.1), squeeze=False)
    for axis, (title, images) in zip(axes[:, 0], found.items()):
        axis.imshow(np.concatenate(list(images.squeeze(-1)), axis=1), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, loc="left", fontsize=9)
        axis.axis("off")
    figure.tight_layout()


strips(
    {
        "5 calls, the default ladder": model.sample(labels=labels, sampler="dpmpp_2m", steps=5),
        "5 calls, tuned": model.sample(labels=labels, preset=5),
        "1 call": model.sample(labels=labels, sampler="euler", steps=1, guidance_scale=1.0),
    }
)

# %% [markdown]
# Consistency tuning: some minutes from the run's weights, and one or two calls are enough.

# %%
steps = 10 if small else 400
# !{sys.executable} -m jdiff.main --config=digits_ect --workdir=runs/digits_ect --config.train.initial=runs/digits --config.train.steps={steps} --config.train.sample_every=0

# %%
fast = jdiff.load("runs/digits_ect")
strips({f"{calls} call{'s' * (calls > 1)}": fast.sample(labels=labels, sampler="consistency", steps=calls) for calls in (1, 2)})

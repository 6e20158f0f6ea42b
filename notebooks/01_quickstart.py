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
# # Draw digits in a few minutes
#
# Train a small class-conditional diffusion model on the digits that scikit-learn carries, draw from it, and find it again.

# %%
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("jdiff") is None:  # on Colab: clone jdiff, and go to its folder notebooks
    where = os.environ.get("JDIFF_REPOSITORY", "..")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", where], check=True)
small = bool(os.environ.get("JDIFF_SMALL"))  # a check that everything runs, not a result

# %% [markdown]
# One command trains. It is the README's, for fewer steps; on two CPU cores it takes about two minutes.

# %%
steps = 20 if small else 600
# !{sys.executable} -m jdiff.main --config=digits --workdir=runs/digits --config.train.steps={steps}

# %% [markdown]
# The run's folder holds checkpoints, curves and pictures. A model is loaded from it at any time, also while it trains.

# %%
import matplotlib.pyplot as plt
import numpy as np

import jdiff

model = jdiff.load("runs/digits")
images = model.sample(labels=np.arange(30) % 10, guidance_scale=1.5)
images.shape, images.dtype


# %%
def show(images, columns=10, title=""):
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * 0.8, rows * 0.8), squeeze=False)
    for place, axis in enumerate(axes.flat):
        axis.axis("off")
        if place < len(images):
            axis.imshow(images[place].squeeze(), cmap="gray", vmin=0, vmax=255)
    figure.suptitle(title)


show(images, title="a column a class")

# %% [markdown]
# An image depends on its class, the seed and its number alone: not on the batch, nor on the number of devices.

# %%
again = model.sample(labels=[3, 7], batch_size=1)
np.array_equal(again, model.sample(labels=[3, 7], batch_size=2))

# %% [markdown]
# The curves of the training, from `metrics.jsonl`, an object a line.

# %%
import json
from pathlib import Path

lines = [json.loads(line) for line in Path("runs/digits/metrics.jsonl").read_text().splitlines()]
losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
if losses:
    plt.plot(*zip(*losses))
    plt.xlabel("step")
    plt.ylabel("loss")

# %% [markdown]
# The same command with more steps goes on where it was: `--config.train.steps=1000`.

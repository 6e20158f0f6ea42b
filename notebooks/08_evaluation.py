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
# # How good is it
#
# A distance means something with its protocol alone: features, number of images, guidance, sampler. `evaluate` tells all of it.

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
import jdiff

model = jdiff.load("runs/digits")
count = 64 if small else 500
found = model.evaluate(count, features="pixels", guidance_scale=1.0, steps=3 if small else 18)
print(found)

# %% [markdown]
# More calls, better pictures, up to a point. Each line is of the same noise.

# %%
import matplotlib.pyplot as plt

calls, distances = [], []
for steps in (2, 3) if small else (3, 5, 8, 12):
    asked = dict(sampler="dpmpp_2m", steps=steps, guidance_scale=1.0)
    distances.append(model.evaluate(count, features="pixels", **asked)["fd_pixels"])
    calls.append(model.nfe(**asked)[0])
plt.plot(calls, distances, "o-")
plt.xlabel("denoiser calls")
plt.ylabel("Frechet distance of pixels")

# %% [markdown]
# Does it repeat its training images? The distance from each drawn digit to the nearest training digit, beside that of held-out ones.

# %%
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import train_test_split

x, y = load_digits(return_X_y=True)
train, held_out = train_test_split(x / 8 - 1, test_size=297, random_state=0, stratify=y)
drawn = model.sample(labels=np.arange(count) % 10, guidance_scale=1.0, steps=3 if small else 18).reshape(count, -1) / 127.5 - 1
for name, images in (("held out", held_out), ("drawn", drawn)):
    plt.hist(pairwise_distances(images, train).min(1), bins=30, alpha=0.6, density=True, label=name)
plt.xlabel("distance to the nearest training digit")
plt.legend()

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
# # Guidance
#
# D = w D_cond + (1 - w) D_uncond: w = 1 is the conditional model, w = 0 the unconditional one, more is guided.

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
import matplotlib.pyplot as plt
import numpy as np

import jdiff

model = jdiff.load("runs/digits")
labels = np.arange(10)
asked = dict(labels=labels, steps=3 if small else 18)


def rows(found):
    figure, axes = plt.subplots(len(found), 1, figsize=(8, len(found) * 1.1))
    for axis, (title, images) in zip(axes, found.items()):
        axis.imshow(np.concatenate(list(images.squeeze(-1)), axis=1), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, loc="left", fontsize=9)
        axis.axis("off")
    figure.tight_layout()


# %%
rows({f"w = {w:g}": model.sample(guidance_scale=w, **asked) for w in (0.0, 1.0, 2.0, 4.0, 8.0)})

# %% [markdown]
# Strong guidance saturates: the share of pixels at the ends of the range grows. Rescaling and an interval help.

# %%
scales = (1.0, 4.0) if small else (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


def saturated(**settings):
    shares = []
    for w in scales:
        images = model.sample(labels=np.arange(20) % 10, steps=asked["steps"], guidance_scale=w, **settings)
        shares.append(np.mean((images == 0) | (images == 255)))
    return shares


plt.plot(scales, saturated(), "o-", label="plain")
plt.plot(scales, saturated(rescale=0.7), "o-", label="rescaled by 0.7")
plt.plot(scales, saturated(sigma_low=0.3, sigma_high=5.0), "o-", label="for sigma in (0.3, 5] alone")
plt.xlabel("w")
plt.ylabel("share of pixels that are black or white")
plt.legend()

# %% [markdown]
# A scale for each image: here w rises from 0 for the first digit to 9 for the last.

# %%
rows({"w = 0 ... 9": model.sample(guidance_scale=np.arange(10.0), **asked)})

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
# # Latents
#
# An autoencoder brings images to a few numbers and back; a diffusion model of these numbers does all that one of pixels does.

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
steps = 10 if small else 400
# !{sys.executable} -m jdiff.main --config=digits_vae --workdir=runs/digits_vae --config.train.steps={steps} --config.train.sample_every=0

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import jdiff

vae = jdiff.load("runs/digits_vae")
digits = np.minimum(load_digits().images[:10, ..., None] * 16, 255).astype(np.uint8)


def strips(*rows):
    figure, axes = plt.subplots(len(rows), 1, figsize=(8, len(rows)), squeeze=False)
    for axis, images in zip(axes[:, 0], rows):
        axis.imshow(np.concatenate(list(np.asarray(images).squeeze(-1)), axis=1), cmap="gray", vmin=0, vmax=255)
        axis.axis("off")


strips(digits, vae.reconstruct(digits))

# %% [markdown]
# From one digit to another, by way of their latents.

# %%
strips(vae.interpolate(digits[0], digits[1], 9))

# %% [markdown]
# A diffusion model of the latents. The autoencoder's weights are copied into its folder.

# %%
steps = 10 if small else 400
# !{sys.executable} -m jdiff.main --config=digits_ldm --workdir=runs/digits_ldm --config.space.autoencoder=runs/digits_vae --config.train.steps={steps} --config.train.sample_every=0 --config.train.trajectory_every=0

# %%
model = jdiff.load("runs/digits_ldm")
strips(model.sample(labels=np.arange(10), guidance_scale=1.5, steps=3 if small else 18))
print("latents:", model.encode(digits).shape, "of images", digits.shape)

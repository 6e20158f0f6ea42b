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
# # The forward process, seen
#
# Every process here is x = x0 + sigma eps: DDPM's tables, EDM's sigmas, flow matching differ in which sigma belongs to which time,
# and in how they scale x.

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
import matplotlib.pyplot as plt
import numpy as np

from jdiff.diffusion import ladders, tables

# %% [markdown]
# Which noise belongs to which time.

# %%
t = np.linspace(0.001, 0.999, 200)
tables_by_name = {
    "linear": tables.linear_betas(1000),
    "scaled linear": tables.scaled_linear_betas(1000),
    "cosine": tables.cosine_betas(1000),
}
for name, betas in tables_by_name.items():
    kept = np.cumprod(1 - np.asarray(betas, np.float64))
    plt.semilogy(np.linspace(0, 1, 1000), np.sqrt((1 - kept) / kept), label=f"DDPM, {name}")
plt.semilogy(t, t / (1 - t), label="flow matching")
plt.xlabel("t")
plt.ylabel("sigma")
plt.legend()

# %% [markdown]
# Digits on their way to noise. `model.forward` shows what a model was trained to undo; here by hand.

# %%
from sklearn.datasets import load_digits

x0 = load_digits().images[:6, ..., None] / 8 - 1
rng = np.random.default_rng(0)
eps = rng.normal(size=x0.shape)
sigmas = [0, 0.1, 0.3, 0.75, 1.5, 4, 20]
figure, axes = plt.subplots(len(x0), len(sigmas), figsize=(len(sigmas), len(x0)))
for column, sigma in enumerate(sigmas):
    noisy = (x0 + sigma * eps) / np.sqrt(1 + sigma**2)
    for row, axis in enumerate(axes[:, column]):
        axis.imshow(noisy[row].squeeze(), cmap="gray", vmin=-1.5, vmax=1.5)
        axis.axis("off")
    axes[0, column].set_title(f"{sigma:g}")

# %% [markdown]
# A ladder is the sigmas that a sampler steps down. More rungs lie where the image is decided.

# %%
for rho in (1, 3, 7):
    plt.semilogy(ladders.karras(18, sigma_max=80.0, sigma_min=0.002, rho=rho)[:-1], ".-", label=f"Karras, rho {rho}")
plt.xlabel("rung")
plt.ylabel("sigma")
plt.legend()

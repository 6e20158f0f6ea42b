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
# # Weights of diffusers: in, fine-tuned, out
#
# A network of diffusers becomes the start of a run here, and the trained run a model that diffusers reads. Needs `pip install diffusers torch`.

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
# Here a small network with weights at random; put a folder of yours in its place. Nothing is downloaded.

# %%
import diffusers
import torch

torch.manual_seed(0)
theirs = diffusers.UNet2DModel(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    layers_per_block=1,
    block_out_channels=(32, 64),
    norm_num_groups=8,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
theirs.save_pretrained("theirs")

# %% [markdown]
# Fine-tune it on digits, without classes, in the process that it knows: DDPM's linear table and eps prediction.

# %%
steps = 20 if small else 600
keys = (
    "--config=digits --config.train.initial=theirs --workdir=runs/tuned --config.model.conditions=() --config.model.prediction=eps "
    "--config.model.schedule=linear --config.sample.sampler=ddim --config.sample.steps=20 --config.sample.guidance_scale=None "
    "--config.train.sample_every=0 --config.train.trajectory_every=0"
).split()
command = [sys.executable, "-m", "jdiff.main", *keys, f"--config.train.steps={steps}"]
result = subprocess.run(command, capture_output=True, text=True)
print(result.stdout[-600:], result.stderr[-600:])

# %%
import matplotlib.pyplot as plt

import jdiff

model = jdiff.load("runs/tuned")
drawn = model.sample(10, seed=1)
figure, axes = plt.subplots(1, 10, figsize=(10, 1.2))
for axis, image in zip(axes, drawn, strict=True):
    axis.imshow(image.squeeze(), cmap="gray")
    axis.axis("off")

# %% [markdown]
# And back: diffusers reads what is exported, and its network says what ours says. Ours says x0, of x = x0 + sigma z; theirs eps, of
# x sqrt(alpha_bar).

# %%
import numpy as np

model.export("exported", like="theirs")
again = diffusers.UNet2DModel.from_pretrained("exported")
t = 500
alpha_bar = np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: t + 1])
sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
x = (np.random.default_rng(0).normal(size=(2, 8, 8, 1)) / np.sqrt(alpha_bar)).astype(np.float32)
with torch.no_grad():
    theirs_x = torch.from_numpy((x * np.sqrt(alpha_bar)).astype(np.float32).transpose(0, 3, 1, 2))
    eps = again(theirs_x, t).sample.numpy().transpose(0, 2, 3, 1)
ours = (x - np.asarray(model.denoise(x, sigma))) / sigma
print(f"largest difference {np.abs(ours - eps).max():.1e}, of values up to {np.abs(eps).max():.2f}")
assert np.abs(ours - eps).max() < 1e-3

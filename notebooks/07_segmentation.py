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
# # Segmentation
#
# Masks are drawn from photos, so several draws show where the model is unsure.

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
# Pairs of a picture and a mask, in two folders of equal names; here discs of two textures, whose edges are blurred. Put your own in
# their place.

# %%
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

rng = np.random.default_rng(0)
for split, count in (("train", 40 if small else 600), ("test", 8)):
    for part in ("images", "masks"):
        Path("discs", split, part).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        y, x = np.mgrid[:32, :32]
        centre, radius = rng.uniform(10, 22, 2), rng.uniform(5, 10)
        mask = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
        grey = 90 + 60 * mask + rng.normal(0, 25, mask.shape)
        picture = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.5))
        picture.convert("RGB").save(f"discs/{split}/images/{number:04d}.png")
        Image.fromarray((mask * 255).astype(np.uint8)).save(f"discs/{split}/masks/{number:04d}.png")

# %%
steps = 12 if small else 400
keys = (
    "--config=pairs --config.data.dir=discs --config.data.image_size=32 --workdir=runs/discs --config.network.channels=16 "
    "--config.network.channel_mults=(1,2,2) --config.network.blocks_per_level=1 --config.network.attention_levels=() "
    "--config.network.dtype=float32 --config.train.batch_size=16 --config.train.learning_rate=1e-3 --config.train.warmup_images=800 "
    "--config.train.ema_halflife_images=1000 --config.train.sample_every=0 --config.train.trajectory_every=0 --config.log.every=50"
).split()
command = [sys.executable, "-m", "jdiff.main", *keys, f"--config.train.steps={steps}"]
result = subprocess.run(command, capture_output=True, text=True)
print(result.stdout[-500:], result.stderr[-500:])

# %% [markdown]
# Eight masks an image: their mean is a probability, their disagreement the uncertainty.

# %%
import matplotlib.pyplot as plt

import jdiff

model = jdiff.load("runs/discs")
images = np.stack([np.asarray(Image.open(file)) for file in sorted(Path("discs/test/images").iterdir())[:4]])
truth = [np.asarray(Image.open(file)) for file in sorted(Path("discs/test/masks").iterdir())[:4]]
found = model.segment(images, members=2 if small else 8)
figure, axes = plt.subplots(4, len(images), figsize=(2 * len(images), 8))
for column in range(len(images)):
    shown = (images[column], truth[column], found.probabilities[column][..., -1], found.variance[column])
    for row, picture in enumerate(shown):
        axes[row, column].imshow(picture.squeeze(), cmap="gray")
        axes[row, column].axis("off")
for row, title in enumerate(("picture", "truth", "probability", "variance")):
    axes[row, 0].set_title(title)

# %% [markdown]
# Scores of all test pairs, in the command's words:

# %%
# !{sys.executable} -m jdiff.main --mode=evaluate --workdir=runs/discs --config.segment.members=2

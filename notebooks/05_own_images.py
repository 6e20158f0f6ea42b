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
# # Your own images
#
# A folder of pictures, what the data doctor says of it, training, a stop and going on.

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
# A folder as people have them: two classes in sub-folders, other sizes, and one file that is no picture. Put your own in its place.

# %%
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

folder = Path("photos")
rng = np.random.default_rng(0)
for name, photo in zip(("temple", "flower"), load_sample_images().images):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(24 if small else 200):
        side = int(rng.integers(80, 200))
        top, left = (int(rng.integers(0, size - side)) for size in photo.shape[:2])
        Image.fromarray(photo[top : top + side, left : left + side]).save(folder / name / f"{number:03d}.png")
(folder / "flower" / "broken.png").write_bytes(b"no picture")

# %% [markdown]
# The doctor first.

# %%
# !{sys.executable} -m jdiff.main --mode=inspect --config=folder --config.data.dir=photos --config.data.image_size=16 --workdir=runs/photos

# %% [markdown]
# It names the broken file, and the key that skips it. A network this small is for showing the way; without these keys
# `folder.py` trains one for photos.

# %%
steps = 12 if small else 300
keys = (
    "--config=folder --config.data.dir=photos --config.data.image_size=16 --config.data.on_bad_file=skip --workdir=runs/photos "
    "--config.network.channels=24 --config.network.channel_mults=(1,2) --config.network.blocks_per_level=1 "
    "--config.network.attention_levels=() --config.network.dtype=float32 --config.train.batch_size=32 "
    "--config.train.sample_every=0 --config.train.trajectory_every=0 --config.train.holdout_images=16 --config.train.warmup_images=1000 "
    "--config.train.ema_halflife_images=2000 --config.log.every=50"
).split()
command = [sys.executable, "-m", "jdiff.main", *keys]
print(subprocess.run([*command, f"--config.train.steps={steps}"], capture_output=True, text=True).stdout[-600:])

# %% [markdown]
# The same command with more steps goes on where it ended, as it would after a kill.

# %%
print(subprocess.run([*command, f"--config.train.steps={steps + 10}"], capture_output=True, text=True).stdout[-600:])

# %%
import matplotlib.pyplot as plt

import jdiff

model = jdiff.load("runs/photos")
images = model.sample(8, steps=4 if small else 18)
plt.figure(figsize=(8, 1.5))
plt.imshow(np.concatenate(list(images), axis=1))
plt.axis("off")

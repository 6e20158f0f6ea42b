"""Does the text decide what is drawn? configs/emoji.py's model, its samples looked up among all real images.

    python -m benchmarks.emoji --data=PATH --workdir=runs/emoji [--guidance 4.0] [--json FILE]

One sample for each of 200 training captions, and for every held-out one. A sample is looked up among the images of all
captions by the distance of pixels; counted is how often its own caption's image is among the nearest five (by chance: 5
in all), and how often the image of another caption in its place (shuffled) is. The held-out captions' share is what
cannot be memory: the model has not seen these images. `copies`: samples nearer to their own image than the median
distance of a real image to its nearest other. Trains the model first where the folder holds none. Pictures, real above
drawn, are WORKDIR/samples/held_in.png and held_out.png.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from sklearn.metrics import pairwise_distances

import jdiff
from jdiff import from_config
from jdiff.common import pictures
from jdiff.data.pipeline import fixed_rows
from jdiff.main import main as command

HELD_IN, NEAREST, SHOWN = 200, 5, 12

Images = UInt8[np.ndarray, "n h w c"]


def real(model: jdiff.Model) -> tuple[Images, list[str], Images, list[str]]:
    """(training images, their captions, held-out images, theirs)."""
    train, held_out = from_config.sources(model.config)
    assert held_out is not None
    view = from_config.view(model.config, train=False)

    def images(source: Any) -> Images:
        records = source.__getitems__(range(len(source)))
        rng = np.random.default_rng(0)
        return np.stack([view({**record, "text": 0}, rng)["x0"] for record in records])

    return images(train), list(train.captions), images(held_out), list(held_out.captions)


def ranks(samples: Images, own: np.ndarray, gallery: Images) -> tuple[np.ndarray, np.ndarray]:
    """(how many images of the gallery are nearer to each sample than number own[i], the distance to that one)."""
    flat = [array.reshape(len(array), -1) / 127.5 - 1 for array in (samples, gallery)]
    distances = pairwise_distances(*flat)
    to_own = distances[np.arange(len(samples)), own]
    return (distances < to_own[:, None]).sum(axis=1), to_own


def measure(model: jdiff.Model, guidance: float, out: Path) -> dict[str, float]:
    train_images, train_captions, other_images, other_captions = real(model)
    gallery = np.concatenate([train_images, other_images])
    chosen = fixed_rows(train_images, HELD_IN)  # type: ignore[arg-type]
    sets = {
        "held_in": (chosen, [train_captions[row] for row in chosen]),
        "held_out": (len(train_images) + np.arange(len(other_images)), other_captions),
    }
    flat = gallery.reshape(len(gallery), -1) / 127.5 - 1
    apart = pairwise_distances(flat)
    np.fill_diagonal(apart, np.inf)
    usual = float(np.median(apart.min(axis=1)))
    found: dict[str, float] = {"chance": NEAREST / len(gallery)}
    for name, (own, captions) in sets.items():
        samples = model.sample(texts=captions, guidance_scale=guidance)
        nearer, distance = ranks(samples, own, gallery)
        # Every other caption's image in its place, not one shuffle alone, which would be a draw of few.
        shuffled = [float(np.mean(ranks(samples, np.roll(own, k), gallery)[0] < NEAREST)) for k in range(1, 21)]
        found[f"{name}_top5"] = float(np.mean(nearer < NEAREST))
        found[f"{name}_first"] = float(np.mean(nearer == 0))
        found[f"{name}_shuffled_top5"] = float(np.mean(shuffled))
        found[f"{name}_copies"] = float(np.mean(distance < usual))
        columns = np.unique(np.linspace(0, len(own) - 1, SHOWN).astype(int))
        both = np.concatenate([gallery[own[columns]], samples[columns]])
        pictures.save_png(out / f"{name}.png", pictures.grid(both, len(columns)))
        print(f"{name}: {'; '.join(captions[column] for column in columns)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images with captions, such as Noto Emoji")
    parser.add_argument("--workdir", type=Path, default=Path("runs/emoji"), help="a run of configs/emoji.py")
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if not (options.workdir / "checkpoints").is_dir():
        config = Path(__file__).parents[1] / "configs" / "emoji.py"
        if status := command(
            [f"--config={config}", f"--config.data.dir={options.data}", f"--workdir={options.workdir}"]
        ):
            sys.exit(status)
    result = measure(jdiff.load(options.workdir), options.guidance, options.workdir / "samples")
    for name, value in result.items():
        print(f"{name:24} {value:8.2%}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

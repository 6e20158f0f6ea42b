"""Images from images: photos of facades from maps, clothes from edges, digits from thumbnails by an adapter. Does what
is drawn follow its condition?

    python -m benchmarks.translation --data=DIR --out=runs/translation [--tasks=facades,edges,adapter] [--score]

DIR holds facades_100 and tfds/fashion_mnist (JDIFF_TEST_DATA). Each task is a config of configs/ with a network that
two cores can train, trained by the command; a run that is there goes on. --score draws and measures:

facades: 64x64, 90 pairs; 8 photos for each of the 10 held-out maps. The rank of a map's own photo among the ten, by
the nearness of their edges to those of a drawn photo: its mean over the 80 (1 is best, 5.5 is chance), the p of a
permutation of photos, and the mean with the maps shuffled.
edges: Fashion-MNIST, 28x28; one image for each of 1,000 held-out images' edges (XDoG). The share that the classifier of
benchmarks/quality reads as the class of the image whose edges they were.
adapter: the run of the main job, frozen, and an adapter (ControlNet) to thumbnails of 4x4 pixels, trained for 600
steps, without labels in half of them; one digit for each held-out thumbnail, without a label. The share that the main
job's SVM reads as the class of the thumbnail's digit; and the same of the frozen model alone.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import ndimage

import jdiff
from benchmarks import digits
from benchmarks.quality import ours
from benchmarks.quality.scores import judge
from benchmarks.quality.work import Work
from jdiff import from_config
from jdiff.common.pictures import grid, save_png
from jdiff.data import pipeline

DRAWN, MAPS, EDGES = 8, 10, 1000
PERMUTATIONS = 10_000
SMALL: dict[str, Any] = {
    "network.channel_mults": (1, 2, 4),
    "network.attention_levels": (2,),
    "network.blocks_per_level": 1,
    "train.learning_rate": 1e-3,
    "train.schedule": "cosine",
    "train.warmup_images": 3_200,
    "train.ema_halflife_images": 3_000,
}
FACADES = {**SMALL, "data.image_size": 64, "network.channels": 32, "train.images": 24_000}
CLOTHES = {
    **SMALL,
    "model.conditions": ("image",),
    "condition.image.view": "xdog",
    "network.channels": 32,
    "network.dropout": 0.0,
    "train.batch_size": 128,
    "train.images": 120_000,
}

ADAPTER = {
    "model.conditions": ("label", "image"),
    "model.drop_rate": 0.5,
    "condition.image.into": "adapter",
    "condition.image.factor": 2,
    "train.steps": 600,
}

Images = UInt8[np.ndarray, "n h w c"]


def tasks(data: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> (config, settings)."""
    return {
        "facades": ("facades", {**FACADES, "data.dir": str(data / "facades_100")}),
        "edges": ("fashion_mnist", {**CLOTHES, "data.dir": str(data / "tfds")}),
    }


def train(name: str, data: Path, out: Path) -> None:
    if name == "adapter":
        ours.run("digits", {}, out / "digits")
        ours.run("digits", {**ADAPTER, "train.initial": str(out / "digits")}, out / "adapter")
        return
    config, settings = tasks(data)[name]
    ours.run(config, settings, out / name)


def held_out(model: Any, count: int) -> tuple[Images, Images, list[Any]]:
    """(images, conditions, labels or Nones) of held-out records."""
    source = from_config.sources(model.config)[1]
    assert source is not None
    batch = pipeline.fixed_batch(source, from_config.view(model.config, train=False), count)
    rows = pipeline.fixed_rows(source, count)
    return batch["x0"], batch["cond"]["image"], [source[int(row)].get("label") for row in rows]


def edge_features(images: Images) -> Float[np.ndarray, "n hw"]:
    """Blurred strength of edges, of zero mean and unit norm."""
    grey = ndimage.gaussian_filter(images.mean(axis=3), (0, 1, 1))
    strength = np.hypot(ndimage.sobel(grey, axis=1), ndimage.sobel(grey, axis=2))
    features = ndimage.gaussian_filter(strength, (0, 2, 2)).reshape(len(images), -1)
    features -= features.mean(axis=1, keepdims=True)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def ranks(drawn: Images, photos: Images) -> Int[np.ndarray, "drawn photos"]:
    """The rank of every photo by the nearness of its edges to a drawn image's; 1 is the nearest."""
    nearness = edge_features(drawn) @ edge_features(photos).T
    return 1 + (-nearness).argsort(axis=1).argsort(axis=1)


def facades(run: Path, out: Path) -> None:
    model = jdiff.load(run)
    photos, maps, _ = held_out(model, MAPS)
    of_map = np.repeat(np.arange(len(maps)), DRAWN)
    rng = np.random.default_rng(0)
    for scale in (1.0, 2.0):
        drawn = model.sample(len(of_map), cond_images=maps[of_map], guidance_scale=scale, seed=0)
        found = ranks(drawn, photos)

        def mean_rank(photo_of_map: np.ndarray, found: np.ndarray = found) -> float:
            return float(found[np.arange(len(of_map)), photo_of_map[of_map]].mean())

        own = mean_rank(np.arange(len(maps)))
        permuted = np.array([mean_rank(rng.permutation(len(maps))) for _ in range(PERMUTATIONS)])
        p = (1 + (permuted <= own).sum()) / (1 + PERMUTATIONS)
        shuffled = np.roll(maps, 1, axis=0)
        wrong = model.sample(len(of_map), cond_images=shuffled[of_map], guidance_scale=scale, seed=0)
        shuffled_rank = ranks(wrong, photos)[np.arange(len(of_map)), of_map].mean()
        print(f"| facades, guidance {scale} | {own:.2f} | {p:.4f} | {shuffled_rank:.2f} |", flush=True)
        rows = [np.stack([maps[i], *drawn[of_map == i], photos[i]]) for i in range(len(maps))]
        save_png(out / f"facades_{scale:g}.png", grid(np.concatenate(rows), DRAWN + 2))


def edges(run: Path, out: Path, data: Path) -> None:
    model = jdiff.load(run)
    images, conditions, labels = held_out(model, EDGES)
    reads = judge(Work("fashion_mnist", {"data.dir": str(data / "tfds")}, nfes=()), out / "classifier").reads
    real = (reads(images) == labels).mean()
    for scale in (1.0, 2.0):
        drawn = model.sample(len(images), cond_images=conditions, guidance_scale=scale, seed=0)
        right = (reads(drawn) == labels).mean()
        print(f"| edges of Fashion-MNIST, guidance {scale} | read right {right:.1%} | photos {real:.1%} |", flush=True)
        rows = np.stack([conditions[:20], drawn[:20], images[:20]], axis=1).reshape(-1, *images.shape[1:])
        save_png(out / f"edges_{scale:g}.png", grid(rows, 12))


def adapter(run: Path, out: Path) -> None:
    frozen, model = jdiff.load(out / "digits"), jdiff.load(run)
    images, conditions, labels = held_out(model, EDGES)
    count = {
        name: sum(leaf.size for leaf in jax.tree.leaves(one.params)) for name, one in (("base", frozen), ("all", model))
    }
    share = count["all"] / count["base"] - 1
    for scale in (1.0, 2.0):
        drawn = model.sample(len(images), cond_images=conditions, guidance_scale=scale, seed=0)
        right = digits.read_right(digits.pixels(drawn), np.array(labels))
        print(f"| adapter of {share:.0%} of the parameters, guidance {scale} | read right {right:.1%} |", flush=True)
    base: dict[str, Any] = {"labels": np.array(labels), "guidance_scale": 1.0, "seed": 0}
    alone = model.sample(len(images), cond_images=conditions, adapter_scale=0.0, **base)
    same = (alone == frozen.sample(len(images), **base)).all()
    drawn_without = model.sample(len(images), cond_images=conditions, adapter_scale=0.0, guidance_scale=1.0, seed=0)
    without = digits.read_right(digits.pixels(drawn_without), np.array(labels))
    print(f"| at scale 0 | the frozen model's images: {same}; without labels read right {without:.1%} |", flush=True)
    rows = np.stack([conditions[:20], drawn[:20], images[:20]], axis=1).reshape(-1, *images.shape[1:])
    save_png(out / "adapter.png", grid(rows, 12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/translation"))
    parser.add_argument("--tasks", default="facades,edges,adapter")
    parser.add_argument("--score", action="store_true", help="measure what was trained")
    options = parser.parse_args()
    score = {
        "facades": lambda run: facades(run, options.out),
        "edges": lambda run: edges(run, options.out, options.data),
        "adapter": lambda run: adapter(run, options.out),
    }
    for name in options.tasks.split(","):
        if name not in score:
            parser.error(f"--tasks={name}: there are {', '.join(score)}")
        if options.score:
            score[name](options.out / name)
        else:
            train(name, options.data, options.out)


if __name__ == "__main__":
    main()

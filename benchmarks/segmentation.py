"""Segmentation by diffusion against the same network without it: ISIC 2018 at 64x64.

    python -m benchmarks.segmentation --data=DIR --out=runs/segmentation [--minutes=40 | --images=N] [--size=64]
                                      [--gpu] [--raters] [--score [--jobs=1]]

DIR holds train/ and test/ with images/ and masks/. Both are configs/isic2018.py with a small network, trained for as
many minutes, or for N images over which the learning rate falls to 0 by a cosine; a run that is there goes on. --gpu:
more channels, bfloat16, larger batches, both sides at once. --score then evaluates them on the test pairs, --jobs
at a time: diffusion in 1, 2, 5 and 10 steps, both with 1 and 5 members, and prints a table with the difference from the
plain network, paired over images, and the seconds that an image takes, measured one after another.
--raters makes four masks of each first (tests/raters.py) and compares 16 samples with them.
"""

import argparse
import csv
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import jdiff
from benchmarks.kinds import flags
from jdiff.metrics.resampling import bootstrap_difference
from tests.raters import four_raters

CONFIG = Path(__file__).parents[1] / "configs" / "isic2018.py"
SETTINGS: dict[str, Any] = {
    "network.channels": 16,
    "network.attention_levels": (),
    "network.blocks_per_level": 1,
    "train.learning_rate": 1e-3,
    "train.warmup_images": 3_200,
    "train.ema_halflife_images": 5_000,
    "train.sample_every": 0,
    "train.trajectory_every": 0,
    "log.progress": False,
    "log.tensorboard": False,
}
GPU: dict[str, Any] = {
    "network.channels": 24,
    "network.dtype": "bfloat16",
    "train.batch_size": 64,
    "train.ema_halflife_images": 20_000,
    "checkpoint.every": 1_000_000,
}
SIDES = {"diffusion": {}, "plain": {"task": "segmentation"}}
STEPS = {"diffusion": (1, 2, 5, 10), "plain": (1,)}
BATCH = 120  # masks drawn at once

Setting = tuple[str, int, int]  # side, steps, members


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "jdiff.main", *arguments]


def train(settings: dict[str, Any], workdir: Path, minutes: float) -> None:
    """For so many minutes, by SIGTERM; the time that earlier starts took counts."""
    spent = workdir / "minutes.json"
    before = json.loads(spent.read_text()) if spent.exists() else 0.0
    if before >= minutes:
        return
    began = time.monotonic()
    process = subprocess.Popen(command(f"--config={CONFIG}", *flags({**SETTINGS, **settings}), f"--workdir={workdir}"))
    try:
        process.wait(60 * (minutes - before))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
    spent.write_text(json.dumps(before + (time.monotonic() - began) / 60))


def raters(data: Path, size: int, out: Path) -> Path:
    """The pairs with four masks an image, of the model's size."""
    for split in ("train", "test") if not (out / "done").exists() else ():
        for number, file in enumerate(sorted((data / split / "masks").iterdir())):
            mask = np.asarray(Image.open(file).convert("L").resize((size, size), Image.Resampling.NEAREST)) > 127
            image = next((data / split / "images").glob(f"{file.stem.removesuffix('_segmentation')}.*"))
            for folder in ("images", "masks"):
                (out / split / folder).mkdir(parents=True, exist_ok=True)
            Image.open(image).convert("RGB").resize((size, size), Image.Resampling.BICUBIC).save(
                out / split / "images" / f"{image.stem}.png"
            )
            for rater, drawn in enumerate(four_raters(mask, number)):
                Image.fromarray(np.where(drawn, 255, 0).astype(np.uint8)).save(
                    out / split / "masks" / f"{image.stem}_{rater}.png"
                )
    (out / "done").touch()
    return out


def evaluated(out: Path, setting: Setting) -> Path:
    """The folder of a setting's scores, evaluated unless it is there."""
    side, steps, members = setting
    place = out / "scores" / f"{side}_{steps}_{members}"
    if not (place / "evaluation.json").exists():
        given = flags({"sample.steps": steps, "segment.members": members, "sample.batch_size": BATCH})
        subprocess.run(command("--mode=evaluate", f"--workdir={out / side}", *given, f"--out={place}"), check=True)
    return place


def read(place: Path) -> tuple[dict[str, float], np.ndarray]:
    """(numbers, the Dice of each image)."""
    numbers = json.loads((place / "evaluation.json").read_text())["numbers"]
    rows = list(csv.DictReader((place / "masks.csv").open()))
    return {name: one["value"] for name, one in numbers.items()}, np.array([float(row["dice"]) for row in rows])


def seconds_an_image(out: Path, data: Path, setting: Setting) -> float:
    """Of as many images as fill one batch, compiled before."""
    side, steps, members = setting
    model = jdiff.load(out / side)
    names = sorted((data / "test" / "images").iterdir())[: BATCH // members]
    size = model.config.data.shape[:2]
    images = np.stack([np.asarray(Image.open(name).convert("RGB").resize(size[::-1])) for name in names])
    how: dict[str, Any] = {"steps": steps} if side == "diffusion" else {}
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        model.segment(images, members=members, batch_size=BATCH, **how)
        taken.append(time.perf_counter() - began)
    return min(taken[1:]) / len(images)


def table(out: Path, data: Path, members: tuple[int, ...], jobs: int) -> None:
    settings = [(side, steps, count) for side in SIDES for steps in STEPS[side] for count in members]
    if 5 in members:
        settings.append(("diffusion", 1, 10))
    with ThreadPoolExecutor(jobs) as pool:
        places = dict(zip(settings, pool.map(lambda setting: evaluated(out, setting), settings), strict=True))
    found = {setting: read(place) for setting, place in places.items()}
    best_plain = max((key for key in found if key[0] == "plain"), key=lambda key: found[key][0]["dice"])
    names = [name for name in next(iter(found.values()))[0] if all(name in one for one, _ in found.values())]
    print("| side | NFE | members | " + " | ".join(names) + " | Dice less the plain network's | seconds an image |")
    print("| --- " * (len(names) + 5) + "|")
    for setting, (numbers, dice) in found.items():
        gap = bootstrap_difference(dice, found[best_plain][1])
        cells = " | ".join(f"{numbers[name]:.4g}" for name in names)
        difference = f"{gap.estimate:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
        side, steps, count = setting
        taken = seconds_an_image(out, data, setting)
        print(f"| {side} | {steps} | {count} | {cells} | {difference} | {taken:.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/segmentation"))
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--images", type=int, help="how many to train on, if minutes allow")
    parser.add_argument("--size", type=int, default=64, help="of images and masks")
    parser.add_argument("--jobs", type=int, default=1, help="evaluations at a time")
    parser.add_argument("--gpu", action="store_true", help="a network and batches for a GPU")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--raters", action="store_true")
    parser.add_argument("--score", action="store_true")
    options = parser.parse_args()
    data = raters(options.data, options.size, options.out / "data") if options.raters else options.data
    if options.score:
        table(options.out, data, (16,) if options.raters else (1, 5), options.jobs)
        return
    more: dict[str, Any] = {
        "data.dir": str(data),
        "data.image_size": options.size,
        "network.channel_mults": (1, 2, 4, 8) if options.size <= 64 else (1, 1, 2, 4, 8),
        "train.images": options.images or 10_000_000,
        "train.schedule": "cosine" if options.images else "constant",
    }
    if options.gpu:
        more |= GPU
    if options.raters:
        more |= {"data.several": "raters", "data.suffixes": ("", "")}
    sides = options.sides.split(",")
    with ThreadPoolExecutor(len(sides) if options.gpu else 1) as pool:
        for _ in pool.map(lambda side: train({**more, **SIDES[side]}, options.out / side, options.minutes), sides):
            pass


if __name__ == "__main__":
    main()

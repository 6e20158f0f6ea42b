"""Segmentation by diffusion against the same network without it: ISIC 2018 at 64x64.

    python -m benchmarks.segmentation --data=DIR --out=runs/segmentation [--minutes=40] [--raters] [--score]

DIR holds train/ and test/ with images/ and masks/. Both are configs/isic2018.py with a small network, trained for as
many minutes; a run that is there goes on. --score then evaluates them on the test pairs: diffusion in 1, 2, 5 and 10
steps, both with 1 and 5 members, and prints a table with the difference from the plain network, paired over images.
--raters makes four masks of each first (tests/raters.py) and compares 16 samples with them.
"""

import argparse
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.kinds import flags
from jdiff.metrics.resampling import bootstrap_difference
from tests.raters import four_raters

CONFIG = Path(__file__).parents[1] / "configs" / "isic2018.py"
SETTINGS: dict[str, Any] = {
    "data.image_size": 64,
    "network.channels": 24,
    "network.channel_mults": (1, 2, 4),
    "network.attention_levels": (),
    "network.blocks_per_level": 1,
    "train.images": 10_000_000,
    "train.learning_rate": 1e-3,
    "train.warmup_images": 3_200,
    "train.ema_halflife_images": 5_000,
    "train.sample_every": 0,
    "train.trajectory_every": 0,
    "log.progress": False,
    "log.tensorboard": False,
}
SIDES = {"diffusion": {}, "plain": {"task": "segmentation"}}
STEPS = {"diffusion": (1, 2, 5, 10), "plain": (1,)}


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


def raters(data: Path, out: Path) -> Path:
    """The pairs with four masks an image, at 64x64."""
    for split in ("train", "test") if not (out / "done").exists() else ():
        for number, file in enumerate(sorted((data / split / "masks").iterdir())):
            mask = np.asarray(Image.open(file).convert("L").resize((64, 64), Image.Resampling.NEAREST)) > 127
            image = next((data / split / "images").glob(f"{file.stem.removesuffix('_segmentation')}.*"))
            for folder in ("images", "masks"):
                (out / split / folder).mkdir(parents=True, exist_ok=True)
            Image.open(image).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC).save(
                out / split / "images" / f"{image.stem}.png"
            )
            for rater, drawn in enumerate(four_raters(mask, number)):
                Image.fromarray(np.where(drawn, 255, 0).astype(np.uint8)).save(
                    out / split / "masks" / f"{image.stem}_{rater}.png"
                )
    (out / "done").touch()
    return out


def score(workdir: Path, out: Path, steps: int, members: int) -> tuple[dict[str, float], np.ndarray]:
    """(numbers, the Dice of each image)."""
    settings = {"sample.steps": steps, "segment.members": members, "sample.batch_size": 120}
    given = flags(settings)
    subprocess.run(command("--mode=evaluate", f"--workdir={workdir}", *given, f"--out={out}"), check=True)
    held = json.loads((out / "evaluation.json").read_text())
    rows = list(csv.DictReader((out / "masks.csv").open()))
    numbers = {name: one["value"] for name, one in held["numbers"].items()}
    numbers["seconds_an_image"] = held["seconds"] / held["count"]
    return numbers, np.array([float(row["dice"]) for row in rows])


def table(out: Path, members: tuple[int, ...]) -> None:
    found = {}
    for side in SIDES:
        for steps in STEPS[side]:
            for count in members:
                place = out / "scores" / f"{side}_{steps}_{count}"
                found[side, steps, count] = score(out / side, place, steps, count)
    best_plain = max((key for key in found if key[0] == "plain"), key=lambda key: found[key][0]["dice"])
    names = [name for name in next(iter(found.values()))[0] if all(name in one for one, _ in found.values())]
    print("| side | NFE | members | " + " | ".join(names) + " | Dice less the plain network's |")
    print("| --- " * (len(names) + 4) + "|")
    for (side, steps, count), (numbers, dice) in found.items():
        gap = bootstrap_difference(dice, found[best_plain][1])
        cells = " | ".join(f"{numbers[name]:.4g}" for name in names)
        print(f"| {side} | {steps} | {count} | {cells} | {gap.estimate:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/segmentation"))
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--raters", action="store_true")
    parser.add_argument("--score", action="store_true")
    options = parser.parse_args()
    data = raters(options.data, options.out / "data") if options.raters else options.data
    if options.score:
        table(options.out, (16,) if options.raters else (1, 5))
        return
    more: dict[str, Any] = {"data.dir": str(data)}
    if options.raters:
        more |= {"data.several": "raters", "data.suffixes": ("", "")}
    for side in options.sides.split(","):
        train({**more, **SIDES[side]}, options.out / side, options.minutes)


if __name__ == "__main__":
    main()

"""Digits in one, two and four calls of the network: consistency tuning and a mean flow, beside the ordinary model.

    python -m benchmarks.few_steps --out=DIR [--only=digits_ect]

Trains what DIR does not hold yet, by the command: configs/digits.py, configs/digits_ect.py from it, and
configs/digits_meanflow.py. 1,000 images a row, 100 of each class, unguided. Accuracy and distance as in
benchmarks/samplers.py. Copies: the share nearer to one of the 1,500 training digits than 95 % of held-out ones are.
Near training, near held-out: the same limit, to 297 training digits and to the 297 held-out ones; a model that has
learned its training images by heart is nearer to the first. Variance: over all pixels, of real digits' (1 where drawn
digits are as various). CPU minutes: of the training alone, user and system.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import jdiff
from benchmarks.digits import copies, distance, near, pixels, read_right, real_digits
from jdiff.common.files import replace_file

IMAGES, BATCH = 1000, 500
COLUMNS = [
    "run",
    "sampler",
    "calls",
    "accuracy",
    "distance",
    "copies",
    "near training",
    "near held-out",
    "variance",
    "CPU minutes",
]
CONFIGS = Path(__file__).parents[1] / "configs"
# (config, what it starts from, its samplers and their calls)
RUNS: list[tuple[str, str, list[tuple[str, int]]]] = [
    ("digits", "", [("euler", 1), ("heun", 18)]),
    ("digits_ect", "digits", [("consistency", 1), ("consistency", 2), ("consistency", 4)]),
    ("digits_meanflow", "", [("flow_map", 1), ("flow_map", 2), ("flow_map", 4)]),
]


def trained(name: str, initial: str, out: Path) -> tuple[Path, float]:
    """(the run, CPU minutes of its training); trained where there is none."""
    run, told = out / name, out / f"{name}.json"
    if not told.is_file():
        started = [f"--config.train.initial={out / initial}"] if initial else []
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "jdiff.main", f"--config={CONFIGS / name}.py", f"--workdir={run}", *started]
        subprocess.run(command, check=True, stdout=sys.stderr)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        replace_file(told, json.dumps({"cpu_minutes": seconds / 60}) + "\n")
    return run, json.loads(told.read_text())["cpu_minutes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--only", default="", help="configs, by comma (default: all)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train, _, held_out = real_digits()
    labels = np.arange(IMAGES) % 10
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for name, initial, samplers in RUNS:
        if options.only and name not in options.only.split(","):
            continue
        run, minutes = trained(name, initial, options.out)
        model = jdiff.load(run)
        for sampler, steps in samplers:
            wanted: dict[str, Any] = {"sampler": sampler, "steps": steps, "guidance_scale": 1.0}
            images = pixels(model.sample(labels=labels, batch_size=BATCH, **wanted))
            row = (
                f"{read_right(images, labels):.1%} | {distance(images):.3f} | {copies(images):.1%} | "
                f"{near(images, train[: len(held_out)]):.1%} | {near(images, held_out):.1%} | "
                f"{images.var(0).sum() / train.var(0).sum():.3f}"
            )
            print(f"| {name} | {sampler} | {model.nfe(**wanted)[0]} | {row} | {minutes:.1f} |", flush=True)


if __name__ == "__main__":
    main()

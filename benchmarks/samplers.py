"""Every sampler on the digits model of the README: NFE, how the digits read, how near they are to real ones, speed.

    python -m benchmarks.samplers [--workdir=runs/digits] [--only=heun,dpmpp_2m]

1,000 images at guidance 1, 100 of each class, all from the same noise. Accuracy: the share that an SVM (99 % on real
held-out digits) reads as the class asked for. Distance: Frechet's, of pixels, to the 297 held-out digits. Images/s: of
a second call, compiled, 250 images at a time; on a CPU, take them as ratios. Trains the model first where the folder
holds none.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import jdiff
from benchmarks.digits import distance, pixels, read_right
from jdiff.main import main as command

IMAGES, BATCH = 1000, 250
# (sampler, its settings): at most 50 NFE, 250 for the ones that take small random steps, 100 for the adaptive one.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("ddpm", {"steps": 250}),
    ("ddpm", {"steps": 250, "variance": "large"}),
    ("ddim", {"steps": 50}),
    ("ddim", {"steps": 50, "eta": 0.5}),
    ("euler", {"steps": 50}),
    ("euler_ancestral", {"steps": 50}),
    ("heun", {"steps": 18}),
    ("heun", {"steps": 25, "s_churn": 10.0}),
    ("dpm2", {"steps": 18}),
    ("dpmpp_2s_ancestral", {"steps": 25}),
    ("dpmpp_2m", {"steps": 10}),
    ("dpmpp_2m", {"steps": 20}),
    ("dpmpp_3m", {"steps": 20}),
    ("dpmpp_2m_sde", {"steps": 50}),
    ("dpmpp_sde", {"steps": 25}),
    ("lms", {"steps": 20}),
    ("unipc", {"steps": 10}),
    ("unipc", {"steps": 20}),
    ("langevin", {"steps": 250}),
    ("predictor_corrector", {"steps": 125}),
    ("ode", {}),
]


def measure(model: jdiff.Model, sampler: str, settings: dict) -> tuple[int, float, float, float]:
    """(NFE, accuracy, distance, images a second)."""
    wanted = {"sampler": sampler, "guidance_scale": 1.0, "batch_size": BATCH, **settings}
    images = model.sample(IMAGES, **wanted)
    began = time.perf_counter()
    model.sample(BATCH, **{**wanted, "seed": 1})
    speed = BATCH / (time.perf_counter() - began)
    labels = np.arange(IMAGES) % len(model.config.data.class_names)
    return model.nfe(**wanted)[0], read_right(pixels(images), labels), distance(pixels(images)), speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits"), help="a run of configs/digits.py")
    parser.add_argument("--only", default="", help="samplers, by comma (default: all)")
    options = parser.parse_args()
    if not (options.workdir / "checkpoints").is_dir():
        digits = Path(__file__).parents[1] / "configs" / "digits.py"
        if status := command([f"--config={digits}", f"--workdir={options.workdir}"]):
            sys.exit(status)
    model = jdiff.load(options.workdir)
    print("| sampler | settings | NFE | accuracy | distance | images/s |\n| --- | --- | --- | --- | --- | --- |")
    for sampler, settings in CASES:
        if not options.only or sampler in options.only.split(","):
            nfe, accuracy, frechet, speed = measure(model, sampler, settings)
            told = ", ".join(f"{name} {value}" for name, value in settings.items())
            print(f"| {sampler} | {told} | {nfe} | {accuracy:.1%} | {frechet:.2f} | {speed:,.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""How fast models train and sample in pixels and in latents, Fashion-MNIST by class.

    python -m benchmarks.latents --data=DIR --autoencoder=WORKDIR [--steps=30] [--rounds=2]

DIR holds the prepared data set, WORKDIR a run of configs/fashion_mnist_vae.py. Pixels: configs/fashion_mnist.py with
the network and the learning rate of configs/digits.py. Latents: configs/fashion_mnist_ldm.py, encoding at every step,
and from latents that --mode=prepare wrote. Each is trained anew in every round, one kind after the other; the figures
are those of the fastest stretch of steps, which has no compilation. Samples: guided, dpmpp_2m, 10 steps, after a first
call.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jdiff
from benchmarks.kinds import flags
from benchmarks.quality.ours import QUIET
from jdiff.main import main as command

SAMPLES = 200
SMALL = {
    "network.channels": 24,
    "network.blocks_per_level": 1,
    "network.dropout": 0.0,
    "train.learning_rate": 2e-3,
}


def run(config: str, settings: dict[str, Any], *more: str) -> None:
    """The command with a config of configs/."""
    path = Path(__file__).parents[1] / "configs" / f"{config}.py"
    if status := command([f"--config={path}", *flags(settings), *more]):
        raise SystemExit(status)


def speeds(config: str, settings: dict[str, Any], workdir: Path) -> tuple[float, float]:
    """Images/s of training, and of drawing."""
    run(config, settings, f"--workdir={workdir}")
    lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
    trained = max(row.get("images_per_s", 0.0) for row in map(json.loads, lines))
    model = jdiff.load(workdir)
    drawn: dict[str, Any] = {"num_images": SAMPLES, "sampler": "dpmpp_2m", "steps": 10, "guidance_scale": 2.0}
    model.sample(**drawn)
    began = time.monotonic()
    model.sample(**drawn)
    return trained, SAMPLES / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--autoencoder", required=True, help="a run of configs/fashion_mnist_vae.py")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    common = {
        **QUIET,
        "data.dir": options.data,
        "train.images": 0,
        "train.epochs": 0.0,
        "train.steps": options.steps,
        "train.batch_size": 128,
        "log.every": max(1, options.steps // 3),
    }
    latents = {**common, "space.autoencoder": options.autoencoder}
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "latents")
        run("fashion_mnist_ldm", latents, "--mode=prepare", f"--out={prepared}")
        kinds = {
            "pixels": ("fashion_mnist", {**common, **SMALL}),
            "latents, encoded at every step": ("fashion_mnist_ldm", latents),
            "latents, prepared": ("fashion_mnist_ldm", {**latents, "space.prepared": prepared}),
        }
        best = dict.fromkeys(kinds, (0.0, 0.0))
        for turn in range(options.rounds):
            for number, (name, (config, settings)) in enumerate(kinds.items()):
                found = speeds(config, settings, Path(folder) / f"{turn}_{number}")
                best[name] = max(best[name][0], found[0]), max(best[name][1], found[1])
    print("\n| kind | images/s of training | images/s of sampling |\n| --- | --- | --- |")
    for name, (trained, drawn) in best.items():
        print(f"| {name} | {trained:,.0f} | {drawn:,.0f} |")


if __name__ == "__main__":
    main()

"""Ours against peers at equal work: the same images seen, the same number of parameters within 2 %, three seeds.

    python -m benchmarks.quality --out=runs/quality [--data=digits,fashion_mnist] [--sides=NAMES] [--seeds=3]
                                 [--minutes=30] [--threads=2]
    python -m benchmarks.quality --out=runs/quality --score [...]

The first trains and draws; what is there already is left, so that the same command goes on after a kill. The second
scores the files and prints tables for RESULTS.md. Sides: jdiff; diffusers_example and diffusers_tuned, which want the
extra `parity`; lucidrains, which wants besides

    pip install --no-deps --target .peers denoising-diffusion-pytorch ema-pytorch accelerate torchvision

and PYTHONPATH=.peers, with a torchvision that fits the torch. Digits: configs/digits.py, 1,000 steps of 128 images.
Fashion-MNIST (in JDIFF_TEST_DATA/tfds): configs/fashion_mnist.py with a network that a CPU can train and the learning
rate of digits.py, for as many steps of 128 as take us --minutes of CPU time. All draw 1,000 images, 100 of each class,
unguided.

On digits, of a side's samplers at a number of calls (NFE) the one with the lowest FD-classifier is taken, on all sides
alike; a second table has all samplers. Heun's NFE is odd: one less is used. On Fashion-MNIST each side draws with the
sampler that won on digits, so that none is chosen by the images it is judged on.
"""

import argparse
import json
import os
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.quality import ours, peers, scores
from benchmarks.quality.work import Side, Work, asked, samples_file, trained
from jdiff.common.files import replace_file, write_whole

SIDES = {side.name: side for side in (ours.SIDE, *peers.SIDES)}
DIGITS = Work("digits", {}, nfes=(5, 10, 20, 50, 250))
WON_ON_DIGITS = {  # at 5, 10, 20 and 50 calls
    "jdiff": ("dpmpp_2m_narrow", "dpmpp_2m_narrow", "dpmpp_2m_narrow", "dpmpp_2m"),
    "diffusers_example": ("ddim", "ddim", "dpmpp_2m", "dpmpp_2m"),
    "diffusers_tuned": ("ddim", "ddim", "ddim", "ddim"),
    "lucidrains": ("ddim", "ddim", "ddim", "ddim"),
}


def works(names: str) -> list[Work]:
    # The shipped recipe takes 10 million images.
    smaller = {
        "data.dir": str(Path(os.environ.get("JDIFF_TEST_DATA", "../shared/data")) / "tfds"),
        "network.channels": 16,
        "network.blocks_per_level": 1,
        "network.dropout": 0.0,
        "train.batch_size": 128,
        "train.learning_rate": 2e-3,
        "train.warmup_images": 12_800,
        "train.ema_halflife_images": 10_000,
    }
    fashion = Work("fashion_mnist", smaller, nfes=(5, 10, 20, 50), flip=True, samplers=WON_ON_DIGITS)
    known = {"digits": DIGITS, "fashion_mnist": fashion}
    return [known[name] for name in names.split(",")]


def steps_of(work: Work, minutes: float, out: Path) -> int:
    """How long all sides train: measured once."""
    if work.name == "digits":
        return work.config.train.steps
    note = out / "steps.json"
    if not note.exists():
        out.mkdir(parents=True, exist_ok=True)
        replace_file(note, json.dumps(max(1, round(60 * minutes / ours.cpu_seconds_a_step(work)))))
    return json.loads(note.read_text())


def draw(side: Side, work: Work, seed: int, steps: int, parameters: int, out: Path) -> int:
    """Train a side and draw with each of its samplers, unless done before; its parameters."""
    folder = out / side.name / str(seed)
    told = trained(side, work, steps, seed, parameters, folder)
    missing = [
        (sampler, nfe)
        for nfe in work.nfes
        for sampler in work.samplers_of(side, nfe)
        if not samples_file(folder, sampler, nfe).exists()
    ]
    if missing:
        sample = side.load(work, folder)
        for sampler, nfe in missing:
            images = sample(sampler, nfe, seed)
            write_whole(samples_file(folder, sampler, nfe), partial(save, images))
            print(f"{work.name} {side.name} seed {seed}: {sampler} {nfe}", flush=True)
    return told["parameters"]


def save(images: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:  # savez would add .npz to the name
        np.savez_compressed(file, images=images, labels=asked())


def cell(score: scores.Score, against: scores.Score | None) -> str:
    """The mean over seeds, its standard deviation, and the interval of ours - theirs."""
    of_seeds = score.by_seed()
    spread = f" ± {of_seeds.std(ddof=1):.3f}" if len(of_seeds) > 1 else ""
    shown = f"{of_seeds.mean():.3f}{spread}"
    if against is None:
        return shown
    found = scores.difference(against, score)
    return f"{shown}; {found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def table(work: Work, sides: list[Side], seeds: int, out: Path) -> None:
    """The samplers chosen, with differences; all samplers; what each side took."""
    judge = scores.judge(work, out / "classifier")
    floor = scores.scores(work, judge, [scores.real(work)])
    titles = "| NFE | side | sampler | " + " | ".join(floor) + " |\n" + "| --- " * (3 + len(floor)) + "|"
    everything = []
    print(f"\n{work.name}: mean over {seeds} seeds ± standard deviation; ours - theirs [95 % interval over images]\n")
    print(titles)
    print("| | training images | | " + " | ".join(f"{score.by_seed()[0]:.3f}" for score in floor.values()) + " |")
    for nfe in work.nfes:
        against: dict[str, scores.Score] = {}  # ours
        for side in sides:
            folders = [out / side.name / str(seed) for seed in range(seeds)]
            best = scores.chosen(work, side, judge, folders, nfe)
            for sampler in work.samplers_of(side, nfe):
                drawn = [scores.read_samples(samples_file(folder, sampler, nfe)) for folder in folders]
                found = scores.scores(work, judge, drawn)
                start = f"| {nfe} | {side.name} | {sampler} | "
                everything.append(start + " | ".join(cell(score, None) for score in found.values()) + " |")
                if sampler == best:
                    cells = [cell(score, against.get(name)) for name, score in found.items()]
                    print(start + " | ".join(cells) + " |", flush=True)
                    if side is ours.SIDE:
                        against = found
    print("\n" + titles, *everything, sep="\n")
    print("\n| side | parameters | steps of 128 | CPU seconds of training |\n| --- | --- | --- | --- |")
    for side in sides:
        told = [json.loads((out / side.name / str(seed) / "trained.json").read_text()) for seed in range(seeds)]
        taken = np.mean([one["cpu_seconds"] for one in told])
        print(f"| {side.name} | {told[0]['parameters']:,} | {told[0]['steps']:,} | {taken:,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--data", default="digits,fashion_mnist")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=30.0, help="CPU time of our training on Fashion-MNIST")
    parser.add_argument("--threads", type=int, default=0, help="cores to use; 0: all")
    parser.add_argument("--score", action="store_true", help="score what was drawn")
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    if options.threads:  # before JAX or torch counts them
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    sides = [SIDES[name] for name in options.sides.split(",")]
    for work in works(options.data):
        out = options.out / work.name
        if options.score:
            table(work, sides, options.seeds, out)
            continue
        steps = steps_of(work, options.minutes, out)
        for seed in range(options.seeds):
            parameters = draw(ours.SIDE, work, seed, steps, 0, out)  # which the others' are fitted to
            for side in sides:
                if side is not ours.SIDE:
                    draw(side, work, seed, steps, parameters, out)


if __name__ == "__main__":
    main()

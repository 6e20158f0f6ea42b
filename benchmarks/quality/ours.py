"""Our side: the command trains, `jdiff.load(...).sample` draws."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import jdiff
from benchmarks.kinds import flags
from benchmarks.quality.work import IMAGES, Images, Side, Work, asked
from jdiff.main import main as command

QUIET = {
    "train.sample_every": 0,
    "train.trajectory_every": 0,
    "log.progress": False,
    "log.tensorboard": False,
    "log.pictures": False,
}

# Karras' rungs from 20 to 0.05 instead of 80 to 0.002: with few of them, most would lie where D hardly changes.
NARROW = {"sampler": "dpmpp_2m", "sigma_max": 20.0, "sigma_min": 0.05}


def run(config: str, settings: dict[str, Any], workdir: Path) -> None:
    """Train a config of configs/ by the command; a run that was stopped goes on."""
    path = Path(__file__).parents[2] / "configs" / f"{config}.py"
    if status := command([f"--config={path}", f"--workdir={workdir}", *flags({**QUIET, **settings})]):
        raise SystemExit(status)


def train(work: Work, steps: int, seed: int, parameters: int, folder: Path) -> int:
    # train.images and train.epochs are other ways to say how long.
    length = {"train.images": 0, "train.epochs": 0.0, "train.steps": steps}
    run(work.name, {**work.settings, **length, "seed": seed}, folder / "run")
    return sum(leaf.size for leaf in jax.tree.leaves(jdiff.load(folder / "run").params))


def load(work: Work, folder: Path) -> Callable[[str, int, int], Images]:
    model = jdiff.load(folder / "run")

    def draw(sampler: str, nfe: int, seed: int) -> Images:
        steps = (nfe + 1) // 2 if sampler == "heun" else nfe
        chosen: dict[str, Any] = NARROW if sampler == "dpmpp_2m_narrow" else {"sampler": sampler}
        return model.sample(
            IMAGES, labels=asked(), guidance_scale=1.0, batch_size=250, steps=steps, seed=seed, **chosen
        )

    return draw


def samplers(nfe: int) -> tuple[str, ...]:
    return ("ddim", "heun", "dpmpp_2m", "dpmpp_2m_narrow") if nfe < 250 else ("ddpm",)


def cpu_seconds_a_step(work: Work) -> float:
    """Of training, without its start: what 10 steps more take. The first of three runs compiles."""
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for attempt, steps in enumerate((2, 2, 12)):
            began = time.process_time()
            train(work, steps, 0, 0, Path(folder) / str(attempt))
            taken.append(time.process_time() - began)
    return (taken[2] - taken[1]) / 10


SIDE = Side("jdiff", train, load, samplers)

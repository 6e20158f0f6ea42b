"""A short training by the command, within this process."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import kinds
from tests.conftest import TINY, config, run_here

QUIET = {"log.every": 1, "log.tensorboard": False, "log.progress": False, "train.holdout_images": 0}
FAST = {"train.batch_size": 32, "train.warmup_images": 0, "train.learning_rate": 4e-3}


def losses(settings: dict[str, Any], workdir: Path, *, steps: int = 60) -> np.ndarray:
    """The loss of each step of the digits config with these keys changed."""
    changed = kinds.flags({**QUIET, **FAST, "train.steps": steps, **settings})
    result = run_here(config("digits"), *TINY, *changed, "--workdir=run", cwd=workdir)
    assert result.status == 0, result.err
    rows = [json.loads(line) for line in (workdir / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    return np.array([row["loss"] for row in rows if "loss" in row])


def falls(losses: np.ndarray) -> bool:
    """Whether the losses are finite, and the last quarter's median is well below the first's."""
    part = len(losses) // 4
    first, last = np.median(losses[:part]), np.median(losses[-part:])
    return bool(np.isfinite(losses).all() and last < first - 0.15 * abs(first))

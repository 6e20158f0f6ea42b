"""How far a run is, of its files: curves, speed, time left, the latest pictures."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jdiff.config
from jdiff import from_config
from jdiff.common.errors import UserError

METRICS, PICTURES = "metrics.jsonl", "samples"
LOSSES = ("loss", "holdout_loss")
MOST_POINTS = 2_000  # of a curve: a browser draws no more in time


@dataclass(frozen=True)
class Progress:
    """step, steps: how many of how many. points: {"step", "name", "value"} of the losses. images_per_s: the latest, or
    None. pictures: the newest first.
    """

    step: int
    steps: int
    batch_size: int
    images_per_s: float | None = None
    points: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)

    @property
    def told(self) -> str:
        """In a line, such as "step 400 of 1,000 (40 %), 1,250 images/s, 1 min left"."""
        if not self.step:
            return "nothing is logged yet"
        words = [f"step {self.step:,} of {self.steps:,} ({100 * self.step // max(1, self.steps)} %)"]
        if self.images_per_s:
            words.append(f"{self.images_per_s:,.0f} images/s")
            if self.step < self.steps:
                seconds = (self.steps - self.step) * self.batch_size / self.images_per_s
                words.append(f"{duration(seconds)} left while it trains")
        return ", ".join(words)


def progress_of(workdir: Path, pictures: int = 4) -> Progress:
    """Of what the run has written so far. Raises UserError where there is no run."""
    config = jdiff.config.of_run(workdir)
    rows = _rows(workdir / METRICS)
    points = [point for name in LOSSES for point in _thinned(_curve(rows, name))]
    speeds = [row["images_per_s"] for row in rows if row.get("images_per_s")]
    folder = workdir / PICTURES
    found = sorted(folder.glob("step_*.png"), reverse=True)[:pictures] if folder.is_dir() else []
    return Progress(
        step=rows[-1]["step"] if rows else 0,
        steps=from_config.total_steps(config),
        batch_size=int(config.train.batch_size),
        images_per_s=speeds[-1] if speeds else None,
        points=points,
        pictures=found,
    )


def duration(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _curve(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    given = ((row["step"], row.get(name)) for row in rows)
    return [
        {"step": step, "name": name, "value": value}
        for step, value in given
        if isinstance(value, (int, float)) and math.isfinite(value)
    ]


def _thinned(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    every = -(-len(points) // MOST_POINTS) or 1
    return points[::-every][::-1]  # the latest stays


def _rows(file: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that is being written is left out."""
    rows = []
    try:
        lines = file.read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows

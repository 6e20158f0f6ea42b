"""Where a run goes on: what may change there, and which checkpoint it goes on from."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import jdiff.config
from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.training import history
from jdiff.training.checkpoints import Checkpoints
from jdiff.training.writers import say

METRICS = "metrics.jsonl"


def goes_on(config: ConfigDict, workdir: Path, checkpoints: Checkpoints) -> tuple[int, list[str]]:
    """(the step that the run in `workdir` goes on from, 0 where it has none; what changes there, a line each).

    Raises UserError where the config is of another model, or checkpoint.resume_from names no checkpoint.
    """
    latest = checkpoints.latest()
    if not latest:
        if config.checkpoint.resume_from:
            raise UserError(f"checkpoint.resume_from={config.checkpoint.resume_from}: {workdir} has no checkpoint yet")
        return 0, []
    saved = jdiff.config.of_run(workdir)
    changes = jdiff.config.check_resumable(saved, config, workdir)
    step = _gone_back(config.checkpoint.resume_from, saved.checkpoint.resume_from, latest, workdir, checkpoints)
    lines = [f"{name} is {now!r}, {before!r} before" for name, (before, now) in changes.items()]
    if saved.data.fingerprint not in ("", config.data.fingerprint):
        lines.append(
            f"the data are others than before, by their names, sizes or contents: {config.data.num_images:,} images in "
            f"{config.data.dir or config.data.name}, {saved.data.num_images:,} in {saved.data.dir or saved.data.name}"
        )
    before, now = from_config.total_steps(saved), from_config.total_steps(config)
    if before != now and config.train.schedule in ("cosine", "linear"):
        lines.append(f"train.schedule={config.train.schedule!r} ends at step {now:,}, {before:,} before")
    return step, lines


def _gone_back(wanted: int, followed: int, latest: int, workdir: Path, checkpoints: Checkpoints) -> int:
    """The step to go on from: the latest, or `wanted`, with later checkpoints set aside. followed: what the run's
    config says, so that the same command goes on from there when it is given again.
    """
    if not wanted or wanted == latest:
        return latest
    if wanted == followed:
        say(f"went back to step {wanted} before, and goes on from step {latest} now")
        return latest
    steps = checkpoints.steps()
    if wanted not in steps:
        raise UserError(f"checkpoint.resume_from={wanted}: there are checkpoints of {', '.join(map(str, steps))}")
    later = [step for step in steps if step > wanted]
    folder = set_aside(workdir, checkpoints, later, f"after_step_{wanted}")
    line = f"goes back to step {wanted}; the checkpoints of {', '.join(map(str, later))} lie in {folder} now"
    history.note(workdir, wanted, line)
    say(line)
    return wanted


def set_aside(workdir: Path, checkpoints: Checkpoints, steps: list[int], reason: str) -> Path:
    """Move checkpoints out of the run's way, with a copy of the metrics up to them; the folder."""
    folder = checkpoints.set_aside(steps, reason)
    if jax.process_index() == 0 and (workdir / METRICS).is_file():
        shutil.copy2(workdir / METRICS, folder / METRICS)
    return folder


def last_good(checkpoints: Checkpoints, is_good: Callable[[int], Any], workdir: Path) -> int:
    """The newest checkpoint for which is_good(step); newer ones are set aside. 0 where there is none."""
    bad = []
    for step in reversed(checkpoints.steps()):
        if is_good(step):
            break
        bad.append(step)
    if bad:
        folder = set_aside(workdir, checkpoints, bad, "not_finite")
        line = f"the weights of step {', '.join(map(str, bad))} give no finite loss; they lie in {folder} now"
        history.note(workdir, max(bad), line)
        say(line)
    return checkpoints.latest() or 0

"""Where a run goes on: what may change there, and which checkpoint it goes on from."""

import contextlib
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

import jdiff.config
from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.common.processes import is_first_process
from jdiff.common.progress import say
from jdiff.tasks import Task
from jdiff.training import history, snapshots
from jdiff.training.checkpoints import METRIC, Checkpoints, DamagedError
from jdiff.training.optimizer import MUON
from jdiff.training.step import TrainState
from jdiff.weights.start import begin

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
    check_carried_over(saved.train.optimizer, config, workdir)
    followed = 0 if changes else saved.checkpoint.resume_from  # told changes ask to go back once more
    step = _gone_back(config.checkpoint.resume_from, followed, latest, workdir, checkpoints)
    config.train.initial_fingerprint = saved.train.initial_fingerprint
    with contextlib.suppress(DamagedError):  # then begin_from_whole goes further back, and counts from there
        count_from(config, checkpoints, step)
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


def check_carried_over(before: str, config: ConfigDict, workdir: Path) -> None:
    """Raises UserError where one optimizer cannot go on with the state of the one before."""
    now, anew = config.train.optimizer, config.task in ("classifier", "segmentation")
    if before != now and MUON in (before, now):
        raise UserError(
            f"train.optimizer={now!r} cannot go on with what {before!r} keeps of the gradients in {workdir}: leave it "
            "as it was, or start another run "
            + ("" if anew else "from these weights, ")
            + "with another --workdir"
            + ("" if anew else f" and train.initial={workdir}")
        )


def count_from(config: ConfigDict, checkpoints: Checkpoints, step: int) -> None:
    """Fill in train.since, by the config that the checkpoint of `step` was saved with."""
    then = jdiff.config.read(checkpoints.config(step))
    same = then.train.batch_size == config.train.batch_size
    config.train.since = then.train.since if same else (step, from_config.images_seen(then, step))


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
    """Move checkpoints out of the run's way, with the snapshots of averages since the one before them, and a copy of
    the metrics up to them; the folder.
    """
    folder = checkpoints.set_aside(steps, reason)
    before = max((step for step in checkpoints.steps() if step < min(steps)), default=0)
    snapshots.move_after(workdir / snapshots.FOLDER, before, folder / snapshots.FOLDER)
    if is_first_process() and (workdir / METRICS).is_file():
        shutil.copy2(workdir / METRICS, folder / METRICS)
    return folder


def last_good(checkpoints: Checkpoints, is_good: Callable[[int], Any], workdir: Path) -> int:
    """The newest checkpoint for which is_good(step); newer ones are set aside. 0 where there is none. -1 where not even
    step 0 is good: the fault is not the weights', and none is set aside.
    """
    if not is_good(0):
        return -1
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


def begin_from_whole(
    config: ConfigDict, task: Task, mesh: Mesh, checkpoints: Checkpoints, workdir: Path, start: int
) -> tuple[int, TrainState]:
    """(step, state) of the checkpoint of `start`, or of the newest whole one before it; damaged ones are set aside."""
    while True:
        try:
            return start, begin(config, task, mesh, checkpoints, start)
        except DamagedError as error:
            if not error.earlier:
                raise
            damaged = [step for step in checkpoints.steps() if error.earlier < step <= start]
            folder = set_aside(workdir, checkpoints, damaged, "damaged")
            names = ", ".join(map(str, damaged))
            line = f"{error.fault}; {names} now in {folder}; training goes on from step {error.earlier}"
            history.note(workdir, error.earlier, line)
            say(line)
            start = error.earlier
            count_from(config, checkpoints, start)


def ends_well(state: TrainState, scored: Mapping[str, float]) -> bool:
    """Whether the last steps were not skipped, or the held-out loss is finite all the same."""
    return not int(state.skipped_in_row) or math.isfinite(scored.get(METRIC, math.nan))


def not_finite(
    config: ConfigDict,
    task: Task,
    mesh: Mesh,
    state: TrainState,
    checkpoints: Checkpoints,
    next_state: Any,
    batch: PyTree,
    workdir: Path,
) -> UserError:
    """What to say where loss or gradient have not been finite for too many steps in a row. Later checkpoints than the
    newest one that gives a finite loss, by next_state(state, batch), are set aside.
    """
    in_row, step = int(state.skipped_in_row), int(state.step)

    def is_good(saved: int) -> bool:
        try:
            state = begin(config, task, mesh, checkpoints, saved)
            after, _ = next_state(state, batch)
        except DamagedError:
            return False
        return not int(after.skipped_in_row)

    good, fault = last_good(checkpoints, is_good, workdir), "loss or gradient has not been finite for"
    if good < 0:
        return UserError(
            f"{fault} {in_row} steps in a row, up to step {step}, nor is it by the weights of step 0: look at the data "
            "(--mode=inspect) and at the group objective"
        )
    return UserError(
        f"{fault} {in_row} steps in a row, up to step {step}; "
        + (f"the last good checkpoint is of step {good}" if good else "there is no good checkpoint")
        + f"; the same command {'goes on from there' if good else 'starts anew'}: try a lower train.learning_rate, "
        "a longer train.warmup_images or train.clip_norm=1.0"
    )

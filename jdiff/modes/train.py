"""--mode=train: the training loop. It knows a task by its `init` and `loss` alone."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

import jdiff.config
from jdiff import from_config
from jdiff.common import pictures
from jdiff.common.errors import UserError, writing_to
from jdiff.common.keys import folded, named, root_key
from jdiff.conditions import save_examples
from jdiff.data import pipeline
from jdiff.data.sources import Source
from jdiff.model import Model
from jdiff.modes import sample
from jdiff.tasks import Task
from jdiff.training import sharding
from jdiff.training.checkpoints import Checkpoints
from jdiff.training.interrupt import Interrupt
from jdiff.training.step import TrainState, init_state, train_step
from jdiff.training.writers import Writers, add_logs, replace_file, say
from jdiff.weights import read
from jdiff.weights.export import EXPORTED
from jdiff.weights.start import pretrained_tokenizer, with_pretrained_network, with_pretrained_params

EXAMPLES = 100  # images whose conditions a run keeps to draw samples by


def train(config: ConfigDict, workdir: Path) -> int:
    """Train, or go on training, what `config` says in `workdir`; the exit status (128 + signal where one ended it)."""
    mesh = sharding.make_mesh(fsdp=config.machine.fsdp)
    check_batch_size(config, mesh)
    source, held_out = from_config.sources(config)
    config = from_config.resolve(config, source)
    config = with_pretrained_network(config, workdir)
    task = from_config.task(config)
    total = from_config.total_steps(config, len(source))

    folder = open_folder(workdir)
    source, held_out = from_config.encoded(config, workdir, source, held_out, pretrained_tokenizer(config))
    with Checkpoints(folder, keep_last=config.checkpoint.keep) as checkpoints, Interrupt() as interrupt:
        start = checkpoints.latest() or 0
        if start:
            jdiff.config.check_resumable(jdiff.config.of_run(workdir), config, workdir)
        state = begin(config, task, mesh, checkpoints, start)
        announce(config, state, workdir, source, held_out, start, total)
        if start >= total:
            say(f"already trained to step {start}; a larger train.steps goes on from here")
            return 0

        model = Model(config, read.plain(task), mesh, {}, step=start, workdir=workdir)  # given weights to draw
        score = make_score(config, task, mesh, held_out)
        next_state = make_step(config, task, state)
        batches = on_devices(open_batches(config, source, start), mesh)
        if not start:
            keep_examples(config, held_out or source, workdir)
            draw_forward(model, source, workdir)
        meter, clock = None, Clock(start)

        with Writers(config.log, workdir, config, start=start, total=total) as writers:
            for step in range(start + 1, total + 1):
                state, logs = next_state(state, next_batch(batches, state, config, checkpoints))
                meter = add_logs(meter, logs)
                writers.advance()
                stopping = stop_asked(interrupt, step, config.log.every)
                last = step == total or stopping

                if step % config.log.every == 0 or last:
                    means = {name: float(average.compute()) for name, average in meter.items()}
                    speed = clock.speed(step, config.train.batch_size)
                    writers.scalars(step, {**means, **speed, "skipped": int(state.skipped)})
                    stop_if_not_finite(state, step, config, checkpoints)
                    meter = None

                with clock.stopped():
                    if step % config.checkpoint.every == 0 or last:
                        scores = score(state)
                        writers.scalars(step, {f"holdout_{name}": value for name, value in scores.items()})
                        checkpoints.save(state, config=config.to_dict(), holdout_loss=scores.get("loss"))
                    if not stopping:
                        draw(model, task, state, step, workdir, writers, last=last)
                if last:
                    break
        checkpoints.wait()

    if interrupt.signal:
        say(f"stopped at step {step} and saved it in {folder}; the same command goes on from there")
        return 128 + interrupt.signal
    held = "  ".join(f"held-out {name} {value:.4g}" for name, value in scores.items())
    say(f"trained to step {step}, saved in {folder}  {held}")
    return 0


def check_batch_size(config: ConfigDict, mesh: Mesh) -> None:
    size, parts = config.train.batch_size, mesh.size * config.train.accumulate
    if size % parts:
        each = f"{mesh.size} devices" + (f" x {parts // mesh.size} parts" if parts > mesh.size else "")
        near = max(parts, size // parts * parts)
        raise UserError(f"train.batch_size={size} does not divide by the {each}; {near} does")


def open_folder(workdir: Path) -> Path:
    """The folder of the checkpoints, made if need be."""
    folder = workdir / "checkpoints"
    if (workdir / EXPORTED).is_file():
        raise UserError(f"{workdir} holds exported weights: train in another folder, with train.initial={workdir}")
    with writing_to(workdir):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def initial_state(config: ConfigDict, task: Task) -> TrainState:
    key = root_key(config.seed)
    params, task_state = task.init(named(key, "init"), from_config.example(config))
    return init_state(params, task_state, from_config.optimizer(config), named(key, "train"))


def begin(config: ConfigDict, task: Task, mesh: Mesh, checkpoints: Checkpoints, start: int) -> TrainState:
    """The state of step `start`: restored, or new where that is 0; born with its shards on their devices."""
    initial = partial(initial_state, config, task)
    abstract = sharding.abstract(mesh, jax.eval_shape(initial))
    if start:
        state = checkpoints.restore(start, abstract)
    else:
        state = jax.jit(initial, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))()
    return with_pretrained_params(config, task, mesh, state, fresh=not start)


def make_step(config: ConfigDict, task: Task, state: TrainState) -> Any:
    """(state, batch) -> (state, logs), compiled, the state donated; shardings stay those of `state`."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(
        partial(
            train_step,
            loss=task.loss,
            optimizer=from_config.optimizer(config),
            ema=from_config.ema(config),
            batch_size=config.train.batch_size,
            accumulate=config.train.accumulate,
        ),
        donate_argnums=0,
        # Left to itself the compiler shards some leaves anew, and the second step, given those, compiles again.
        out_shardings=(shardings, None),
    )


def open_batches(config: ConfigDict, source: Source, start: int):
    """This process's share of the batches start, start + 1, ..."""
    return pipeline.train_batches(
        source,
        from_config.view(config, train=True),
        batch_size=config.train.batch_size,
        seed=config.seed,
        start=start,
        process=jax.process_index(),
        processes=jax.process_count(),
        workers=config.machine.workers,
        threads=config.machine.threads,
        prefetch=config.machine.prefetch,
    )


def on_devices(batches: Iterator[PyTree], mesh: Mesh) -> Iterator[PyTree]:
    """Global arrays of each process's rows, one batch ahead: its transfer overlaps the step before it."""
    ahead = sharding.put_batch(mesh, next(batches))
    for batch in batches:
        now, ahead = ahead, sharding.put_batch(mesh, batch)
        yield now


def next_batch(batches: Iterator[PyTree], state: TrainState, config: ConfigDict, checkpoints: Checkpoints) -> PyTree:
    """The next batch. Where the data fail, what has been learnt is saved before that is told."""
    try:
        return next(batches)
    except UserError as error:
        if jax.process_count() > 1 or not state.step:  # a save takes all processes, and the others wait for this one
            raise
        checkpoints.save(state, config=config.to_dict(), holdout_loss=None)
        checkpoints.wait()
        raise UserError(f"{error}; step {state.step} is saved: mend the data, and the same command goes on") from error


def make_score(
    config: ConfigDict, task: Task, mesh: Mesh, held_out: Source | None
) -> Callable[[TrainState], dict[str, float]]:
    """state -> the averaged weights' mean loss and logs on fixed held-out images and noise; {} without images."""
    if held_out is None or not config.train.holdout_images:
        return lambda state: {}
    whole = pipeline.fixed_batch(held_out, from_config.view(config, train=False), config.train.holdout_images)
    rows, size = len(whole["x0"]), config.train.batch_size
    key = named(root_key(config.seed), "holdout")

    @jax.jit
    def score(state: TrainState, batch: PyTree, index: int) -> dict:
        part_key = folded(key, index)
        loss, (_, logs) = task.loss(state.ema, state.task_state, batch, part_key, state.step, train=False)
        return {"loss": loss, **logs}

    parts = []
    for index, first in enumerate(range(0, rows, size)):
        part = jax.tree.map(lambda values, first=first: values[first : first + size], whole)
        part_rows = len(part["x0"])
        parts.append((index, part_rows, jax.device_put(part, sharding.of_batch(mesh, part_rows))))

    def score_all(state: TrainState) -> dict[str, float]:
        scores = [(score(state, part, index), share) for index, share, part in parts]
        return {name: sum(float(part[name]) * share for part, share in scores) / rows for name in scores[0][0]}

    return score_all


def announce(
    config: ConfigDict,
    state: TrainState,
    workdir: Path,
    source: Source,
    held_out: Source | None,
    start: int,
    total: int,
) -> None:
    """Write config.json; tell what is trained, on what and for how long."""
    with writing_to(workdir):
        replace_file(workdir / jdiff.config.FILE, jdiff.config.to_json(config))
    say(parameter_overview.get_parameter_overview(state.params, include_stats=False))
    for note in (*source.notes, *(held_out.notes if held_out else ())):
        say(note)
    data, images = config.data, total * config.train.batch_size
    classes = f"{len(data.class_names)} classes" if data.class_names else "no classes"
    conditions = ", ".join(config.model.conditions) or "nothing"
    say(
        f"data: {data.name}, {len(source):,} images {'x'.join(map(str, data.shape))}, {classes}, "
        f"{len(held_out) if held_out else 0:,} held out; conditioned on {conditions}\n"
        f"training: steps {start:,} to {total:,} of {config.train.batch_size} images "
        f"({images / len(source):,.1f} epochs, {images:,} images) on "
        f"{jax.device_count()} {jax.default_backend()} device(s); in {workdir}"
    )


def stop_asked(interrupt: Interrupt, step: int, every: int) -> bool:
    """Whether a signal has come; several processes ask each other, at log points alone (asking waits for the
    devices).
    """
    if jax.process_count() == 1:
        return interrupt.signal is not None
    if step % every:
        return False
    from jax.experimental import multihost_utils

    asked = bool(multihost_utils.process_allgather(np.int32(interrupt.signal or 0)).max())
    interrupt.signal = interrupt.signal or (15 if asked else None)
    return asked


def stop_if_not_finite(state: TrainState, step: int, config: ConfigDict, checkpoints: Checkpoints) -> None:
    in_row = int(state.skipped_in_row)
    if in_row >= config.train.max_skipped_in_row:
        good = checkpoints.latest()
        raise UserError(
            f"loss or gradient has not been finite for {in_row} steps in a row, up to step {step}; "
            + (f"the last good checkpoint is of step {good}" if good else "there is no checkpoint yet")
            + "; try a lower train.learning_rate, a longer train.warmup_images or train.clip_norm=1.0"
        )


def keep_examples(config: ConfigDict, source: Source, workdir: Path) -> None:
    """Write down what some images are conditioned on, for samples to come, where that is more than a label."""
    if not set(config.model.conditions) - {"label"} or jax.process_index() > 0:
        return
    rows = pipeline.fixed_rows(source, EXAMPLES)
    cond = pipeline.fixed_batch(source, from_config.view(config, train=False), EXAMPLES)["cond"]
    captions = [source.captions[row] for row in rows] if source.captions else []
    with writing_to(workdir):
        save_examples(workdir, {name: cond[name] for name in config.model.conditions}, captions)


def draw(
    model: Model, task: Task, state: TrainState, step: int, workdir: Path, writers: Writers, *, last: bool
) -> None:
    """A grid and a strip where they are due, by the averaged weights of `state`."""
    config, folder = model.config, workdir / "samples"

    def due(every: int) -> bool:
        return config.log.pictures and every > 0 and (step % every == 0 or last)

    grid_due, strip_due = due(config.train.sample_every), due(config.train.trajectory_every)
    if grid_due or strip_due:
        model = model.with_params(read.whole(task, state), step=step)
    if grid_due:
        picture = sample.grid(model, model.sample())
        show("samples", folder / f"step_{step:07d}.png", picture, partial(writers.picture, step))
    if strip_due:
        picture = sample.strip(sample.trajectory(model))
        show("trajectory", folder / f"step_{step:07d}_trajectory.png", picture, partial(writers.picture, step))


def draw_forward(model: Model, source: Source, workdir: Path) -> None:
    """The first training images and the noise that they are to be found in again, once, beside the denoising strips."""
    config = model.config
    if not (config.log.pictures and config.train.trajectory_every) or jax.process_index() > 0:
        return
    images = pipeline.fixed_batch(source, from_config.view(config, train=False), sample.STRIP_IMAGES)["x0"]
    show("forward process", workdir / "samples" / "forward.png", sample.strip(model.forward(images)))


def show(name: str, path: Path, picture: np.ndarray, record: Callable[[str, np.ndarray], None] | None = None) -> None:
    """Write a picture, record it and say where it is; a full disk is not worth a run's life."""
    if jax.process_index() > 0:
        return
    try:
        pictures.save_png(path, picture)
        if record:
            record(name, picture)
        say(f"{name}: {path}")
    except OSError as error:
        say(f"could not write {path}: {error.strerror or error}; training goes on")


class Clock:
    """Training speed between log points, the time for checkpoints and pictures left out."""

    def __init__(self, step: int):
        self._step, self._since, self._stopped_at = step, time.monotonic(), 0.0

    def speed(self, step: int, batch_size: int) -> dict[str, float]:
        """Since the last call: images/s and seconds a step."""
        now = time.monotonic()
        seconds = (now - self._since) / (step - self._step)
        self._step, self._since = step, now
        return {"images_per_s": batch_size / seconds, "seconds_per_step": seconds}

    def stopped(self) -> "Clock":
        return self

    def __enter__(self) -> None:
        self._stopped_at = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        self._since += time.monotonic() - self._stopped_at

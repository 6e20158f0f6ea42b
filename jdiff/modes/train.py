"""--mode=train: the training loop."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
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
from jdiff import from_config, previews
from jdiff.common import arrays
from jdiff.common.errors import DrawingError, UserError, first_line, writing_to
from jdiff.common.files import replace_file
from jdiff.common.ownership import owned
from jdiff.common.processes import first_process_first, is_first_process
from jdiff.common.progress import progress_bar, say
from jdiff.compiled import features_first
from jdiff.conditions.aspect import Aspect
from jdiff.conditions.examples import save_examples
from jdiff.conditions.image import Image
from jdiff.conditions.text import Text, encoded, fit_tokenizer
from jdiff.data import pipeline, split_file
from jdiff.data.fingerprint import fingerprint
from jdiff.data.sources import Source
from jdiff.model import Model
from jdiff.previews import Due
from jdiff.request import check
from jdiff.resolve import resolve, with_scale, with_shapes
from jdiff.tasks import Task, Weights
from jdiff.tasks.autoencoder import AutoencoderTask
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training import history, sharding, snapshots
from jdiff.training.checkpoints import Checkpoints
from jdiff.training.clock import Clock
from jdiff.training.interrupt import Interrupt, Training
from jdiff.training.memory import advanced, memory_told
from jdiff.training.optimizer import rate_of
from jdiff.training.step import FROZEN, TrainState, train_step
from jdiff.training.writers import Writers, add_logs, check_logs
from jdiff.weights.autoencoder import (
    check_autoencoder,
    keep_autoencoder,
    read_autoencoder,
    unscaled,
    with_autoencoder,
    with_scale_of_latents,
)
from jdiff.weights.export import is_exported
from jdiff.weights.prepared_latents import read_prepared
from jdiff.weights.read import autoencoder_weights
from jdiff.weights.resume import begin_from_whole, ends_well, goes_on, not_finite
from jdiff.weights.start import pretrained_tokenizer, with_pretrained_network
from jdiff.weights.text_encoder import keep_text_encoder, with_text_encoder

CHECKPOINTS = "checkpoints"
EXAMPLES = 100  # images whose conditions a run keeps to draw samples by


def train(config: ConfigDict, workdir: Path, out: Path | None = None) -> int:
    """Train, or go on training, what `config` says in `workdir`; the exit status (128 + signal where one ended it)."""
    with Interrupt(Training()) as interrupt, ExitStack() as stack:
        return _train(config, workdir, interrupt, stack)


def _train(config: ConfigDict, workdir: Path, interrupt: Interrupt[Training], stack: ExitStack) -> int:
    mesh = sharding.make_mesh(fsdp=config.machine.fsdp)
    check_batch_size(config, mesh)
    check_logs(config.log)
    if known := workdir.is_dir():  # in use, or not to be written: told before the data are read
        stack.enter_context(open_folder(workdir))
    with first_process_first():  # what it finds of files, the others need not look for
        config.data.split_of = str(workdir) if (workdir / split_file.FILE).is_file() else ""
        source, held_out = from_config.sources(config)
    split = split_file.split_of(source, held_out)
    config = with_pretrained_network(with_shapes(config, workdir), workdir)  # its network says which sides fit
    config = with_text_encoder(config, workdir)
    config = with_autoencoder(config, workdir)  # likewise
    config = with_scale(resolve(config, source), source, workdir)
    config.data.fingerprint = fingerprint(source)
    check_autoencoder(config, workdir)
    images = source
    if config.space.prepared:
        own = read_autoencoder(config, mesh, workdir)
        source, held_out = read_prepared(config, own, source, held_out)
    source = from_config.prepared(config, source, train=True)
    held_out = held_out and from_config.prepared(config, held_out, train=False)
    task = from_config.task(unscaled(config))
    if isinstance(task.sampling_task, DiffusionTask):
        check(config, task.sampling_task.parameterization.schedule)
    from_config.rate(config)  # what is wrong with its keys is told before the folder is made
    told_by, sign = previews.best_by(config)
    if not known:
        stack.enter_context(open_folder(workdir))
    own = {}  # an autoencoder's weights, which training does not change
    if config.model.space == "latents":
        keep_autoencoder(config, workdir, mesh)
        own = autoencoder_weights(config, workdir, mesh)
        config = with_scale_of_latents(config, source, own, mesh)
        task = from_config.task(config)
    keep_text_encoder(config, workdir)
    source, held_out = with_texts(config, workdir, source, held_out)
    kept = config.checkpoint
    with (
        Checkpoints(
            workdir / CHECKPOINTS,
            keep_last=kept.keep,
            keep=kept.resume_from,
            best_by=told_by if sign > 0 else f"minus_{told_by}",
        ) as checkpoints,
        memory_told(config, mesh, checkpoints),
    ):
        interrupt.work.saved = checkpoints.latest
        start, changes = goes_on(config, workdir, checkpoints)
        if start and (change := split_file.changed(split_file.read(workdir), split)):
            changes.append(change)
        start, state = begin_from_whole(config, task, mesh, checkpoints, workdir, start)
        if isinstance(task, AutoencoderTask):  # its adversary starts after so many images, whatever the batch was
            task = replace(task, adversary=from_config.adversary(config))
        if config.task == "flow_map":  # likewise its stages
            task = from_config.task(config)
        total, rate = from_config.total_steps(config), from_config.rate(config)
        if FROZEN in state.task_state:
            config.train.initial_fingerprint = arrays.fingerprint(state.task_state[FROZEN])
        if start >= total:
            say(already_trained(config, start, total))
            return 0
        announce(config, state, workdir, source, held_out, start, total, changes)
        snapshots.move_after(workdir / snapshots.FOLDER, start, None)  # of steps that are trained once more
        with writing_to(workdir):
            split_file.write(workdir, split)

        model = Model(config, task.sampling_task, mesh, Weights({}, own), step=start, workdir=workdir)
        scores = previews.evaluators(previews.SCORES, config, task, mesh, held_out)
        distances = previews.evaluators(previews.DISTANCES, config, task, mesh, held_out)
        pictures = previews.evaluators(previews.PICTURES, config, task, mesh, held_out)
        next_state = make_step(config, task, state)
        batches = sharding.on_devices(mesh, open_batches(config, source, start))
        encoded = features_first(task.space, mesh, config.train.batch_size, config.train.accumulate)
        batches = map(partial(encoded, Weights({}, own)), batches)
        if not start:
            keep_examples(config, [held_out, source] if held_out else [source], workdir)
            draw_forward(model.with_weights(averaged(task, model, state), step=0), images, workdir)
        meter, clock = None, Clock(start)

        with Writers(config.log, workdir, config, start=start, total=total) as writers:
            run = partial(evaluate, task, model, workdir=workdir, writers=writers)
            step, stopped, scored = start, False, {}
            while step < total and not stopped:
                batch = interrupt.unless_asked(partial(next_batch, batches, state, config, checkpoints))
                if batch is None:
                    stopped = True
                    break
                state, logs = advanced(next_state, state, batch, config, checkpoints)
                step = interrupt.work.step = step + 1
                meter = add_logs(meter, logs)
                writers.advance()
                stopped = interrupt.asked(step, config.log.every) and step < total
                last = step == total or stopped

                if step % config.log.every == 0 or last:
                    means = {name: float(average.compute()) for name, average in meter.items()}
                    speed = clock.speed(step, config.train.batch_size)
                    skipped = int(state.skipped)
                    used = rate_of(rate, max(0, step - 1 - skipped))  # a skipped step does not move the schedule
                    writers.scalars(step, {**means, **speed, "learning_rate": used, "skipped": skipped})
                    if int(state.skipped_in_row) >= config.train.max_skipped_in_row:
                        raise not_finite(config, task, mesh, state, checkpoints, next_state, batch, workdir)
                    meter = None

                with clock.stopped():
                    save_averages(config, state, step, total, workdir)  # a checkpoint has all snapshots before it
                if not stopped:
                    with clock.stopped():
                        scored = (
                            interrupt.unless_asked(partial(run, [*scores, *distances], state, step, last=last)) or {}
                        )
                        score = sign * scored[told_by] if told_by in scored else None
                        if step == total and not ends_well(state, scored):
                            raise not_finite(config, task, mesh, state, checkpoints, next_state, batch, workdir)
                        if step % config.checkpoint.every == 0 or last:
                            save(checkpoints, state, config, score, last=last)
                        interrupt.unless_asked(partial(run, pictures, state, step, last=last))
            if stopped:  # saving comes first: whoever asks may not wait for long
                save(checkpoints, state, config)
                checkpoints.wait()
                scored = run(scores, state, step, last=True)
        checkpoints.wait()

    if interrupt.signal:
        rest = "the same command goes on from there" if step < total else "it is trained to its end"
        saved = f"stopped at step {step} and saved it in {workdir / CHECKPOINTS}"
        if int(state.skipped_in_row):
            saved = f"stopped at step {step}, not saved, its loss not being finite; the last is {checkpoints.latest()}"
        say(f"{saved}; {rest}")
        return 128 + interrupt.signal
    shown = [name for name in scored if name.startswith("holdout_") or name == told_by]
    held = "  ".join(f"{name.replace('holdout_', 'held-out ')} {scored[name]:.4g}" for name in shown)
    say(f"trained to step {step}, saved in {workdir / CHECKPOINTS}  {held}")
    return 0


def evaluate(
    task: Task,
    model: Model,
    due: list[Due],
    state: TrainState,
    step: int,
    *,
    last: bool,
    workdir: Path,
    writers: Writers,
) -> dict[str, float]:
    """The scalars of the evaluators that are due at this step, by its averaged weights; pictures are written."""
    wanted = [evaluator for every, evaluator in due if step % every == 0 or last]
    if not wanted:
        return {}
    model = model.with_weights(averaged(task, model, state), step=step)
    scalars: dict[str, float] = {}
    for evaluator in wanted:
        try:
            report = evaluator(model, state, step)
        except DrawingError as error:
            say(f"left out at step {step}: {error}; training goes on")
            continue
        writers.scalars(step, report.scalars)
        scalars |= report.scalars
        for name, picture in report.pictures.items():
            suffix = "" if name == "samples" else f"_{name}"
            previews.show(workdir / "samples" / f"step_{step:07d}{suffix}.png", name, picture, writers, step)
    return scalars


def averaged(task: Task, model: Model, state: TrainState) -> Weights:
    """The weights that samplers use: the averages, and what of the model's does not change."""
    return task.merged(Weights(state.ema, {**model.weights.state, **state.task_state}))


def make_step(config: ConfigDict, task: Task, state: TrainState) -> Any:
    """(state, batch) -> (state, logs), compiled; the state is donated and keeps its shardings."""
    step = partial(
        train_step,
        loss=task.loss,
        optimizer=from_config.optimizer(config),
        ema=from_config.ema(config),
        averaged=task.averaged,
        reads_average=task.reads_average,
        profiles=from_config.profiles(config),
        batch_size=config.train.batch_size,
        accumulate=config.train.accumulate,
    )
    # Left to itself the compiler shards some leaves anew, and the second step, given those, compiles again.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def already_trained(config: ConfigDict, start: int, total: int) -> str:
    """What to say of a run that has nothing left to do."""
    duration = next(name for name in ("steps", "epochs", "images") if config.train[name])
    asked = f", and train.{duration}={config.train[duration]} ends at step {total}" if start > total else ""
    return f"already trained to step {start}{asked}; a larger train.{duration} goes on from here"


def save(
    checkpoints: Checkpoints, state: TrainState, config: ConfigDict, score: float | None = None, *, last: bool = False
) -> None:
    """Start saving `state`; but for the last step's, not while steps are skipped: the weights may be at fault."""
    if last or not int(state.skipped_in_row):
        checkpoints.save(state, config=jdiff.config.saved(config), score=score)


def save_averages(config: ConfigDict, state: TrainState, step: int, total: int, workdir: Path) -> None:
    """Write a snapshot of the power-function averages where it is due. One that cannot be written is left out: widths
    are made of the others.
    """
    due = step % from_config.snapshot_every(config) == 0 or step == total
    if not state.profiles or not due or int(state.skipped_in_row):
        return
    try:
        snapshots.write(workdir / snapshots.FOLDER, step, state.profiles, from_config.profiles(config).widths)
    except OSError as error:
        say(f"no snapshot of the averages at step {step}: {first_line(error)}; training goes on")


def check_batch_size(config: ConfigDict, mesh: Mesh) -> None:
    """Raises UserError where the devices, times the parts of a batch, do not divide it."""
    size, parts = config.train.batch_size, mesh.size * config.train.accumulate
    if size % parts:
        each = f"{mesh.size} devices" + (f" x {parts // mesh.size} parts" if parts > mesh.size else "")
        near = max(parts, size // parts * parts)
        raise UserError(f"train.batch_size={size} does not divide by the {each}; {near} does")


@contextmanager
def open_folder(workdir: Path) -> Iterator[None]:
    """The run's folder, made if need be, for this training alone to write to."""
    if is_exported(workdir):
        raise UserError(f"{workdir} holds exported weights: train in another folder, with train.initial={workdir}")
    with ExitStack() as stack:
        with writing_to(workdir):
            stack.enter_context(owned(workdir, "--workdir"))
            (workdir / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        yield


def with_texts(
    config: ConfigDict, workdir: Path, train: Source, held_out: Source | None
) -> tuple[Source, Source | None]:
    """The sources with their captions encoded, where the model is given texts."""
    text = next((condition for condition in from_config.conditions(config) if isinstance(condition, Text)), None)
    if text is None:
        return train, held_out
    with first_process_first():
        fit_tokenizer(text, train.captions, workdir, pretrained_tokenizer(config))
        train, *others = encoded(
            text.in_folder(workdir),
            [train] if held_out is None else [train, held_out],
            data_dir=config.data.dir,
            workdir=workdir,
            progress=progress_bar("reading captions", show=config.log.progress),
        )
    return train, others[0] if others else None


def open_batches(config: ConfigDict, source: Source, start: int) -> Iterator[PyTree]:
    """This process's share of the batches start, start + 1, ..."""
    threads = config.machine.threads or os.cpu_count() or 1
    prefetch = config.machine.prefetch or max(4, threads)
    return pipeline.train_batches(
        source,
        from_config.view(config, train=True),
        batch_size=config.train.batch_size,
        seed=config.seed,
        order=from_config.order(config, source),
        start=from_config.images_seen(config, start) // config.train.batch_size,
        process=jax.process_index(),
        processes=jax.process_count(),
        workers=config.machine.workers,
        threads=min(threads, prefetch),  # Grain warns of threads that would have nothing to do
        prefetch=prefetch,
    )


def next_batch(batches: Iterator[PyTree], state: TrainState, config: ConfigDict, checkpoints: Checkpoints) -> PyTree:
    """The next batch. Where the data fail, what has been learnt is saved before that is told."""
    try:
        return next(batches)
    except UserError as error:
        if jax.process_count() > 1 or not state.step:  # a save takes all processes, and the others wait for this one
            raise
        save(checkpoints, state, config)
        checkpoints.wait()
        raise UserError(f"{error}; step {state.step} is saved: mend the data, and the same command goes on") from error


def announce(
    config: ConfigDict,
    state: TrainState,
    workdir: Path,
    source: Source,
    held_out: Source | None,
    start: int,
    total: int,
    changes: list[str],
) -> None:
    """Write config.json and the history; tell what is trained, on what and for how long, and what has changed."""
    history.note(workdir, start, f"{'resumes' if start else 'starts'} on {history.here()}", *changes)
    with writing_to(workdir):
        replace_file(workdir / jdiff.config.FILE, jdiff.config.to_json(config))
    say(parameter_overview.get_parameter_overview(state.params, include_stats=False))
    for note in (*source.notes, *(held_out.notes if held_out else ())):
        say(note)
    data, images = config.data, from_config.images_seen(config, total)
    classes = f"{len(data.class_names)} classes" if data.class_names else "no classes"
    conditions = ", ".join(config.model.conditions) or "nothing"
    if data.shapes:
        counts = np.bincount(from_config.shape_numbers(config, source), minlength=len(data.shapes))
        shapes = zip(counts.tolist(), data.shapes, strict=True)
        say("shapes: " + ", ".join(f"{count:,} images in {height}x{width}" for count, (height, width) in shapes))
    say(
        f"data: {data.name}, {len(source):,} images {'x'.join(map(str, data.shape))}, {classes}, "
        f"{len(held_out) if held_out else 0:,} held out; conditioned on {conditions}\n"
        f"training: steps {start:,} to {total:,} of {config.train.batch_size} images "
        f"({images / len(source):,.1f} epochs, {images:,} images) on "
        f"{jax.device_count()} {jax.default_backend()} device(s); in {workdir}"
    )
    if state.profiles:
        every, each = from_config.snapshot_every(config), snapshots.size(state.profiles) / 1e6
        count = math.ceil(total / every)
        say(
            f"averages of the widths {', '.join(f'{width:g}' for width in config.train.ema_widths)}: a snapshot every "
            f"{every:,} steps in {workdir / snapshots.FOLDER}, {each:,.1f} MB each, {count * each:,.0f} MB in all"
        )
    for change in changes:
        say(f"from step {start:,} on, {change} (kept in {workdir / history.FILE})")


def keep_examples(config: ConfigDict, sources: Sequence[Source], workdir: Path) -> None:
    """Write down what some images are conditioned on, for samples to come, where that is more than a label: of each
    shape, from the first source with any.
    """
    asked = set(config.model.conditions) - {Aspect.name}
    if not asked - {"label"} or not is_first_process():
        return
    view = from_config.view(config, train=False)
    numbers = [from_config.shape_numbers(config, source) for source in sources]
    for number, sides in enumerate(config.data.shapes or (None,)):
        for source, known in zip(sources, numbers, strict=True):
            if not (known == number).any():
                continue
            rows = pipeline.fixed_rows(source, EXAMPLES, np.flatnonzero(known == number))
            batch = pipeline.batch_of(source, view, rows)
            cond = {name: batch["cond"][name] for name in asked}
            truth = batch["x0"] if Image.name in asked and not config.space.prepared else None
            captions = [source.captions[row].partition("\n")[0] for row in rows] if source.captions else []
            with writing_to(workdir):
                save_examples(workdir, cond, captions, sides if number else None, truth)
            break


def draw_forward(model: Model, source: Source, workdir: Path) -> None:
    """The forward process once, beside the denoising strips."""
    if model.config.log.pictures and model.config.train.trajectory_every and is_first_process():
        previews.show(workdir / "samples" / "forward.png", "forward process", previews.forward_process(model, source))

"""What training scores and draws as it goes: held-out loss, grids of samples, denoising strips; and their pictures.

An evaluator is a function of (model, state, step); a run holds a list of (every, evaluator).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Num, PyTree, UInt8
from ml_collections import ConfigDict

from jdiff import from_config, scoring
from jdiff.common import pictures
from jdiff.common.errors import DrawingError, UserError, is_out_of_memory
from jdiff.common.keys import folded, named, root_key
from jdiff.common.processes import is_first_process
from jdiff.common.progress import say
from jdiff.compiled import features_first
from jdiff.conditions.aspect import Aspect
from jdiff.conditions.image import Image
from jdiff.config import one_of
from jdiff.data import pipeline
from jdiff.data.sources import Source
from jdiff.evaluation.numbers import LOWER
from jdiff.model import Model
from jdiff.request import Request
from jdiff.scoring import masks
from jdiff.spaces import Masks
from jdiff.tasks import Task
from jdiff.tasks.autoencoder import AutoencoderTask
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training import sharding
from jdiff.training.checkpoints import METRIC
from jdiff.training.step import TrainState
from jdiff.training.writers import Writers

GRID_IMAGES = 256  # most images in a grid
MOST_OF_ONE = 8  # images of one condition image in a grid
STRIP_IMAGES = 8  # images in a strip
STRIP_FRAMES = 10  # rungs shown in a strip
PAIRS = 16  # images shown with their reconstructions
EVALUATED = 1000  # images drawn for an evaluation in training, unless the config says
LOSS = "loss"


@dataclass(frozen=True)
class Report:
    """scalars: for metrics.jsonl and the like. pictures: by name; the name of each one's file follows the step's."""

    scalars: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, UInt8[np.ndarray, "h w c"]] = field(default_factory=dict)


# model: with the averaged weights of `state`.
Evaluator: TypeAlias = Callable[[Model, TrainState, int], Report]
Due: TypeAlias = tuple[int, Evaluator]  # every so many steps, and at the last one


def held_out_loss(config: ConfigDict, task: Task, mesh: Mesh, held_out: Source | None) -> list[Due]:
    """The averaged weights' mean loss and logs on fixed held-out images and noise, before each checkpoint."""
    if held_out is None or not config.train.holdout_images:
        return []
    rows, view = pipeline.fixed_rows(held_out, config.train.holdout_images), from_config.view(config, train=False)
    numbers = from_config.shape_numbers(config, held_out)[rows]
    images, size = len(rows), config.train.batch_size
    key = named(root_key(config.seed), "holdout")

    @jax.jit
    def score(params: PyTree, state: TrainState, batch: PyTree, index: Array) -> dict:
        part_key = folded(key, index)
        loss, (_, logs) = task.loss(params, state.task_state, batch, part_key, state.step, train=False)
        return {"loss": loss, **logs}

    parts = []
    for number in np.unique(numbers):  # a part is of one shape
        whole = pipeline.batch_of(held_out, view, rows[numbers == number])
        for first in range(0, len(whole["x0"]), size):
            part = jax.tree.map(lambda values, first=first, whole=whole: values[first : first + size], whole)
            count = len(part["x0"])
            parts.append((count, jax.device_put(part, sharding.of_batch(mesh, count))))
    encoded = features_first(task.space, mesh, config.train.batch_size, config.train.accumulate)

    def evaluate(model: Model, state: TrainState, step: int) -> Report:
        params = {**state.params, **state.ema}
        parts[:] = [(count, encoded(model.weights, part)) for count, part in parts]  # once: then they are features
        shares = [count for count, _ in parts]
        try:
            scores = [score(params, state, part, index) for index, (_, part) in enumerate(parts)]
            means = {}
            for name in dict.fromkeys(name for part in scores for name in part):  # a small part may lack some
                of = [(float(part[name]), share) for part, share in zip(scores, shares, strict=True) if name in part]
                means[name] = sum(value * share for value, share in of) / sum(share for _, share in of)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            fewer = max(1, min(size, images) // 2)
            kind = DrawingError if jax.process_count() == 1 else UserError  # others wait for this one's part
            raise kind(f"out of memory for the held-out loss: set train.holdout_images={fewer}") from error
        return Report(scalars={f"holdout_{name}": value for name, value in means.items()})

    return [(config.checkpoint.every, evaluate)]


def sample_grid(config: ConfigDict, task: Task, mesh: Mesh, held_out: Source | None) -> list[Due]:
    """The config's samples as one picture."""
    if not isinstance(task.sampling_task, DiffusionTask):
        return []

    def evaluate(model: Model, state: TrainState, step: int) -> Report:
        asked = model.request()
        images = np.concatenate([batch.images for batch in model.draw(asked)])
        return Report(pictures={"samples": grid(model, images[numbers_of(asked)], asked)})

    return [(config.train.sample_every, evaluate)] if config.log.pictures else []


def denoising_strip(config: ConfigDict, task: Task, mesh: Mesh, held_out: Source | None) -> list[Due]:
    """How the first images come out of the noise."""
    if not isinstance(task.sampling_task, DiffusionTask):
        return []

    def evaluate(model: Model, state: TrainState, step: int) -> Report:
        frames = model.trajectory(min(STRIP_IMAGES, config.sample.num_images))
        return Report(pictures={"trajectory": strip(frames)})

    return [(config.train.trajectory_every, evaluate)] if config.log.pictures else []


def reconstructions(config: ConfigDict, task: Task, mesh: Mesh, held_out: Source | None) -> list[Due]:
    """Some held-out images, each above what an autoencoder gives back of it."""
    if not isinstance(task, AutoencoderTask) or held_out is None or not config.log.pictures:
        return []
    alike = _of_one_shape(config, held_out)
    images = pipeline.fixed_batch(held_out, from_config.view(config, train=False), PAIRS, alike)["x0"]

    def evaluate(model: Model, state: TrainState, step: int) -> Report:
        return Report(pictures={"reconstructions": pairs(model, images)})

    return [(config.train.sample_every, evaluate)]


def segmentations(config: ConfigDict, task: Task, mesh: Mesh, held_out: Source | None) -> list[Due]:
    """Some held-out images, each beside its true mask, what a model of masks tells, and how far its members agree."""
    known = isinstance(task.space, Masks) and "image" in config.model.conditions
    if not known or held_out is None or not len(held_out) or not config.log.pictures:
        return []
    alike = _of_one_shape(config, held_out)
    batch = pipeline.fixed_batch(held_out, from_config.view(config, train=False), PAIRS, alike)

    def evaluate(model: Model, state: TrainState, step: int) -> Report:
        alone = config.task == "segmentation" and not config.network.dropout  # then all members are the same
        found = model.segment(batch["cond"]["image"], members=1 if alone else None)
        return Report(pictures={"segmentations": masks.picture(config, batch, found, columns=4)})

    return [(config.train.sample_every, evaluate)]


def _of_one_shape(config: ConfigDict, source: Source) -> np.ndarray:
    """The rows of the shape that most records have: of few that are held out, none may be of the usual one."""
    numbers = from_config.shape_numbers(config, source)
    return np.flatnonzero(numbers == np.bincount(numbers).argmax())


def distances(config: ConfigDict, task: Task, mesh: Mesh, held_out: Source | None) -> list[Due]:
    """The evaluation's numbers of new images."""
    if not config.eval.every:
        return []
    if not isinstance(task.sampling_task, DiffusionTask):
        raise UserError(f"eval.every={config.eval.every}: task={config.task!r} draws no images to be scored")
    judge = scoring.judge(config, mesh, progress=config.log.progress, keep=False)
    count = config.eval.num_images or min(judge.count, EVALUATED)
    judge.check(count)
    if (name := config.checkpoint.best_by) != LOSS and name not in judge.possible:
        raise UserError(f"checkpoint.best_by={name!r}: these data give {', '.join(judge.possible)} alone")
    departs = judge.protocol.departures(count, config.eval.seeds or judge.protocol.seeds)
    within = f" ({departs}: comparable within this run alone)" if departs else ""
    say(f"every {config.eval.every:,} steps {count:,} images are scored by the protocol {judge.protocol.name}{within}")
    requests: list[scoring.Plan] = []

    def evaluate(model: Model, state: TrainState, step: int) -> Report:
        try:
            if not requests:  # the same at every step
                requests.append(scoring.plan(model, judge, count))
            result = scoring.evaluate(model, judge, requests[0])
        except UserError as error:
            raise DrawingError(str(error)) from error  # not worth a run's life
        assert result is not None  # nothing stops it
        return Report(scalars={one.name: one.value for one in result.numbers})

    return [(config.eval.every, evaluate)]


def best_by(config: ConfigDict) -> tuple[str, float]:
    """(the score that tells the best checkpoint, 1 where lower is better, -1 where higher is). Raises UserError where
    it would not be known at a checkpoint.
    """
    name = config.checkpoint.best_by
    if name == LOSS:
        return METRIC, 1.0
    known = from_config.evaluation.protocol(config).better
    one_of("checkpoint.best_by", name, [LOSS, *(number for number, way in known.items() if way)])
    every, saved = config.eval.every, config.checkpoint.every
    if not every or saved % every:
        raise UserError(
            f"checkpoint.best_by={name!r} is known where images are evaluated: set eval.every to a divisor of "
            f"checkpoint.every={saved}, such as eval.every={saved}"
        )
    return name, 1.0 if known[name] == LOWER else -1.0


Make: TypeAlias = Callable[[ConfigDict, Task, Mesh, Source | None], list[Due]]

# Scores and distances come before a checkpoint is saved, as they tell the best one; pictures after it. Where training
# is stopped, what takes long is left out: distances and pictures. A further evaluator is a line.
SCORES: list[Make] = [held_out_loss]
DISTANCES: list[Make] = [distances]
PICTURES: list[Make] = [sample_grid, denoising_strip, reconstructions, segmentations]


def evaluators(family: list[Make], config: ConfigDict, task: Task, mesh: Mesh, held_out: Source | None) -> list[Due]:
    """The evaluators of a run of this config, without the ones never due."""
    made = [due for make in family for due in make(config, task, mesh, held_out)]
    return [(every, evaluate) for every, evaluate in made if every > 0]


def forward_process(model: Model, source: Source) -> UInt8[np.ndarray, "H W c"]:
    """The first training images, of the usual shape, and the noise that they are to be found in again, beside the
    denoising strips.
    """
    usual = np.flatnonzero(from_config.shape_numbers(model.config, source) == 0)
    images = pipeline.fixed_batch(
        source, from_config.view(from_config.of_images(model.config), train=False), STRIP_IMAGES, usual
    )["x0"]
    return strip(model.forward(images))


def show(path: Path, name: str, picture: np.ndarray, writers: Writers | None = None, step: int = 0) -> None:
    """Write a picture, record it and say where it is; a full disk is not worth a run's life."""
    if not is_first_process():
        return
    try:
        pictures.save_png(path, picture)
        if writers:
            writers.picture(step, name, picture)
        say(f"{name}: {path}")
    except OSError as error:
        say(f"could not write {path}: {error.strerror or error}; training goes on")


def numbers_of(asked: Request) -> list[int]:
    """The numbers of the images in a request's grid: the first ones, or those of the first condition images."""
    if (shown := _conditions_in(asked)) is None:
        return list(range(min(GRID_IMAGES, asked.count)))
    count, each = shown
    given = len(asked.in_turn[Image.name])
    return [row + given * number for row in range(count) for number in range(each)]


def _conditions_in(asked: Request) -> tuple[int, int] | None:
    """(how many condition images a request's grid shows, how many images of each); None without any."""
    if Image.name not in asked.in_turn or Image.name in asked.in_turn.get("drop", {}):
        return None
    given = len(asked.in_turn[Image.name])
    each = min(MOST_OF_ONE, max(1, asked.count // given))
    return min(given, asked.count, max(1, GRID_IMAGES // (each + 2))), each


def grid(model: Model, images: Num[np.ndarray, "n h w c"], asked: Request) -> UInt8[np.ndarray, "H W c2"]:
    """A request's images of `numbers_of` as one picture: where every class comes in turn, a column a class; where they
    have condition images, each of these, its images and, where it is known, the true one, side by side.
    """
    if (shown := _conditions_in(asked)) is not None:
        count, each = shown
        seen = from_config.image_condition(asked.config).seen.range
        drawn = pictures.coloured(model.shown(images))
        parts = [pictures.coloured(seen.on_screen(asked.in_turn[Image.name][:count]))[:, None]]
        parts.append(drawn.reshape(count, each, *drawn.shape[1:]))
        if asked.truth is not None:
            parts.append(pictures.coloured(model.shown(asked.truth[:count]))[:, None])
        rows = np.concatenate(parts, axis=1)
        beside = max(1, round(count**0.5 / rows.shape[1] ** 0.5))  # about as wide as it is high
        return pictures.grid(rows.reshape(-1, *rows.shape[2:]), beside * rows.shape[1])
    classes = len(model.config.data.class_names)
    by_label = set(model.config.model.conditions) - {Aspect.name} == {"label"}
    in_turn = by_label and not model.config.sample.labels and 1 < classes <= 20
    return pictures.grid(model.shown(images), classes if in_turn else None)


def strip(frames: UInt8[np.ndarray, "rungs n h w c"]) -> UInt8[np.ndarray, "H W c2"]:
    """A row an image, from noise on the left to the image on the right."""
    chosen = np.unique(np.round(np.linspace(0, len(frames) - 1, STRIP_FRAMES)).astype(int))
    return columns(frames[chosen])


def columns(stages: UInt8[np.ndarray, "stages n h w c"]) -> UInt8[np.ndarray, "H W c2"]:
    """A row an image, a column a stage."""
    rows = stages.swapaxes(0, 1)
    return pictures.grid(rows.reshape(-1, *rows.shape[2:]), len(stages))


def pairs(model: Model, images: Num[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "H W c2"]:
    """Images in a row, and below each what an autoencoder gives back of it."""
    shown = [model.shown(each) for each in (images, model.reconstruct(images))]
    return pictures.grid(np.concatenate(shown), len(images))

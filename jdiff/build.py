"""Names in a config -> objects: the one place that knows names.

A later sampler, network, source or task is a file of its own and a line here.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from tqdm import tqdm

from jdiff.common.errors import UserError
from jdiff.config import check_sample, one_of
from jdiff.data.sources import Source
from jdiff.data.sources.digits import Digits
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.tfds import SplitMissingError, Tfds
from jdiff.data.transforms import CHANNEL_CHANGES, ImageView
from jdiff.diffusion import ladders, objective, parameterization, samplers, schedules
from jdiff.networks.classifier import Classifier
from jdiff.networks.unet import UNet, check_sides
from jdiff.tasks import Task
from jdiff.tasks.classifier import ClassifierTask
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training.ema import Ema
from jdiff.training.optimizer import make_optimizer

Made = TypeVar("Made")

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def pick(name: str, value: str, family: Mapping[str, Made]) -> Made:
    """The member of `family` that the config key `name` asks for."""
    return family[one_of(name, value, list(family))]


# Data


def sources(config: ConfigDict) -> tuple[Source, Source | None]:
    """(training images, held-out images or None)."""
    data = config.data
    family, _, name = data.name.partition(":")

    def folder(split: str) -> Source:
        bar = partial(tqdm, desc=f"checking {split} images", leave=False, disable=None if config.log.progress else True)
        on_bad_file = one_of("data.on_bad_file", data.on_bad_file, ("error", "skip"))
        return Folder(
            data.dir,
            split,
            channels=one_of_channels(data.channels or 3),
            holdout=data.holdout,
            on_bad_file=on_bad_file,  # type: ignore[arg-type]
            progress=lambda files, total: bar(files, total=total),
        )

    families: dict[str, Callable[[str], Source]] = {
        "digits": Digits,
        "folder": folder,
        "tfds": lambda split: Tfds(name, split, data.dir),
    }
    make = pick("data.name", family, families)
    if family == "tfds" and not name:
        raise UserError("data.name='tfds:' lacks the name of a data set, as in tfds:cifar10")
    train = make("train")
    try:
        test = make("test")
    except SplitMissingError:
        return train, None
    return train, test if len(test) else None


def one_of_channels(channels: int) -> int:
    if channels not in (1, 3, 4):
        raise UserError(f"data.channels={channels} must be 1 (grey), 3 (colour) or 4 (with transparency)")
    return channels


def resolve(config: ConfigDict, source: Source) -> ConfigDict:
    """The config with what the data decide filled in: shape, classes, and the conditions that there are."""
    config = config.copy_and_resolve_references()
    height, width, channels = source.shape
    if config.data.image_size:
        height = width = config.data.image_size
    if height is None or width is None:
        raise UserError("these images have many sizes: give one with --config.data.image_size=64")
    wanted = config.data.channels or channels
    if wanted != channels and (channels, wanted) not in CHANNEL_CHANGES:
        raise UserError(f"data.channels={wanted}: {config.data.name} has images of {channels} channels; leave it at 0")
    config.data.shape = (height, width, wanted)
    config.data.class_names = source.class_names
    if not source.class_names:
        config.model.conditions = tuple(name for name in config.model.conditions if name != "label")
    if not config.model.conditions:
        config.sample.guidance_scale = None
    return config


def view(config: ConfigDict, *, train: bool) -> ImageView:
    """What makes an example of a record; held-out images are not flipped."""
    return ImageView(shape=config.data.shape, flip=config.data.flip and train, labelled=bool(config.data.class_names))


def example(config: ConfigDict, rows: int = 1) -> Any:
    """A batch of zeros of the form that a resolved config's data have."""
    return jax.tree.map(jnp.asarray, view(config, train=False).example(rows))


# Models


def schedule(config: ConfigDict) -> schedules.Schedule:
    steps = config.model.schedule_steps
    families: dict[str, Callable[[], schedules.Schedule]] = {
        "edm": schedules.EDM,
        "linear": lambda: schedules.DDPMTable(schedules.linear_betas(steps)),
        "cosine": lambda: schedules.DDPMTable(schedules.cosine_betas(steps)),
    }
    return pick("model.schedule", config.model.schedule, families)()


def diffusion(config: ConfigDict) -> DiffusionTask:
    made_schedule = schedule(config)
    predictions: dict[str, Callable[[], parameterization.Parameterization]] = {
        "edm": lambda: parameterization.Edm(made_schedule, config.model.sigma_data),
        "eps": lambda: parameterization.Eps(made_schedule),
    }
    prediction = pick("model.prediction", config.model.prediction, predictions)()

    def uniform_steps() -> objective.Draw:
        if not isinstance(made_schedule, schedules.DDPMTable):
            raise UserError("objective.draw='steps' needs a schedule with steps: model.schedule is linear or cosine")
        return objective.UniformSteps(made_schedule)

    draws: dict[str, Callable[[], objective.Draw]] = {
        "lognormal": lambda: objective.LogNormal(config.objective.mean, config.objective.std),
        "steps": uniform_steps,
    }
    weights: dict[str, Callable[[], objective.Weight]] = {"simple": lambda: objective.Simple(prediction)}
    unknown = [name for name in config.model.conditions if name not in ("label",)]
    if unknown:
        raise UserError(f"model.conditions holds {unknown[0]!r}; conditions are: label")
    networks = {"unet": unet}
    check_sampling(config, made_schedule)
    return DiffusionTask(
        network=pick("network.name", config.network.name, networks)(config),
        parameterization=prediction,
        objective=objective.Objective(
            pick("objective.draw", config.objective.draw, draws)(),
            pick("objective.weight", config.objective.weight, weights)(),
        ),
        conditions=config.model.conditions,
        drop_rate=config.model.drop_rate,
    )


def unet(config: ConfigDict) -> UNet:
    network, (height, width, channels) = config.network, config.data.shape
    try:
        check_sides(height, width, levels=len(network.channel_mults))
    except ValueError as error:
        raise UserError(f"{error}: change data.image_size or network.channel_mults") from error
    for level in {*network.attention_levels, len(network.channel_mults) - 1}:  # the middle attends at the last level
        mult = network.channel_mults[level]
        if mult * network.channels % network.attention_heads:
            raise UserError(
                f"network.attention_heads={network.attention_heads} does not divide {mult * network.channels} channels"
            )
    return UNet(
        out_channels=channels,
        channels=network.channels,
        channel_mults=network.channel_mults,
        blocks_per_level=network.blocks_per_level,
        attention_levels=network.attention_levels,
        attention_heads=network.attention_heads,
        up_attention=one_of("network.up_attention", network.up_attention, ("every", "last")),  # type: ignore[arg-type]
        resample=one_of("network.resample", network.resample, ("conv", "residual")),  # type: ignore[arg-type]
        scale_shift=network.scale_shift,
        skip_scale=math.sqrt(0.5) if network.skip_rescale else 1.0,
        dropout=network.dropout,
        num_classes=len(config.data.class_names) if "label" in config.model.conditions else 0,
        dtype=pick("network.dtype", network.dtype, DTYPES),
        remat=network.remat,
    )


def classifier(config: ConfigDict) -> ClassifierTask:
    if config.train.sample_every or config.train.trajectory_every:
        raise UserError("task='classifier' draws no samples: train.sample_every and train.trajectory_every must be 0")
    if not config.data.class_names:
        raise UserError(f"task='classifier' needs classes, and data.name={config.data.name!r} has none")
    networks = {"convnet": convnet}
    return ClassifierTask(network=pick("network.name", config.network.name, networks)(config))


def convnet(config: ConfigDict) -> Classifier:
    least = 2 ** (len(config.network.channel_mults) - 1)
    if min(config.data.shape[:2]) < least:
        raise UserError(f"network.channel_mults={config.network.channel_mults} needs sides of at least {least}")
    return Classifier(
        num_classes=len(config.data.class_names),
        channels=config.network.channels,
        channel_mults=config.network.channel_mults,
        dropout=config.network.dropout,
        dtype=pick("network.dtype", config.network.dtype, DTYPES),
    )


TASKS: dict[str, Callable[[ConfigDict], Task]] = {"diffusion": diffusion, "classifier": classifier}


def task(config: ConfigDict) -> Task:
    """The task of a resolved config."""
    return pick("task", config.task, TASKS)(config)


# Training


def total_steps(config: ConfigDict, images: int) -> int:
    """How long to train: train.steps, or else train.epochs passes over `images`, or else train.images."""
    train = config.train
    if train.steps:
        return train.steps
    return max(1, math.ceil((train.epochs * images or train.images) / train.batch_size))


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    train = config.train
    return make_optimizer(
        one_of("train.optimizer", train.optimizer, ("adam", "adamw")),  # type: ignore[arg-type]
        learning_rate=train.learning_rate,
        warmup_steps=math.ceil(train.warmup_images / train.batch_size),
        b1=train.b1,
        b2=train.b2,
        eps=train.eps,
        weight_decay=train.weight_decay,
        clip_norm=train.clip_norm,
    )


def ema(config: ConfigDict) -> Ema:
    return Ema(halflife_images=config.train.ema_halflife_images, rampup=config.train.ema_rampup)


# Sampling


def sampler(sample: ConfigDict) -> samplers.Sampler:
    """The solver that `config.sample` asks for."""

    def heun() -> samplers.Heun:
        s_max = math.inf if sample.s_max is None else sample.s_max
        churn = {"s_churn": sample.s_churn, "s_min": sample.s_min, "s_max": s_max, "s_noise": sample.s_noise}
        return samplers.Heun(steps=sample.steps, **churn)

    families: dict[str, Callable[[], samplers.Sampler]] = {
        "heun": heun,
        "euler": lambda: samplers.DDIM(eta=0.0),
        "ddim": lambda: samplers.DDIM(eta=sample.eta),
        "euler_ancestral": lambda: samplers.DDIM(eta=1.0),
        "ddpm": lambda: samplers.DDIM(eta=1.0),
    }
    return pick("sample.sampler", sample.sampler, families)()


def ladder(sample: ConfigDict, made_schedule: schedules.Schedule) -> ladders.Ladder:
    """The sigmas that `config.sample` asks for, [steps + 1]."""
    is_table = isinstance(made_schedule, schedules.DDPMTable)
    subsequences: dict[str, Callable[[int, schedules.DDPMTable], ladders.Ladder]] = {
        "leading": ladders.leading,
        "trailing": ladders.trailing,
        "linspace": ladders.linspace,
    }
    name = one_of("sample.ladder", sample.ladder, ("auto", "karras", *subsequences))
    if name == "auto":
        name = "trailing" if is_table else "karras"
    if name == "karras":
        sigma_min = made_schedule.sigma_min if sample.sigma_min is None else sample.sigma_min
        sigma_max = made_schedule.sigma_max if sample.sigma_max is None else sample.sigma_max
        if not 0 < sigma_min < sigma_max:
            raise UserError(f"sample.sigma_min={sigma_min} and sample.sigma_max={sigma_max} must rise from above 0")
        return ladders.karras(sample.steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=sample.rho)
    if not isinstance(made_schedule, schedules.DDPMTable):
        raise UserError(f"sample.ladder={name!r} takes the steps of a DDPM table, and this model has none; use karras")
    if sample.steps > len(made_schedule.betas):
        raise UserError(f"sample.steps={sample.steps} is more than the table's {len(made_schedule.betas)} steps")
    return subsequences[name](sample.steps, made_schedule)


def check_sampling(config: ConfigDict, made_schedule: schedules.Schedule) -> None:
    """Raises UserError where `config.sample` cannot work, so that this is told before the first picture is due."""
    sampler(config.sample)
    ladder(config.sample, made_schedule)
    conditions(config, config.sample)


def conditions(config: ConfigDict, sample: ConfigDict) -> dict[str, np.ndarray]:
    """What each image that `sample` asks for is conditioned on, [num_images, ...] by name."""
    if "label" not in config.model.conditions:
        if sample.labels:
            raise UserError(f"sample.labels={sample.labels}: this model was trained without labels")
        return {}
    classes = len(config.data.class_names)
    wrong = [label for label in sample.labels if label not in range(classes)]
    if wrong:
        raise UserError(f"sample.labels holds {wrong[0]!r}; labels are 0..{classes - 1}")
    turn = np.asarray(sample.labels or range(classes), np.int32)
    return {"label": turn[np.arange(sample.num_images) % len(turn)]}


def settings(config: ConfigDict, **given: Any) -> ConfigDict:
    """config.sample with what is given (not None) in place of its own; raises UserError for what cannot be right."""
    sample = config.sample.copy_and_resolve_references()
    for name, value in given.items():
        if value is not None:
            try:
                value = value.item() if isinstance(value, np.generic) else value
                sample[name] = float(value) if name == "guidance_scale" else value
            except (KeyError, AttributeError, TypeError, ValueError) as error:
                raise UserError(f"sample.{name}={value!r}: {' '.join(str(error).split())}") from error
    check_sample(sample)
    return sample

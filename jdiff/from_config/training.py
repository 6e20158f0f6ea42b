"""How it is trained."""

import math

import optax
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.config import one_of
from jdiff.training.ema import Ema, PowerEma
from jdiff.training.optimizer import ADAMS, MUON, by_group, learning_rate, make_optimizer

MOST_STEPS = 2**31  # the state counts them in int32
# Of a run. Of 0.05 and 0.10 they leave 1.1 % of the profile of a width of 0.03 over and 0.7 % of that of 0.20 (16: 3.9
# and 2.3 %, 64: 0.3 and 0.2 %), by which the weights of a toy training are off by 2e-4 at most.
SNAPSHOTS = 32


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of the group `train`; of a discriminator with a learning rate of its own."""
    if config.task != "autoencoder" or config.autoencoder.adversary == "none":
        return _optimizer(config, config.train.learning_rate)
    own = config.autoencoder.adversary_learning_rate
    rates = {"autoencoder": config.train.learning_rate, "discriminator": own or config.train.learning_rate}
    return by_group({name: _optimizer(config, peak, waits=name == "discriminator") for name, peak in rates.items()})


def _optimizer(config: ConfigDict, peak: float, *, waits: bool = False) -> optax.GradientTransformation:
    train = config.train
    return make_optimizer(
        one_of("train.optimizer", train.optimizer, (*ADAMS, MUON)),  # type: ignore[arg-type]
        rate=_rate(config, peak),
        b1=train.b1,
        b2=train.b2,
        eps=train.eps,
        weight_decay=train.weight_decay,
        clip_norm=train.clip_norm,
        waits=waits,
    )


def rate(config: ConfigDict) -> optax.ScalarOrSchedule:
    """The learning rate of the group `train`, by steps."""
    return _rate(config, config.train.learning_rate)


def _rate(config: ConfigDict, peak: float) -> optax.ScalarOrSchedule:
    train = config.train
    name = one_of("train.schedule", train.schedule, ("constant", "cosine", "linear", "inverse_sqrt"))
    decay_images = train.decay_images or train.warmup_images
    if name == "inverse_sqrt" and not decay_images:
        raise UserError(
            "train.schedule='inverse_sqrt' needs the images after which the rate falls: set train.decay_images"
        )
    return learning_rate(
        name,  # type: ignore[arg-type]
        peak=peak,
        warmup_steps=math.ceil(train.warmup_images / train.batch_size),
        total_steps=total_steps(config),
        decay_steps=decay_images / train.batch_size,
    )


def total_steps(config: ConfigDict) -> int:
    """How long to train: train.steps, or else train.epochs passes over the data's images, or else train.images.

    Raises UserError where these are more steps than are counted.
    """
    train = config.train
    total = train.steps or max(1, step_after(config, train.epochs * config.data.num_images or train.images))
    if total >= MOST_STEPS:
        raise UserError(f"these are {total:,} steps, and a run counts fewer than 2^31: train shorter")
    return total


def step_after(config: ConfigDict, images: float) -> int:
    """The first step that begins after so many images, since the batch size was last changed."""
    since, seen = config.train.since
    return since + math.ceil((images - seen) / config.train.batch_size)


def images_seen(config: ConfigDict, step: int) -> int:
    """Images of the training so far, at `step`."""
    since, seen = config.train.since
    return seen + (step - since) * config.train.batch_size


def ema(config: ConfigDict) -> Ema:
    """The average of the group `train`."""
    return Ema(halflife_images=config.train.ema_halflife_images, rampup=config.train.ema_rampup)


def profiles(config: ConfigDict) -> PowerEma:
    """The power-function averages of the group `train`."""
    return PowerEma(widths=tuple(map(float, config.train.ema_widths)))


def snapshot_every(config: ConfigDict) -> int:
    """Steps between snapshots of these averages: train.ema_snapshot_every, or a 32nd of the run."""
    return config.train.ema_snapshot_every or math.ceil(total_steps(config) / SNAPSHOTS)

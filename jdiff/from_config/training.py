"""How it is trained."""

import math

import optax
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.config import one_of
from jdiff.training.ema import Ema
from jdiff.training.optimizer import learning_rate, make_optimizer


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of the group `train`."""
    train = config.train
    return make_optimizer(
        one_of("train.optimizer", train.optimizer, ("adam", "adamw")),  # type: ignore[arg-type]
        rate=rate(config),
        b1=train.b1,
        b2=train.b2,
        eps=train.eps,
        weight_decay=train.weight_decay,
        clip_norm=train.clip_norm,
    )


def rate(config: ConfigDict) -> optax.ScalarOrSchedule:
    """The learning rate of the group `train`, by steps."""
    train = config.train
    name = one_of("train.schedule", train.schedule, ("constant", "cosine", "linear", "inverse_sqrt"))
    decay_images = train.decay_images or train.warmup_images
    if name == "inverse_sqrt" and not decay_images:
        raise UserError(
            "train.schedule='inverse_sqrt' needs the images after which the rate falls: set train.decay_images"
        )
    return learning_rate(
        name,  # type: ignore[arg-type]
        peak=train.learning_rate,
        warmup_steps=math.ceil(train.warmup_images / train.batch_size),
        total_steps=total_steps(config),
        decay_steps=decay_images / train.batch_size,
    )


def total_steps(config: ConfigDict) -> int:
    """How long to train: train.steps, or else train.epochs passes over the data's images, or else train.images."""
    train = config.train
    if train.steps:
        return train.steps
    return max(1, math.ceil((train.epochs * config.data.num_images or train.images) / train.batch_size))


def ema(config: ConfigDict) -> Ema:
    """The average of the group `train`."""
    return Ema(halflife_images=config.train.ema_halflife_images, rampup=config.train.ema_rampup)

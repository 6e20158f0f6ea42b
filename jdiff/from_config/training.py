"""How it is trained."""

import math

import optax
from ml_collections import ConfigDict

from jdiff.config import one_of
from jdiff.training.ema import Ema
from jdiff.training.optimizer import make_optimizer


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of the group `train`."""
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
    """The average of the group `train`."""
    return Ema(halflife_images=config.train.ema_halflife_images, rampup=config.train.ema_rampup)

"""A classifier of scikit-learn's digits: another task by the same command."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.task = "classifier"
    config.data.name = "digits"
    config.network.name = "convnet"
    config.network.channels = 32
    config.network.channel_mults = (1, 2)
    config.network.dropout = 0.2
    config.train.steps = 400
    config.train.batch_size = 128
    config.train.optimizer = "adamw"
    config.train.learning_rate = 2e-3
    config.train.weight_decay = 1e-2
    config.train.warmup_images = 6_400
    config.train.ema_halflife_images = 5_000
    config.train.holdout_images = 297
    config.log.every = 50
    config.checkpoint.every = 100
    return config

"""Handwritten digits, 8x8, by class: the 1,797 of scikit-learn. Needs no download; minutes on a CPU."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "digits"
    config.model.sigma_data = 0.75  # the pixels' standard deviation; objective.mean moves with it
    config.objective.mean = -0.8
    config.network.channels = 24
    config.network.channel_mults = (1, 2)
    config.network.blocks_per_level = 1
    config.network.attention_levels = (1,)
    config.train.steps = 1000
    config.train.batch_size = 128
    config.train.learning_rate = 2e-3
    config.train.warmup_images = 12_800
    config.train.ema_halflife_images = 10_000
    config.train.holdout_images = 256  # two batches: one program
    config.train.sample_every = 500
    config.train.trajectory_every = 1000
    config.sample.guidance_scale = 2.0
    config.log.every = 50
    config.checkpoint.every = 500
    return config

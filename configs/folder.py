"""Your own images: --config.data.dir=PATH --config.data.image_size=64.

Any format, size and mode; each sub-folder is a class. Sides must be multiples of 8 (the network's total stride).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "folder"
    config.data.image_size = 64
    config.data.flip = True
    config.network.channels = 128
    config.network.channel_mults = (1, 2, 2, 2)
    config.network.blocks_per_level = 2
    config.network.attention_levels = (2, 3)
    config.network.attention_heads = 4
    config.network.dropout = 0.1
    config.train.images = 20_000_000
    config.train.batch_size = 64
    config.train.learning_rate = 2e-4
    config.train.warmup_images = 100_000
    config.train.sample_every = 2_000
    config.train.trajectory_every = 20_000
    config.sample.num_images = 64
    config.sample.batch_size = 64
    config.checkpoint.every = 1_000
    return config

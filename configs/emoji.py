"""Text to image, small: 32x32 emoji from their names, in about twenty minutes on two CPU cores.

--config.data.dir=PATH: a folder of images with captions in its metadata.jsonl (lines {"file_name", "text"}), such as
Noto Emoji. A transformer over the text is trained with the network, and its tokenizer is fitted to the captions.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "folder"
    config.data.image_size = 32
    config.model.conditions = ("text",)
    config.model.sigma_data = 0.6
    config.condition.text.length = 24
    config.condition.text.width = 96
    config.condition.text.vocabulary = 1024
    config.objective.mean = 0.5  # more high noise, where the text decides the content
    config.network.channels = 24
    config.network.channel_mults = (1, 2, 4)
    config.network.blocks_per_level = 1
    config.network.attention = "transformer"
    config.network.attention_levels = (2,)
    config.network.attention_heads = 4
    config.train.steps = 1600
    config.train.batch_size = 32
    config.train.learning_rate = 1e-3
    config.train.warmup_images = 6_400
    config.train.ema_halflife_images = 10_000
    config.train.sample_every = 800
    config.sample.guidance_scale = 4.0
    config.log.every = 50
    config.checkpoint.every = 400
    return config

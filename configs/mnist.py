"""MNIST, 28x28 grey, by class, a small network: 60,000 + 10,000 digits (LeCun, Cortes and Burges; CC BY-SA 3.0).

No flips: a mirrored digit is not a digit. Prepare once, into ~/tensorflow_datasets/mnist/ (12 MB):

    tfds build mnist --file_format=array_record
    python -m jdiff.main --config=configs/mnist.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "tfds:mnist"
    config.model.sigma_data = 0.62
    config.network.channels = 64
    config.network.channel_mults = (1, 2, 2)
    config.network.attention_levels = (2,)
    config.network.dropout = 0.1
    config.train.images = 10_000_000
    config.train.batch_size = 256
    config.train.learning_rate = 5e-4
    config.train.warmup_images = 100_000
    config.train.ema_halflife_images = 100_000
    config.train.sample_every = 5_000
    config.train.trajectory_every = 20_000
    config.sample.guidance_scale = 1.5
    config.checkpoint.every = 2_000
    return config

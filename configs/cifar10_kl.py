"""A KL autoencoder of CIFAR-10, 32x32 photos to 8x8x3 latents (f4). The data: configs/cifar10.py.

Not run.

    python -m jdiff.main --config=cifar10_kl --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import autoencoders, base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.task = "autoencoder"
    config.model.conditions = ()
    config.data.name = "tfds:cifar10"
    config.data.flip = True
    config.autoencoder.update(autoencoders.KL_F4)
    config.train.images = 10_000_000
    config.train.batch_size = 128
    config.train.learning_rate = 1e-4
    config.train.warmup_images = 32_000
    config.train.ema_halflife_images = 50_000
    config.train.sample_every = 2_000
    config.checkpoint.every = 2_000
    return config

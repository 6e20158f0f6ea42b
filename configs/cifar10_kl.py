"""A KL autoencoder of CIFAR-10, 32x32 photos to 8x8x3 latents (f4). The data: configs/cifar10.py.

Not run.

    python -m jdiff.main --config=cifar10_kl --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import afhq_kl, autoencoders


def get_config() -> ConfigDict:
    config = afhq_kl.get_config()
    config.data.name = "tfds:cifar10"
    config.data.image_size = 0
    config.autoencoder.update(autoencoders.KL_F4)
    config.train.images = 10_000_000
    config.train.batch_size = 128
    config.train.learning_rate = 1e-4
    return config

"""CIFAR-10 by class in latents of configs/cifar10_kl.py. Not run. Prepared latents train faster:

python -m jdiff.main --config=cifar10_kl --config.data.dir=PATH
python -m jdiff.main --config=cifar10_ldm --config.data.dir=PATH --mode=prepare --out=latents
python -m jdiff.main --config=cifar10_ldm --config.data.dir=PATH --config.space.prepared=latents
"""

from ml_collections import ConfigDict

from configs import afhq_ldm


def get_config() -> ConfigDict:
    config = afhq_ldm.get_config()
    config.data.name = "tfds:cifar10"
    config.data.image_size = 0
    config.space.autoencoder = "runs/cifar10_kl"
    config.network.patch_size = 1
    return config

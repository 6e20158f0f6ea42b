"""CIFAR-10, 32x32, by class: EDM's recipe with the DDPM++ network, 55.7 M parameters (Karras et al., arXiv 2206.00364,
table 7, and train.py's defaults). 50,000 + 10,000 images (Krizhevsky 2009; no licence given, cite the report).

No label is dropped in training, so the model knows no guidance: cifar10_guided.py does. --config.model.conditions="()"
trains the unconditional model. Prepare once, into ~/tensorflow_datasets/cifar10/ (170 MB):

    tfds build cifar10 --file_format=array_record
    python -m jdiff.main --config=configs/cifar10.py
"""

from ml_collections import ConfigDict

from configs import base, networks


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "tfds:cifar10"
    config.data.augment = 0.12  # includes x-flips, as a condition, so data.flip stays off
    config.model.drop_rate = 0.0
    config.network.update(networks.DDPMPP)
    config.network.dropout = 0.13
    config.train.images = 200_000_000
    config.train.batch_size = 512
    config.train.learning_rate = 1e-3
    config.train.warmup_images = 10_000_000
    config.train.clip_norm = 0.0
    config.train.ema_halflife_images = 500_000
    config.train.sample_every = 5_000
    config.train.trajectory_every = 50_000
    config.checkpoint.every = 5_000
    return config

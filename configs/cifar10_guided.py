"""CIFAR-10, 32x32, by class and for guidance: as cifar10.py, with a tenth of the labels dropped in training.

The share is Ho & Salimans' (arXiv 2207.12598); EDM's models of CIFAR-10 are not guided. Prepared as there.

    python -m jdiff.main --config=configs/cifar10_guided.py
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.model.drop_rate = 0.1
    config.sample.guidance_scale = 1.5
    return config

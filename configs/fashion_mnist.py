"""Fashion-MNIST, 28x28, by class: as MNIST, with flips. Prepare once: tfds build fashion_mnist
--file_format=array_record.
"""

from ml_collections import ConfigDict

from configs import mnist


def get_config() -> ConfigDict:
    config = mnist.get_config()
    config.data.name = "tfds:fashion_mnist"
    config.data.flip = True
    config.model.sigma_data = 0.71
    return config

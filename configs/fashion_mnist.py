"""Fashion-MNIST, 28x28 grey, by class: as MNIST, with flips; 60,000 + 10,000 pictures (Zalando SE; MIT).

Prepare once, into ~/tensorflow_datasets/fashion_mnist/ (30 MB):

    tfds build fashion_mnist --file_format=array_record
    python -m jdiff.main --config=configs/fashion_mnist.py
"""

from ml_collections import ConfigDict

from configs import mnist


def get_config() -> ConfigDict:
    config = mnist.get_config()
    config.data.name = "tfds:fashion_mnist"
    config.data.flip = True
    config.model.sigma_data = 0.71
    return config

"""CIFAR-10 enlarged to 64x64, by class: EDM's network, batches, learning rate and ladder for 64x64, its dropout and
augmentation for CIFAR-10 (Karras et al., arXiv 2206.00364, table 7). EDM itself has no such model.

CIFAR-10 (Krizhevsky 2009), enlarged by a network: on Kaggle joaopauloschuler/cifar10-64x64-resized-via-cai-super-
resolution, 50,000 + 10,000 images. PATH is its folder cifar10-64; classes are in CIFAR-10's order, airplane
to truck:

    PATH/{train,test}/{class0,class1,...,class9}/*.png

    python -m jdiff.main --config=configs/cifar10_64.py --config.data.dir=PATH

--config.data.name=tfds:cifar10 enlarges CIFAR-10 itself (bicubic) instead.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.data.name = "folder"
    config.data.image_size = 64
    config.network.channel_mults = (1, 2, 2, 2)
    config.network.attention_levels = (2,)  # 16x16
    config.train.batch_size = 256
    config.train.learning_rate = 2e-4
    config.sample.steps = 40
    return config

"""A KL autoencoder of faces, 128x128 to 32x32x3 latents (f4). The data: configs/gender_faces.py.

Not run. At 64x64: --config.data.image_size=64.

    python -m jdiff.main --config=gender_faces_kl --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import afhq_kl, autoencoders


def get_config() -> ConfigDict:
    config = afhq_kl.get_config()
    config.data.image_size = 128
    config.autoencoder.update(autoencoders.KL_F4)
    config.train.images = 3_000_000
    config.train.batch_size = 32
    config.train.learning_rate = 1e-4
    return config

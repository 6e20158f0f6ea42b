"""A KL autoencoder of faces, 256x256 to 32x32x4 latents (f8). The data: configs/celeb_a_hq.py.

Not run. At 128x128: --config.data.image_size=128 "--config.autoencoder.channel_mults=(1,2,4)".

    python -m jdiff.main --config=celeb_a_hq_kl --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import afhq_kl


def get_config() -> ConfigDict:
    config = afhq_kl.get_config()
    config.train.images = 3_000_000
    return config

"""A KL autoencoder of animals' faces, 256x256 to 32x32x4 latents (f8). The data: configs/afhq.py.

Not run. At 64x64: --config.data.image_size=64 "--config.autoencoder.channel_mults=(1,2,4)".

    python -m jdiff.main --config=afhq_kl --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import autoencoders, base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.task = "autoencoder"
    config.model.conditions = ()
    config.data.name = "folder"
    config.data.image_size = 256
    config.data.flip = True
    config.autoencoder.update(autoencoders.KL_F8)
    config.train.images = 2_000_000
    config.train.batch_size = 16
    config.train.learning_rate = 5e-5
    config.train.warmup_images = 32_000
    config.train.ema_halflife_images = 50_000
    config.train.sample_every = 2_000
    config.checkpoint.every = 2_000
    return config

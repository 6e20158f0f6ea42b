"""A KL autoencoder of skin lesions, 64x64 photos to 16x16x4 latents (f4). The data: configs/isic2018.py.

Held-out PSNR 31.3 dB after 11 minutes on 2 CPU cores (bicubic, down by 4 and up again: 33.0, as skin is smooth).

python -m jdiff.main --config=isic_kl --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import autoencoders, isic2018


def get_config() -> ConfigDict:
    config = isic2018.get_config()
    config.task = "autoencoder"
    config.model.space = "pixels"
    config.model.conditions = ()
    config.data.target = "image"
    config.data.image_size = 64
    config.autoencoder.update(autoencoders.SMALL)
    config.autoencoder.latent_channels = 4
    config.autoencoder.beta = 1e-6
    config.autoencoder.equivariance = 0.5
    config.network.dropout = 0.0
    config.train.images = 20_000
    config.train.batch_size = 32
    config.train.learning_rate = 1e-3
    config.train.warmup_images = 3_200
    config.train.schedule = "cosine"
    config.train.ema_halflife_images = 3_000
    config.train.sample_every = 500
    config.checkpoint.every = 500
    return config

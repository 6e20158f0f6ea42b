"""A VAE of scikit-learn's digits: 16 latents an image, in a few minutes on a CPU.

Held-out PSNR 24.0 dB, where PCA with 16 components gives 19.7.

python -m jdiff.main --config=digits_vae
python -m jdiff.main --mode=reconstruct --workdir=runs/digits_vae
python -m jdiff.main --mode=sample --workdir=runs/digits_vae
"""

from ml_collections import ConfigDict

from configs import autoencoders, base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.task = "autoencoder"
    config.model.conditions = ()
    config.data.name = "digits"
    config.autoencoder.update(autoencoders.SMALL)
    config.autoencoder.losses = ("l2",)
    config.autoencoder.latent_channels = 4  # 2x2 places
    config.autoencoder.beta = 0.02
    config.autoencoder.equivariance = 0.5
    config.train.steps = 800
    config.train.batch_size = 64
    config.train.learning_rate = 2e-3
    config.train.warmup_images = 6_400
    config.train.schedule = "cosine"
    config.train.ema_halflife_images = 5_000
    config.train.holdout_images = 297
    config.train.sample_every = 400
    config.checkpoint.every = 400
    return config

"""Animals' faces at 256x256, by class, in latents of configs/afhq_kl.py. Not run. Prepared latents train faster:

python -m jdiff.main --config=afhq_kl --config.data.dir=PATH
python -m jdiff.main --config=afhq_ldm --config.data.dir=PATH --mode=prepare --out=latents
python -m jdiff.main --config=afhq_ldm --config.data.dir=PATH --config.space.prepared=latents
"""

from ml_collections import ConfigDict

from configs import base, networks


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "folder"
    config.data.image_size = 256
    config.data.flip = True
    config.model.conditions = ("label",)
    config.model.space = "latents"
    config.model.sigma_data = 1.0  # latents are normalised
    config.space.autoencoder = "runs/afhq_kl"
    config.objective.mean = -0.4
    config.network.update(networks.DIT_S)
    config.network.patch_size = 2
    config.train.images = 20_000_000
    config.train.batch_size = 256
    config.train.learning_rate = 3e-4
    config.train.warmup_images = 256_000
    config.train.ema_halflife_images = 500_000
    config.train.sample_every = 5_000
    config.sample.guidance_scale = 1.5
    config.sample.num_images = 64
    config.sample.batch_size = 64
    config.checkpoint.every = 5_000
    return config

"""CIFAR-10, 32x32, unconditional: DDPM's recipe, 35.7 M parameters (Ho et al., arXiv 2006.11239, appendix B, and what
its code does for CIFAR-10: the larger variance, x0 clipped).
"""

from ml_collections import ConfigDict

from configs import base, networks


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "tfds:cifar10"
    config.data.flip = True
    config.model.conditions = ()
    config.model.schedule = "linear"
    config.model.prediction = "eps"
    config.objective.draw = "steps"
    config.network.update(networks.DDPM)
    config.network.dropout = 0.1
    config.train.steps = 800_000
    config.train.batch_size = 128
    config.train.learning_rate = 2e-4
    config.train.warmup_images = 640_000
    config.train.clip_norm = 1.0
    config.train.ema_halflife_images = 887_000  # decay 0.9999 a step of 128 images
    config.train.ema_rampup = 0.0
    config.train.sample_every = 20_000
    config.train.trajectory_every = 100_000
    config.sample.sampler = "ddpm"
    config.sample.steps = 1000
    config.sample.variance = "large"
    config.guidance.threshold = "static"
    config.checkpoint.every = 10_000
    return config

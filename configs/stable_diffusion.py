"""Fine-tune a pipeline of diffusers, such as Stable Diffusion's, on captioned images:

    --config.train.initial=PIPELINE --config.data.dir=FOLDER [--config.lora.rank=16 --config.train.learning_rate=1e-4]

Network, process, latents and text encoder are the pipeline's, whatever stands here. Not run on published weights; the
tests train tiny ones.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "folder"
    config.data.image_size = 512  # 0: the size that the pipeline draws
    config.data.resize = "random_crop"
    config.model.conditions = ("text",)
    config.model.schedule = "scaled_linear"
    config.model.beta_start = 0.00085
    config.model.beta_end = 0.012
    config.model.prediction = "eps"
    config.network.dtype = "bfloat16"
    config.network.remat = True
    config.objective.draw = "steps"
    config.train.images = 100_000
    config.train.batch_size = 8
    config.train.optimizer = "adamw"
    config.train.weight_decay = 0.01
    config.train.learning_rate = 1e-5
    config.train.warmup_images = 4_000
    config.train.ema_halflife_images = 10_000
    config.train.holdout_images = 64
    config.train.sample_every = 1_000
    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 25
    config.sample.guidance_scale = 7.5
    config.sample.num_images = 16
    config.sample.batch_size = 8
    config.checkpoint.every = 1_000
    return config

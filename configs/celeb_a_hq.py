"""CelebA-HQ, faces at 256x256, unconditional: DDPM's network and training for it, 114 M parameters (Ho et al., arXiv
2006.11239, appendix B), but on EDM's noise: its process, objective and sampler.

30,000 of CelebA's photos, restored and aligned at 1024x1024 (Karras et al., arXiv 1710.10196); CelebA's terms, so
non-commercial research only, and CC BY-NC 4.0. Copies of 256x256 are enough:

    PATH/*.jpg        or in sub-folders, such as {train,val}/{female,male} of StarGAN v2's copy

    python -m jdiff.main --config=configs/celeb_a_hq.py --config.data.dir=PATH

A batch of 64 needs several GPUs, or on one --config.train.accumulate=8 --config.network.dtype=bfloat16.
"""

from ml_collections import ConfigDict

from configs import base, networks


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "folder"
    config.data.image_size = 256
    config.data.flip = True
    config.model.conditions = ()
    config.objective.mean = 0.2  # -1.2 + ln(256 / 64): neighbouring pixels average the noise out (arXiv 2301.11093)
    config.network.update(networks.DDPM)
    config.network.channel_mults = (1, 1, 2, 2, 4, 4)
    config.network.attention_levels = (4,)  # 16x16
    config.train.steps = 500_000
    config.train.batch_size = 64
    config.train.learning_rate = 2e-5
    config.train.warmup_images = 320_000
    config.train.ema_halflife_images = 444_000  # decay 0.9999 a step of 64 images
    config.train.ema_rampup = 0.0
    config.train.sample_every = 10_000
    config.train.trajectory_every = 50_000
    config.sample.steps = 40
    config.sample.num_images = 16
    config.sample.batch_size = 16
    config.checkpoint.every = 5_000
    return config

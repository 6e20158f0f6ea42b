"""FFHQ, faces at 64x64, unconditional: EDM's recipe with the DDPM++ network, 61.8 M parameters (Karras et al., arXiv
2206.00364, table 7), but for the 5 % of the photos that are held out.

Flickr-Faces-HQ by NVIDIA (github.com/NVlabs/ffhq-dataset): 70,000 aligned photos; CC BY-NC-SA 4.0, each photo under its
author's own licence; not for face recognition. Its thumbnails of 128x128 (2 GB) are enough; the images of
1024x1024 (90 GB) work as well. They lie in folders of a thousand, which are not classes here:

    PATH/{00000,01000,...,69000}/*.png

    python -m jdiff.main --config=configs/ffhq.py --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import base, networks


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "folder"
    config.data.image_size = 64
    config.data.augment = 0.15  # includes x-flips, as a condition, so data.flip stays off
    config.model.conditions = ()
    config.network.update(networks.DDPMPP)
    config.network.channel_mults = (1, 2, 2, 2)
    config.network.attention_levels = (2,)  # 16x16
    config.network.dropout = 0.05
    config.train.images = 200_000_000
    config.train.batch_size = 256
    config.train.learning_rate = 2e-4
    config.train.warmup_images = 10_000_000
    config.train.clip_norm = 0.0
    config.train.ema_halflife_images = 500_000
    config.train.sample_every = 5_000
    config.train.trajectory_every = 50_000
    config.sample.steps = 40
    config.sample.num_images = 64
    config.sample.batch_size = 64
    config.checkpoint.every = 5_000
    return config

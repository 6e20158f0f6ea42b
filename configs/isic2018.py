"""Segmentation of skin lesions, ISIC 2018 task 1, at 128x128: the mask is modelled, the photo conditions it.

Dermoscopy photos of 500 to 6,700 pixels with a mask of 0 and 255 each (challenge.isic-archive.com/data; 11 GB);
2,594 + 1,000; non-commercial research, cite Codella et al. (arXiv 1902.03368) and Tschandl et al. 2018. The zip files
ISIC2018_Task1-2_Training_Input, ISIC2018_Task1_Training_GroundTruth and those of Test, unzipped and renamed:

    PATH/{train,test}/images/ISIC_*.jpg
    PATH/{train,test}/masks/ISIC_*_segmentation.png

    python -m jdiff.main --config=configs/isic2018.py --config.data.dir=PATH

Resize such large photos once, and their masks by nearest neighbour: decoding the originals takes longer than training.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "pairs"
    config.data.suffixes = ("", "_segmentation")
    config.data.target = "mask"
    config.data.image_size = 128
    config.data.resize = "squash"  # crops no lesion; no quarter turns, which would turn the distortion too
    config.data.flip = True  # a photo of skin has no orientation
    config.data.flip_vertical = True
    config.model.space = "masks"
    config.model.conditions = ("image",)
    config.model.sigma_data = 0.9  # 2 sqrt(p (1 - p)), lesions cover about p = 29 % of the pixels (200 masks)
    config.condition.image.of = "image"
    config.condition.image.view = "as_is"
    config.condition.image.drop_rate = 0.0  # a mask without a photo is of no use
    # Much high noise: the large areas of a mask average it out, and one call asks at 80 (with mean 0 its Dice was 0.79,
    # with these 0.86; benchmarks/RESULTS.md).
    config.objective.mean = 2.0
    config.objective.std = 1.6
    config.network.channels = 64
    config.network.channel_mults = (1, 2, 4, 4)
    config.network.attention_levels = (3,)  # 16x16
    config.network.attention_heads = 4
    config.network.dropout = 0.1
    config.train.images = 1_600_000
    config.train.batch_size = 32
    config.train.learning_rate = 2e-4
    config.train.warmup_images = 20_000
    config.train.ema_halflife_images = 50_000
    config.train.sample_every = 2_000
    config.sample.sampler = "ddim"  # Heun overshoots where a mask is drawn in few steps
    config.sample.steps = 5
    config.sample.num_images = 36
    config.sample.batch_size = 36
    config.checkpoint.every = 2_000
    return config

"""Photos of facades from maps of their parts, at 128x128: the map is a condition, concatenated to the noisy photo.

The CMP Facade Database (Tylecek and Sara 2013; cmp.felk.cvut.cz/~tylecr1/facade) as pix2pix has it (Isola et al., arXiv
1611.07004; `bash datasets/download_pix2pix_dataset.sh facades`, 30 MB): 400 + 106 JPEG of 512x256, the photo left, the
coloured map right. Of a folder without splits a share is held out:

    PATH/{train,test}/*.jpg  or  PATH/*.jpg

    python -m jdiff.main --config=configs/facades.py --config.data.dir=PATH

Maps from photos: --config.data.target=map --config.condition.image.of=image. A folder of the form of `edges2shoes` has
the condition left: --config.data.halves=left,right --config.data.names="('map','image')". Not run here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "pairs"
    config.data.halves = "left,right"
    config.data.names = ("image", "map")
    config.data.masks = ()  # the map's colours are no numbers of classes
    config.data.image_size = 128
    config.data.resize = "squash"
    config.data.flip = True
    config.data.holdout = 0.1
    config.model.conditions = ("image",)
    config.condition.image.of = "map"
    config.condition.image.view = "as_is"
    config.condition.image.drop_rate = 0.1
    config.network.channels = 64
    config.network.channel_mults = (1, 2, 4, 4)
    config.network.attention_levels = (3,)  # 16x16
    config.network.attention_heads = 4
    config.network.dropout = 0.2  # some hundred photos are soon learnt by heart
    config.train.images = 400_000
    config.train.batch_size = 32
    config.train.learning_rate = 2e-4
    config.train.warmup_images = 20_000
    config.train.ema_halflife_images = 20_000
    config.train.sample_every = 2_000
    config.sample.num_images = 36
    config.sample.batch_size = 36
    config.checkpoint.every = 2_000
    return config

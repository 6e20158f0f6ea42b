"""Landscapes at 64x64, unconditional.

"Landscape Pictures" on Kaggle (arnaud58/landscape-pictures): some 4,300 photos from Flickr, of many sizes; the
rights are their photographers'. All in one folder:

    PATH/*.jpg

    python -m jdiff.main --config=configs/landscape.py --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import folder


def get_config() -> ConfigDict:
    config = folder.get_config()
    config.data.resize = "random_crop"  # wide pictures: crops cover their left and right, too
    config.data.flip = True  # a mirrored landscape is a landscape; an upside-down one is not
    config.model.conditions = ()
    config.network.dropout = 0.2  # few images
    config.train.images = 5_000_000
    return config

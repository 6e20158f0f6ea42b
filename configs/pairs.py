"""Your own pictures and their masks, at 128x128: the mask is modelled, the picture conditions it; as ISIC 2018.

Two folders, matched by names without their endings, sub-folders included; any format, size and mode:

    PATH/images/*.png
    PATH/masks/*.png

    python -m jdiff.main --config=configs/pairs.py --config.data.dir=PATH

Look first: the same command with --mode=inspect names files without a partner, stray values of masks and copies, and
measures model.sigma_data. Then say what your data need: other folders (data.folders), ends of names (data.suffixes, as
"_segmentation"), several masks of a picture (data.several=union, or raters), grey pictures (data.channels=1), patients
that must not be on both sides (data.group: a column of metadata.csv, or a pattern of names), a split of your own
(PATH/train/images, PATH/test/images and so on, or data.split_list). Flips are off: put them on where a mirrored picture
could be another of yours (data.flip, data.flip_vertical).
"""

from ml_collections import ConfigDict

from configs import isic2018


def get_config() -> ConfigDict:
    config = isic2018.get_config()
    config.data.suffixes = ("", "")
    config.data.holdout = 0.2
    config.data.flip = False
    config.data.flip_vertical = False
    config.model.sigma_data = 0.7  # 2 sqrt(p (1 - p)) of p = 14 %
    return config

"""Segmentation of breast lesions in ultrasound, BUSI, at 128x128: the mask is modelled, the scan conditions it.

780 grey scans of about 500x500 pixels, 437 benign, 210 malignant and 133 normal with an empty mask, of 600 women
(Al-Dhabyani et al. 2020, Dataset of breast ultrasound images; Baheya Hospital, Cairo; cite it). As Kaggle's copy
aryashah2k/breast-ultrasound-images-dataset is unzipped, a scan with several lesions having several masks:

    PATH/{benign,malignant,normal}/* (*).png
    PATH/{benign,malignant,normal}/* (*)_mask.png

    python -m jdiff.main --config=configs/busi.py --config.data.dir=PATH

No file says which scans are of one woman, and some scans are in the set twice (--mode=inspect names them), so a fifth
held out at random, with its share of empty masks, scores higher than new patients would. Papers leave the normal ones
out, where U-Nets reach a Dice of about 0.76 (Valanarasu & Patel, arXiv 2203.04967, another split): move PATH/normal
away for that. Not run here.
"""

from ml_collections import ConfigDict

from configs import isic2018


def get_config() -> ConfigDict:
    config = isic2018.get_config()
    config.data.folders = (".", ".")
    config.data.suffixes = ("", "_mask")
    config.data.several = "union"
    config.data.holdout = 0.2
    config.data.stratify = "empty"
    config.data.channels = 1
    config.data.mask_snap = True
    config.data.flip = True  # left and right breasts mirror each other
    config.data.flip_vertical = False  # the probe is above
    config.model.sigma_data = 0.5  # 2 sqrt(p (1 - p)) of p = 7 %, an estimate: --mode=inspect measures it
    config.network.dropout = 0.2  # few images
    config.train.images = 600_000
    return config

"""Segmentation of polyps, CVC-ClinicDB, at 128x128: the mask is modelled, the frame conditions it; as ISIC 2018.

612 frames of 384x288 from 29 colonoscopies with a mask each (Bernal et al. 2015, WM-DOVA maps; Hospital Clinic,
Barcelona; for research, cite it). As Kaggle's copy balraj98/cvcclinicdb is unzipped:

    PATH/PNG/Original/*.png
    PATH/PNG/Ground Truth/*.png

    python -m jdiff.main --config=configs/cvc_clinicdb.py --config.data.dir=PATH

A random share is held out, but frames of one colonoscopy are nearly alike: to report results, split whole sequences
(its metadata.csv names them) into PATH/train/PNG/... and PATH/test/PNG/..., and state the split.
"""

from ml_collections import ConfigDict

from configs import isic2018


def get_config() -> ConfigDict:
    config = isic2018.get_config()
    config.data.folders = ("PNG/Original", "PNG/Ground Truth")
    config.data.suffixes = ("", "")
    config.data.mask_snap = True  # resized copies hold greys along the edges
    config.data.flip = True  # an endoscope rotates as it moves
    config.data.flip_vertical = True
    config.model.sigma_data = 0.55  # 2 sqrt(p (1 - p)), polyps cover about p = 8 % of the pixels
    config.network.dropout = 0.2  # few images
    config.train.images = 600_000
    return config

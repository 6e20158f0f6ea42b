"""Segmentation of lung nodules, LIDC-IDRI, at 128x128: the mask is modelled, the slice of CT conditions it.

1,018 scans of 1,010 patients, whose nodules four radiologists outlined each (Armato et al. 2011; cancerimagingarchive.
net; CC BY 3.0). Kaggle's zhangweiled/lidcidri has slices around the nodules as PNG. Each radiologist's mask is paired
with its slice, so samples vary as radiologists do; splits share no patient. Once, beside the folder LIDC-IDRI-slices:

    from pathlib import Path

    for mask in Path("LIDC-IDRI-slices").glob("*/nodule-*/mask-*/*.png"):
        patient, nodule, rater, slice_ = mask.parts[-4:]
        split = "test" if patient.endswith("0") else "train"
        for kind, file in (("images", mask.parents[1] / "images" / slice_), ("masks", mask)):
            link = Path("PATH", split, kind, f"{patient}_{nodule}_{rater}_{slice_}")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(file)

which gives

    PATH/{train,test}/images/LIDC-IDRI-*.png
    PATH/{train,test}/masks/LIDC-IDRI-*.png

    python -m jdiff.main --config=configs/lidc.py --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import isic2018


def get_config() -> ConfigDict:
    config = isic2018.get_config()
    config.data.suffixes = ("", "")
    config.data.channels = 1
    config.data.resize = "centre"  # they are square
    config.data.flip = True  # a mirrored nodule of the left lung is one of the right
    config.data.flip_vertical = False  # patients lie on their backs
    config.model.sigma_data = 0.25  # 2 sqrt(p (1 - p)), nodules cover about p = 1.5 % of the pixels
    return config

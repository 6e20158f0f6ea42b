"""Segmentation of lung nodules, LIDC-IDRI, at 128x128: the mask is modelled, the slice of CT conditions it.

1,018 scans of 1,010 patients, whose nodules four radiologists outlined each (Armato et al. 2011; cancerimagingarchive.
net; CC BY 3.0). Kaggle's zhangweiled/lidcidri has slices around the nodules as PNG. A step draws one of the four masks
of each slice, so samples vary as radiologists do; splits share no patient. Once, beside the folder LIDC-IDRI-slices:

    from pathlib import Path

    for image in Path("LIDC-IDRI-slices").glob("*/nodule-*/images/*.png"):
        patient, nodule, _, _ = image.parts[-4:]
        split = "test" if patient.endswith("0") else "train"
        name = f"{patient}_{nodule}_{image.stem}"
        masks = [(f"masks/{name}_{rater}.png", image.parents[1] / f"mask-{rater}" / image.name) for rater in range(4)]
        for place, file in ((f"images/{name}.png", image), *masks):
            link = Path("PATH", split, place)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(file)

which gives

    PATH/{train,test}/images/LIDC-IDRI-*.png
    PATH/{train,test}/masks/LIDC-IDRI-*_{0,1,2,3}.png

    python -m jdiff.main --config=configs/lidc.py --config.data.dir=PATH
    python -m jdiff.main --mode=evaluate --workdir=runs/lidc --config.segment.members=16

The second line tells GED^2 and HM-IoU of 16 samples, which the best published models bring to 0.20 to 0.26 and 0.58 to
0.62 on other crops and splits. Not run here.
"""

from ml_collections import ConfigDict

from configs import isic2018


def get_config() -> ConfigDict:
    config = isic2018.get_config()
    config.data.suffixes = ("", "")
    config.data.several = "raters"
    config.data.channels = 1
    config.data.resize = "centre"  # they are square
    config.data.flip = True  # a mirrored nodule of the left lung is one of the right
    config.data.flip_vertical = False  # patients lie on their backs
    config.model.sigma_data = 0.25  # 2 sqrt(p (1 - p)), nodules cover about p = 1.5 % of the pixels
    return config

"""Segmentation of polyps, CVC-ClinicDB, at 128x128: the mask is modelled, the frame conditions it; as ISIC 2018.

612 frames of 384x288, of 29 sequences of colonoscopies, with a mask each (Bernal et al. 2015, WM-DOVA maps; Hospital
Clinic, Barcelona; for research, cite it). As Kaggle's copy balraj98/cvcclinicdb is unzipped:

    PATH/PNG/Original/*.png
    PATH/PNG/Ground Truth/*.png

    python -m jdiff.main --config=configs/cvc_clinicdb.py --config.data.dir=PATH

Frames of one sequence are nearly alike, so a fifth is held out in whole sequences (6 of 29, 131 frames), by the column
sequence_id of the copy's PATH/metadata.csv. For a copy without it, once (LAST: the last frame of each sequence, in
which two public readers of the data agree):

    import csv
    from bisect import bisect_left

    LAST = [25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317, 342, 363, 383, 408, 428, 447, 466]
    LAST += [478, 503, 528, 546, 571, 591, 612]
    rows = [(frame, 1 + bisect_left(LAST, frame)) for frame in range(1, 613)]
    with open("PATH/metadata.csv", "w") as file:
        csv.writer(file).writerows([("frame_id", "sequence_id"), *rows])

Most papers draw frames at random, which scores higher: a tenth with --config.data.group="" --config.data.holdout=0.1,
a published list of them with --config.data.group="" --config.data.split_list=test.txt. State the split with a result;
the run's split.csv holds it.
"""

from ml_collections import ConfigDict

from configs import isic2018


def get_config() -> ConfigDict:
    config = isic2018.get_config()
    config.data.folders = ("PNG/Original", "PNG/Ground Truth")
    config.data.suffixes = ("", "")
    config.data.group = "sequence_id"
    config.data.holdout = 0.2
    config.data.mask_snap = True  # resized copies hold greys along the edges
    config.data.flip = True  # an endoscope rotates as it moves
    config.data.flip_vertical = True
    config.model.sigma_data = 0.55  # 2 sqrt(p (1 - p)), polyps cover about p = 8 % of the pixels
    config.network.dropout = 0.2  # few images
    config.train.images = 600_000
    return config

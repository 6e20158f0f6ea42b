"""CelebA, faces at 64x64, unconditional: as FFHQ, with the central 178x178 pixels of its 178x218.

CelebFaces Attributes (Liu et al., ICCV 2015; mmlab.ie.cuhk.edu.hk/projects/CelebA.html): 162,770 + 19,867 + 19,962
aligned photos of celebrities (1.4 GB); non-commercial research only, no redistribution. Prepare once, into
~/tensorflow_datasets/celeb_a/:

    tfds build celeb_a --file_format=array_record
    python -m jdiff.main --config=configs/celeb_a.py

If Google Drive refuses that download (its quota is often used up), unzip the authors' img_align_celeba.zip,

    PATH/*.jpg

    python -m jdiff.main --config=configs/celeb_a.py --config.data.name=folder --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import ffhq


def get_config() -> ConfigDict:
    config = ffhq.get_config()
    config.data.name = "tfds:celeb_a"
    return config

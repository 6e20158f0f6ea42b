"""Faces of women and men at 64x64, by class.

"Gender Classification Dataset" on Kaggle (cashutosh/gender-classification-dataset): some 47,000 + 11,600 small cropped
photos, female and male. They show real people and carry no licence: read its page, and publish no samples. As
unzipped:

    PATH/{Training,Validation}/{female,male}/*.jpg

    python -m jdiff.main --config=configs/gender_faces.py --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import folder


def get_config() -> ConfigDict:
    config = folder.get_config()
    config.data.flip = True  # a mirrored face is a face
    config.sample.guidance_scale = 1.5
    return config

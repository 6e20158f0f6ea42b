"""Anime faces at 64x64, unconditional.

"Anime Face Dataset" on Kaggle (splcher/animefacedataset): some 63,600 faces cut out of drawings on getchu.com, mostly
of 90 to 120 pixels; the rights are the artists'. PATH is its folder images:

    PATH/*.jpg

    python -m jdiff.main --config=configs/anime_faces.py --config.data.dir=PATH
"""

from ml_collections import ConfigDict

from configs import folder


def get_config() -> ConfigDict:
    config = folder.get_config()
    config.data.flip = True  # a mirrored face is a face
    config.model.conditions = ()
    return config

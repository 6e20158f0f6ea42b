"""Faces at 128x128, by class, in latents of configs/gender_faces_kl.py. Not run. Prepared latents train faster:

python -m jdiff.main --config=gender_faces_kl --config.data.dir=PATH
python -m jdiff.main --config=gender_faces_ldm --config.data.dir=PATH --mode=prepare --out=latents
python -m jdiff.main --config=gender_faces_ldm --config.data.dir=PATH --config.space.prepared=latents
"""

from ml_collections import ConfigDict

from configs import afhq_ldm


def get_config() -> ConfigDict:
    config = afhq_ldm.get_config()
    config.data.image_size = 128
    config.space.autoencoder = "runs/gender_faces_kl"
    return config

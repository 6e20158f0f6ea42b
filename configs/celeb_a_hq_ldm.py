"""Faces at 256x256 in latents of configs/celeb_a_hq_kl.py. Not run. Prepared latents train faster:

python -m jdiff.main --config=celeb_a_hq_kl --config.data.dir=PATH
python -m jdiff.main --config=celeb_a_hq_ldm --config.data.dir=PATH --mode=prepare --out=latents
python -m jdiff.main --config=celeb_a_hq_ldm --config.data.dir=PATH --config.space.prepared=latents
"""

from ml_collections import ConfigDict

from configs import afhq_ldm


def get_config() -> ConfigDict:
    config = afhq_ldm.get_config()
    config.model.conditions = ()
    config.space.autoencoder = "runs/celeb_a_hq_kl"
    config.sample.guidance_scale = None
    return config

"""Digits by class in the latents of configs/digits_vae.py.

Not scored; after 200 steps of 1,000 digits are as clear as the decoder.

python -m jdiff.main --config=digits_vae
python -m jdiff.main --config=digits_ldm --config.space.autoencoder=runs/digits_vae
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.model.space = "latents"
    config.model.sigma_data = 1.0  # latents are normalised
    config.space.autoencoder = "runs/digits_vae"
    config.network.channel_mults = (2,)
    config.network.attention_levels = ()
    return config

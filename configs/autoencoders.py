"""Autoencoders by name: config.autoencoder.update(autoencoders.KL_F4).

KL: latent diffusion's (Rombach et al., arXiv 2112.10752, table 8), of sides divided by 4 and 8: L1, a KL term of 1e-6
and a patch discriminator. Published ones add LPIPS, whose weights are downloaded: autoencoder.losses=('l1','lpips') and
autoencoder.lpips_weights=(NETWORK, HEADS). SMALL: what a CPU trains in minutes.
"""

from typing import Any

KL_F4: dict[str, Any] = {
    "bottleneck": "gaussian",
    "latent_channels": 3,
    "channels": 128,
    "channel_mults": (1, 2, 4),
    "blocks_per_level": 2,
    "beta": 1e-6,
    "losses": ("l1",),
    "equivariance": 0.5,
    "adversary": "hinge",
    "adversary_weight": 0.5,
    "adversary_start": 600_000,
}
KL_F8 = {**KL_F4, "latent_channels": 4, "channel_mults": (1, 2, 4, 4)}

SMALL: dict[str, Any] = {
    "channels": 16,
    "channel_mults": (1, 2, 4),
    "blocks_per_level": 1,
    "middle_attention": False,
    "losses": ("l1",),
}

"""Published networks by name: config.network.update(networks.DDPM).

tests/test_presets.py compares the number of their parameters with the papers'. Each sets every key of the group
`network` that its kind reads, except dropout, dtype and remat.
"""

from typing import Any

UNET: dict[str, Any] = {
    "name": "unet",
    "block": "residual",
    "norm": "group",
    "norm_groups": 0,
    "norm_eps": 1e-6,
    "skip_rescale": False,
    "attention": "self",
    "attention_heads": 1,
    "head_channels": 0,
    "transformer_depth": 1,
    "middle_attention": True,
    "resample_filter": "box",
    "project_resampled": True,
    "down_padding": (),
    "input_skip": False,
    "noise_embedding": "sinusoidal",
    "noise_channels": 0,
    "freq_shift": 0,
}
DIT: dict[str, Any] = {
    "name": "dit",
    "patch_size": 2,
    "grid_size": 0,
    "embedder": "shared",
    "freq_shift": 0,
    "norm_eps": 1e-6,
}

# Ho et al., arXiv 2006.11239: CIFAR-10, 35.7 M.
DDPM = {
    **UNET,
    "channels": 128,
    "channel_mults": (1, 2, 2, 2),
    "blocks_per_level": 2,
    "attention_levels": (1,),
    "up_attention": "every",
    "resample": "conv",
    "down_padding": (0, 1),
    "scale_shift": False,
    "freq_shift": 1,
}

# Song et al., arXiv 2011.13456, as EDM uses it (Karras et al., arXiv 2206.00364, table 7): CIFAR-10, 55.73 M.
DDPMPP = {
    **UNET,
    "channels": 128,
    "channel_mults": (2, 2, 2),
    "blocks_per_level": 4,
    "attention_levels": (1,),
    "up_attention": "last",
    "resample": "residual",
    "scale_shift": False,
    "skip_rescale": True,
    "freq_shift": 1,
}

# From the same papers, with the FIR filter, Fourier features and a residual encoder: CIFAR-10, 56.4 M.
NCSNPP = {
    **DDPMPP,
    "resample_filter": "fir",
    "noise_embedding": "fourier",
    "noise_channels": 256,
    "input_skip": True,
}

# Dhariwal & Nichol, arXiv 2105.05233, as EDM uses it: ImageNet at 64 x 64, by class, 295.9 M.
ADM_64 = {
    **UNET,
    "channels": 192,
    "channel_mults": (1, 2, 3, 4),
    "blocks_per_level": 3,
    "attention_levels": (1, 2, 3),
    "head_channels": 64,
    "up_attention": "every",
    "resample": "residual",
    "project_resampled": False,
    "scale_shift": True,
    "norm_eps": 1e-5,
}

# Peebles & Xie, arXiv 2212.09748, table 1: ImageNet latents of 32 x 32 x 4, by class, with a learned variance, patches
# of 2: 33.0 M, 130.5 M, 458.1 M, 675.1 M.
DIT_S = {**DIT, "width": 384, "depth": 12, "attention_heads": 6}
DIT_B = {**DIT, "width": 768, "depth": 12, "attention_heads": 12}
DIT_L = {**DIT, "width": 1024, "depth": 24, "attention_heads": 16}
DIT_XL = {**DIT, "width": 1152, "depth": 28, "attention_heads": 16}

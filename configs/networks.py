"""Published networks by name: config.network.update(networks.DDPM), with the number of parameters they have there.

A test counts them all (tests/test_presets.py). What a config says beside it (dropout, dtype, remat) stays.
"""

# Ho et al., arXiv 2006.11239: CIFAR-10, 35.7 M.
DDPM = {
    "name": "unet",
    "channels": 128,
    "channel_mults": (1, 2, 2, 2),
    "blocks_per_level": 2,
    "attention_levels": (1,),
    "up_attention": "every",
    "resample": "conv",
    "scale_shift": False,
}

# Song et al., arXiv 2011.13456, as EDM uses it (Karras et al., arXiv 2206.00364, table 7): CIFAR-10, 55.73 M.
DDPMPP = {
    "name": "unet",
    "channels": 128,
    "channel_mults": (2, 2, 2),
    "blocks_per_level": 4,
    "attention_levels": (1,),
    "up_attention": "last",
    "resample": "residual",
    "scale_shift": False,
    "skip_rescale": True,
}

# Likewise: the FIR filter, Fourier features and a residual encoder besides; CIFAR-10, 56.4 M.
NCSNPP = {
    **DDPMPP,
    "resample_filter": "fir",
    "noise_embedding": "fourier",
    "waves": 256,
    "input_skip": True,
}

# Dhariwal & Nichol, arXiv 2105.05233, as EDM uses it: ImageNet at 64 x 64, by class, 295.9 M.
ADM_64 = {
    "name": "unet",
    "channels": 192,
    "channel_mults": (1, 2, 3, 4),
    "blocks_per_level": 3,
    "attention_levels": (1, 2, 3),
    "head_channels": 64,
    "up_attention": "every",
    "resample": "residual",
    "project_resampled": False,
    "scale_shift": True,
}

# Peebles & Xie, arXiv 2212.09748, table 1: ImageNet latents of 32 x 32 x 4, by class, with a learned variance, patches
# of 2: 33.0 M, 130.5 M, 458.1 M, 675.1 M.
DIT_S = {"name": "dit", "width": 384, "depth": 12, "attention_heads": 6, "patch_size": 2}
DIT_B = {"name": "dit", "width": 768, "depth": 12, "attention_heads": 12, "patch_size": 2}
DIT_L = {"name": "dit", "width": 1024, "depth": 24, "attention_heads": 16, "patch_size": 2}
DIT_XL = {"name": "dit", "width": 1152, "depth": 28, "attention_heads": 16, "patch_size": 2}

"""Autoencoders: network and bottleneck of the group `autoencoder`, and back."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.common.ranges import Range
from jdiff.from_config.names import pick
from jdiff.from_config.networks import DTYPES
from jdiff.interop.features import load_lpips
from jdiff.interop.features.lpips import HEADS, TOWERS
from jdiff.networks.autoencoder import Autoencoder, Layout
from jdiff.networks.bottlenecks import FSQ, VQ, Bottleneck, Gaussian, Plain
from jdiff.networks.layers import Style
from jdiff.spaces import Pixels
from jdiff.spaces.first_stage import FirstStage
from jdiff.tasks.reconstruction import Distance, Perceptual, Term, gradient, l1, l2, ssim

LEAST_TILE = 4  # latents along a side

# autoencoder.bottleneck -> (the group `autoencoder`) -> what lies between encoder and decoder.
BOTTLENECKS: dict[str, Callable[[ConfigDict], Bottleneck]] = {
    "plain": lambda group: Plain(group.latent_channels),
    "gaussian": lambda group: Gaussian(group.latent_channels, group.beta),
    "vq": lambda group: VQ(
        group.codebook_size, group.latent_channels, group.commitment, float(group.codebook_halflife_images)
    ),
    "fsq": lambda group: FSQ(tuple(group.levels)),
}


def bottleneck(config: ConfigDict) -> Bottleneck:
    """The bottleneck of the group `autoencoder`."""
    return pick("autoencoder.bottleneck", config.autoencoder.bottleneck, BOTTLENECKS)(config.autoencoder)


def pixels(config: ConfigDict) -> Pixels:
    """The space of a resolved config's pictures."""
    return Pixels(tuple(config.data.shape), Range(config.data.dtype, *config.data.range))


def first_stage(config: ConfigDict, dtype: str) -> FirstStage:
    """The autoencoder of a resolved config. Raises UserError for images that it cannot halve, and for settings that do
    not fit together.
    """
    group, between, images, tile = config.autoencoder, bottleneck(config), pixels(config), config.space.tile
    height, width, channels = images.shape
    layout = Layout(
        channels=group.channels,
        channel_mults=tuple(group.channel_mults),
        blocks_per_level=group.blocks_per_level,
        attention_levels=tuple(group.attention_levels),
        middle_attention=group.middle_attention,
        style=Style(
            norm_groups=group.norm_groups,
            norm_eps=group.norm_eps,
            dropout=config.network.dropout if config.task == "autoencoder" else 0.0,
            dtype=pick("network.dtype", dtype, DTYPES),
        ),
    )
    stride = layout.stride
    if height % stride or width % stride:
        near = [max(stride, round(side / stride) * stride) for side in (height, width)]
        size = near[0] if near[0] == near[1] else f'"({near[0]}, {near[1]})"'
        raise UserError(
            f"images of {height}x{width} do not divide by {stride}, as an autoencoder of {len(layout.channel_mults)} "
            f"levels halves them: set data.image_size={size}"
        )
    if group.norm_groups and (uneven := [one for one in layout.widths if one % group.norm_groups]):
        raise UserError(f"autoencoder.norm_groups={group.norm_groups} does not divide {uneven[0]} channels")
    network = Autoencoder(
        features=between.features,
        latent_channels=between.channels,
        out_channels=channels,
        layout=layout,
        encoder_channels=group.encoder_channels or None,
        decoder_channels=group.decoder_channels or None,
    )
    if 0 < tile < LEAST_TILE * stride:
        raise UserError(f"space.tile={tile} is too small for tiles that overlap: take at least {LEAST_TILE * stride}")
    return FirstStage(network, between, images, tile)


def lpips(config: ConfigDict) -> Perceptual:
    """LPIPS with the weights that the config names. Raises UserError where it names none."""
    paths = config.autoencoder.lpips_weights
    if len(paths) != 2:
        hints = f"{TOWERS['vgg'].hint}; {HEADS['vgg'].hint}"
        raise UserError(
            f"autoencoder.lpips_weights={tuple(paths)}: LPIPS needs two files, of its network and of its heads. {hints}"
        )
    network, params, _ = load_lpips(*paths)
    return Perceptual(network, params)


# autoencoder.losses -> how images are compared.
DISTANCES: dict[str, Callable[[ConfigDict], Distance]] = {
    "l1": lambda config: l1,
    "l2": lambda config: l2,
    "ssim": lambda config: ssim,
    "gradient": lambda config: gradient,
    "lpips": lpips,
}


def distances(config: ConfigDict) -> tuple[Term, ...]:
    """How an autoencoder's images are compared in training."""
    names, weights = config.autoencoder.losses, config.autoencoder.loss_weights
    weights = weights or (1.0,) * len(names)
    if len(weights) != len(names) or not names:
        raise UserError(f"autoencoder.loss_weights={tuple(weights)}: one is needed for each of {tuple(names)}")
    if sum(weights) <= 0:
        raise UserError(f"autoencoder.loss_weights={tuple(weights)}: one at least must be above 0")
    made = [pick("autoencoder.losses", name, DISTANCES)(config) for name in names]
    return tuple(map(Term, names, made, map(float, weights)))


def settings_of_autoencoder(network: nn.Module, codebook_size: int) -> dict[str, Any]:
    """The keys of the group `autoencoder` that make this network. codebook_size: 0 for a Gaussian."""
    assert isinstance(network, Autoencoder)
    layout = network.layout
    return {
        "bottleneck": "vq" if codebook_size else "gaussian",
        "latent_channels": network.latent_channels,
        **({"codebook_size": codebook_size} if codebook_size else {}),
        **{name: getattr(layout, name) for name in ("channels", "channel_mults", "blocks_per_level")},
        **{name: getattr(layout, name) for name in ("attention_levels", "middle_attention")},
        **{name: getattr(layout.style, name) for name in ("norm_groups", "norm_eps")},
        "encoder_channels": network.encoder_channels or 0,
        "decoder_channels": network.decoder_channels or 0,
    }

"""diffusers' AutoencoderKL and VQModel <-> jdiff's Autoencoder, and the codebook of the latter."""

from collections.abc import Iterator

import jax.numpy as jnp

from jdiff.interop.settings import Settings
from jdiff.interop.shared import attention_levels, resnet, self_attention, widths
from jdiff.interop.table import Entry, layer, norm
from jdiff.networks.autoencoder import Autoencoder, Layout
from jdiff.networks.layers import Style

COMMON = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "mid_block_add_attention": True,
}
AUTOENCODER_KL = COMMON | {
    "latent_channels": 4,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "force_upcast": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
VQ_MODEL = COMMON | {
    "latent_channels": 3,
    "num_vq_embeddings": 256,
    "vq_embed_dim": None,
    "norm_type": "group",
    "lookup_from_codebook": False,
    "force_upcast": False,
}

# Block type -> has attention.
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}


def autoencoder_kl(settings: Settings) -> Autoencoder:
    """The network that an AutoencoderKL's settings describe."""
    # These scale latents in pipelines; the autoencoder does not read them.
    settings.ignore("shift_factor", "latents_mean", "latents_std")
    channels = settings.take("latent_channels")
    return Autoencoder(
        features=2 * channels,
        latent_channels=channels,
        out_channels=settings.take("out_channels"),
        layout=_layout(settings),
        encoder_channels=2 * channels if settings.take("use_quant_conv") else None,
        decoder_channels=channels if settings.take("use_post_quant_conv") else None,
    )


def vq_model(settings: Settings) -> Autoencoder:
    """The network that a VQModel's settings describe."""
    settings.allow("norm_type", "group")
    # Whether diffusers' decode without quantisation takes latents or indices; ours takes latents.
    settings.ignore("lookup_from_codebook")
    channels, code_dim = settings.take("latent_channels"), settings.take("vq_embed_dim")
    code_dim = channels if code_dim is None else code_dim
    return Autoencoder(
        features=code_dim,
        latent_channels=code_dim,
        out_channels=settings.take("out_channels"),
        layout=_layout(settings),
        encoder_channels=channels,
        decoder_channels=channels,
    )


def kl_entries(network: Autoencoder, settings: Settings) -> Iterator[Entry]:
    """AutoencoderKL's table of weights."""
    yield from _entries(network.layout)
    if network.encoder_channels is not None:
        yield from layer("quant_conv", "quant", "conv")
    if network.decoder_channels is not None:
        yield from layer("post_quant_conv", "post_quant", "conv")


def vq_entries(network: Autoencoder, settings: Settings) -> Iterator[Entry]:
    """VQModel's table of weights."""
    yield from kl_entries(network, settings)
    codes = (settings.take("num_vq_embeddings"), network.latent_channels)
    yield Entry("quantize.embedding.weight", "codebook/codes", shape=codes)


def inputs(network: Autoencoder, settings: Settings) -> tuple:
    """The smallest image that fits the network."""
    side = network.layout.stride
    return (jnp.zeros((1, side, side, settings.take("in_channels"))),)


def _layout(settings: Settings) -> Layout:
    """The settings that both classes share."""
    settings.allow("act_fn", "silu", "swish")
    # The pipeline's: its factor of latents, its precision and its tiles.
    settings.ignore("scaling_factor", "force_upcast", "sample_size")
    channels, channel_mults = widths(settings)
    return Layout(
        channels=channels,
        channel_mults=channel_mults,
        blocks_per_level=settings.take("layers_per_block"),
        attention_levels=attention_levels(settings, DOWN, UP),
        middle_attention=settings.take("mid_block_add_attention"),
        style=Style(norm_groups=settings.take("norm_num_groups"), norm_eps=1e-6),
    )


def _entries(layout: Layout) -> Iterator[Entry]:
    """The encoder's weights, then the decoder's."""
    yield from layer("encoder.conv_in", "encoder/first", "conv")
    width = layout.widths[0]  # of the level's input
    for level, features in enumerate(layout.widths):
        theirs, ours = f"encoder.down_blocks.{level}", f"encoder/down{level}"
        yield from _level(layout, theirs, ours, level, layout.blocks_per_level, skip=width != features)
        if level < len(layout.widths) - 1:
            yield from layer(f"{theirs}.downsamplers.0.conv", f"encoder/down{level + 1}/conv", "conv")
        width = features
    yield from _ends(layout, "encoder")

    yield from layer("decoder.conv_in", "decoder/first", "conv")
    for place, level in enumerate(reversed(range(len(layout.widths)))):
        features = layout.widths[level]
        theirs, ours = f"decoder.up_blocks.{place}", f"decoder/up{level}"
        yield from _level(layout, theirs, ours, level, layout.blocks_per_level + 1, skip=width != features)
        if level > 0:
            yield from layer(f"{theirs}.upsamplers.0.conv", f"{ours}/conv", "conv")
        width = features
    yield from _ends(layout, "decoder")


def _level(layout: Layout, theirs: str, ours: str, level: int, blocks: int, *, skip: bool) -> Iterator[Entry]:
    """skip: the first block has a convolution on its skip branch."""
    for index in range(blocks):
        block = f"{ours}_{index}"
        yield from resnet(f"{theirs}.resnets.{index}", block, skip=skip and index == 0, embedded=False)
        if level in layout.attention_levels:
            yield from self_attention(f"{theirs}.attentions.{index}", f"{block}_attention")


def _ends(layout: Layout, part: str) -> Iterator[Entry]:
    """The middle blocks and the last layers."""
    for index in range(2):
        yield from resnet(f"{part}.mid_block.resnets.{index}", f"{part}/middle_{index}", skip=False, embedded=False)
    if layout.middle_attention:
        yield from self_attention(f"{part}.mid_block.attentions.0", f"{part}/middle_attention")
    yield from norm(f"{part}.conv_norm_out", f"{part}/last_norm/norm")
    yield from layer(f"{part}.conv_out", f"{part}/last", "conv")

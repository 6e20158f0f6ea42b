"""diffusers' UNet2DModel and UNet2DConditionModel <-> jdiff's UNet."""

from collections.abc import Iterator
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jdiff.interop.settings import Settings
from jdiff.interop.shared import attention_levels, heads, resnet, self_attention, widths
from jdiff.interop.table import Conversion, Entry, layer, norm
from jdiff.networks.conditioning import Conditioner, LabelEmbedding, TextTokens
from jdiff.networks.layers import Style
from jdiff.networks.unet import UNet

COMMON = {
    "sample_size": None,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "dropout": 0.0,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
    "num_class_embeds": None,
    "attention_head_dim": 8,
}
UNET_2D = {
    **COMMON,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "downsample_type": "conv",
    "upsample_type": "conv",
    "attn_norm_num_groups": None,
    "add_attention": True,
    "num_train_timesteps": None,
}
# Settings of UNet2DConditionModel for layers that jdiff does not have, with the values that switch them off.
OFF = {
    "only_cross_attention": False,
    "reverse_transformer_layers_per_block": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "num_attention_heads": None,
    "dual_cross_attention": False,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": None,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
}
UNET_2D_CONDITION = {
    **COMMON,
    **OFF,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "use_linear_projection": False,
    "upcast_attention": False,
    "addition_embed_type_num_heads": 64,
}

# Block type -> has attention.
DOWN_2D = {"DownBlock2D": False, "AttnDownBlock2D": True, "ResnetDownsampleBlock2D": False}
UP_2D = {"UpBlock2D": False, "AttnUpBlock2D": True, "ResnetUpsampleBlock2D": False}
DOWN_CONDITION = {"DownBlock2D": False, "CrossAttnDownBlock2D": True, "ResnetDownsampleBlock2D": False}
UP_CONDITION = {"UpBlock2D": False, "CrossAttnUpBlock2D": True, "ResnetUpsampleBlock2D": False}


def unet_2d(settings: Settings) -> UNet:
    """The network that a UNet2DModel's settings describe. Its condition, where it has classes, is "label"."""
    settings.allow("mid_block_type", "UNetMidBlock2D")
    settings.ignore("num_train_timesteps")
    middle = settings.take("add_attention")
    groups, middle_groups = settings.take("norm_num_groups"), settings.take("attn_norm_num_groups")
    if middle_groups is None and not _scale_shift(settings):
        middle_groups = groups
    if middle and middle_groups != groups:  # None: no norm at all
        raise settings.unknown("attn_norm_num_groups", f"attention in the middle must have {groups} groups, as blocks")
    return UNet(
        attention="self",
        attention_levels=attention_levels(settings, DOWN_2D, UP_2D),
        head_channels=settings.take("attention_head_dim") or 0,
        middle_attention=middle,
        resample=_resample(settings, settings.take("downsample_type"), settings.take("upsample_type")),
        conditioner=_conditioner(settings),
        **_common(settings),
    )


def unet_2d_condition(settings: Settings) -> UNet:
    """The network that a UNet2DConditionModel's settings describe. Its conditions are "text", {"features": [B, t, d]},
    and, where it has classes, "label".
    """
    for name, value in OFF.items():
        settings.allow(name, value)
    settings.ignore("upcast_attention", "addition_embed_type_num_heads")
    settings.allow("mid_block_type", "UNetMidBlock2DCrossAttn")
    number, width = _heads(settings)
    return UNet(
        attention="transformer",
        attention_levels=attention_levels(settings, DOWN_CONDITION, UP_CONDITION),
        attention_heads=number,
        head_channels=width,
        transformer_depth=_by_level(settings, "transformer_layers_per_block"),
        resample=_resample(settings, "conv", "conv"),
        conditioner=_conditioner(settings, text=TextTokens(_same(settings, "cross_attention_dim"))),
        **_common(settings),
    )


def inputs(network: UNet, settings: Settings) -> tuple:
    """The smallest inputs that fit the network."""
    side = 2 ** (len(network.channel_mults) - 1)
    embedders = network.conditioner.embedders if network.conditioner else {}
    cond: dict[str, Any] = {}
    if "label" in embedders:
        cond["label"] = jnp.zeros(1, int)
    if "text" in embedders:
        cond["text"] = {"features": jnp.zeros((1, 1, embedders["text"].features))}
    return jnp.zeros((1, side, side, settings.take("in_channels"))), jnp.zeros(1), cond


def entries(network: UNet, settings: Settings) -> Iterator[Entry]:
    """The table of weights of either class."""
    embedders = network.conditioner.embedders if network.conditioner else {}
    yield from layer("conv_in", "first", "conv")
    # Their sinusoids are [sin, cos], ours are [cos, sin], unless this setting is on.
    sinusoids: Conversion = "dense" if settings.take("flip_sin_to_cos") else "sin_cos"
    yield from layer("time_embedding.linear_1", "noise/dense_0", sinusoids)
    yield from layer("time_embedding.linear_2", "noise/dense_1", "dense")
    if "label" in embedders:
        yield Entry("class_embedding.weight", "conditioner/embedders_label/table", "with_null")
    if "text" in embedders:  # theirs is the text encoder's embedding of ""
        yield Entry(None, "conditioner/embedders_text/null")

    # The layers before and after a transformer.
    linear: Conversion = "conv_1x1"
    if network.attention == "transformer" and settings.take("use_linear_projection"):
        linear = "dense"

    def attention(theirs: str, ours: str, level: int) -> Iterator[Entry]:
        if network.attention == "self":
            return self_attention(theirs, ours)
        depth = network.transformer_depth
        return _transformer(theirs, ours, depth if isinstance(depth, int) else depth[level], linear)

    def resampling(theirs: str, ours: str) -> Iterator[Entry]:
        if network.resample == "residual":
            return resnet(theirs, ours, skip=False)
        return layer(f"{theirs}.conv", f"{ours}/conv", "conv")

    mults = network.channel_mults
    last = len(mults) - 1
    for level, mult in enumerate(mults):
        theirs = f"down_blocks.{level}"
        for index in range(network.blocks_per_level):
            ours = f"down{level}_{index}"
            widens = index == 0 and mult != mults[max(level - 1, 0)]
            yield from resnet(f"{theirs}.resnets.{index}", ours, skip=widens)
            if level in network.attention_levels:
                yield from attention(f"{theirs}.attentions.{index}", f"{ours}_attention", level)
        if level < last:
            yield from resampling(f"{theirs}.downsamplers.0", f"down{level + 1}")

    yield from resnet("mid_block.resnets.0", "middle_0", skip=False)
    if network.middle_attention:
        yield from attention("mid_block.attentions.0", "middle_attention", last)
    yield from resnet("mid_block.resnets.1", "middle_1", skip=False)

    for place, level in enumerate(reversed(range(last + 1))):
        theirs = f"up_blocks.{place}"
        for index in range(network.blocks_per_level + 1):
            ours = f"up{level}_{index}"
            # h and the skip connection together are always wider than the block's output.
            yield from resnet(f"{theirs}.resnets.{index}", ours, skip=True)
            if level in network.attention_levels:
                yield from attention(f"{theirs}.attentions.{index}", f"{ours}_attention", level)
        if level > 0:
            yield from resampling(f"{theirs}.upsamplers.0", f"up{level}")

    yield from norm("conv_norm_out", "last_norm/norm")
    yield from layer("conv_out", "last", "conv")


def _transformer(theirs: str, ours: str, depth: int, linear: Conversion) -> Iterator[Entry]:
    yield from norm(f"{theirs}.norm", f"{ours}/norm/norm")
    yield from layer(f"{theirs}.proj_in", f"{ours}/in", linear)
    for index in range(depth):
        block = f"{theirs}.transformer_blocks.{index}"
        yield from norm(f"{block}.norm1", f"{ours}/self_norm_{index}")
        yield from heads(f"{block}.attn1", f"{ours}/self_{index}", bias=False)
        yield from norm(f"{block}.norm2", f"{ours}/cross_norm_{index}")
        yield from heads(f"{block}.attn2", f"{ours}/cross_{index}", bias=False)
        yield from norm(f"{block}.norm3", f"{ours}/wide_norm_{index}")
        yield from layer(f"{block}.ff.net.0.proj", f"{ours}/wide_{index}", "dense")
        yield from layer(f"{block}.ff.net.2", f"{ours}/narrow_{index}", "dense")
    yield from layer(f"{theirs}.proj_out", f"{ours}/out", linear)


def _common(settings: Settings) -> dict[str, Any]:
    """The UNet's fields from settings that both classes share."""
    settings.allow("center_input_sample", False)
    settings.allow("time_embedding_type", "positional")
    settings.allow("mid_block_scale_factor", 1)
    settings.allow("act_fn", "silu", "swish")
    settings.ignore("sample_size")
    channels, channel_mults = widths(settings)
    settings.allow("time_embedding_dim", None, 4 * channels)
    return {
        "out_channels": settings.take("out_channels"),
        "channels": channels,
        "channel_mults": channel_mults,
        "blocks_per_level": _same(settings, "layers_per_block"),
        "down_padding": {0: (0, 1), 1: None}[settings.allow("downsample_padding", 0, 1)],
        "freq_shift": settings.allow("freq_shift", 0, 1),
        "style": Style(
            norm_groups=settings.take("norm_num_groups"),
            norm_eps=settings.take("norm_eps"),
            scale_shift=_scale_shift(settings),
            dropout=settings.take("dropout"),
            project_resampled=False,
        ),
    }


def _scale_shift(settings: Settings) -> bool:
    return settings.allow("resnet_time_scale_shift", "default", "scale_shift") == "scale_shift"


def _conditioner(settings: Settings, **embedders: nn.Module) -> Conditioner | None:
    settings.allow("class_embed_type", None)
    if classes := settings.take("num_class_embeds"):
        embedders["label"] = LabelEmbedding(classes, 4 * widths(settings)[0])
    return Conditioner(embedders) if embedders else None


def _resample(settings: Settings, down: str, up: str) -> Literal["conv", "residual"]:
    """UNet.resample. down, up: the kind of blocks whose type does not name it ("AttnDownBlock2D")."""
    kinds = set()
    for name, default in (("down_block_types", down), ("up_block_types", up)):
        for block in settings.take(name)[:-1]:  # the last one does not resample
            attends, residual = block.startswith("Attn"), block.startswith("Resnet")
            kinds.add(default if attends else "resnet" if residual else "conv")
    if len(kinds) > 1 or kinds - {"conv", "resnet"}:
        raise settings.unknown(
            "down_block_types",
            "only blocks that halve and double in one way, all by conv or all by resnet, are, not "
            f"{sorted(map(str, kinds))}",
        )
    return "residual" if kinds == {"resnet"} else "conv"


def _heads(settings: Settings) -> tuple[int | tuple[int, ...], int]:
    """(attention_heads, head_channels), the latter where the heads of all levels have the same width."""
    number = _by_level(settings, "attention_head_dim")  # in this class, despite its name, the number of heads
    if isinstance(number, tuple):
        wide = {width / count for width, count in zip(settings.take("block_out_channels"), number, strict=True)}
        if len(wide) == 1:
            return 1, int(wide.pop())
    return number, 0


def _by_level(settings: Settings, name: str) -> int | tuple[int, ...]:
    """A number, or a tuple of one for each level where they differ."""
    value, levels = settings.take(name), len(settings.take("block_out_channels"))
    values = value if isinstance(value, tuple) else (value,) * levels
    if len(values) != levels or not all(isinstance(number, int) for number in values):
        raise settings.unknown(name, f"only a number, or one for each of {levels} levels, is")
    return values[0] if len(set(values)) == 1 else values


def _same(settings: Settings, name: str) -> int:
    """A number that is the same at every level."""
    value = _by_level(settings, name)
    if not isinstance(value, int):
        raise settings.unknown(name, "only the same number at every level is")
    return value

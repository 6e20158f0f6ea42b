"""Networks and their embedders of conditions."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.common.keys import root_key
from jdiff.common.pictures import to_float
from jdiff.config import one_of
from jdiff.from_config.data import example
from jdiff.from_config.names import pick
from jdiff.networks import conditioning
from jdiff.networks.attention import head_count
from jdiff.networks.classifier import Classifier
from jdiff.networks.conditioning import Conditioner
from jdiff.networks.embeddings import FOURIER_FREQUENCIES
from jdiff.networks.layers import Style
from jdiff.networks.transformer import DiT, check_patches
from jdiff.networks.unet import BLOCKS, UNet, check_sides

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
CONDITIONS = ("label", "text", "image", "scalars")


def denoising(config: ConfigDict) -> nn.Module:
    """The network F(x, c_noise, cond) of a diffusion model. Raises UserError for settings that do not fit together."""
    for name in config.model.conditions:
        one_of("model.conditions", name, CONDITIONS)
    network = pick("network.name", config.network.name, {"unet": unet, "dit": dit})(config)
    if config.network.norm_groups:  # must divide the widths of all layers, which a trace alone shows
        try:
            batch = example(config)
            jax.eval_shape(network.init, root_key(0), to_float(batch["x0"]), jnp.ones(1), batch["cond"])
        except ValueError as error:
            raise UserError(f"network.norm_groups={config.network.norm_groups}: {error}") from error
    return network


def unet(config: ConfigDict) -> UNet:
    """The UNet of the group `network`. Raises UserError for settings that do not fit together."""
    network, (height, width, _) = config.network, config.data.shape
    try:
        check_sides(height, width, levels=len(network.channel_mults))
        attending = {
            *network.attention_levels,
            *((len(network.channel_mults) - 1,) if network.middle_attention else ()),
        }
        for level in attending:
            head_count(network.channel_mults[level] * network.channels, network.attention_heads, network.head_channels)
    except ValueError as error:
        raise UserError(
            f"{error}: change data.image_size, network.channel_mults, network.attention_heads or network.head_channels"
        ) from error
    attention = one_of("network.attention", network.attention, ("self", "cross", "transformer"))
    if attention == "cross" and not _tokens(config):
        raise UserError(
            "network.attention='cross' looks at the tokens of a text or an encoded image, and model.conditions="
            f"{tuple(config.model.conditions)} gives none; use self or transformer"
        )
    if (only := _only_tokens(config)) and (attention == "self" or not attending):
        raise UserError(
            f"{only} gives tokens alone, which attention must look at: set network.attention to cross or transformer, "
            "and network.attention_levels"
        )
    channels = network.noise_channels or network.channels
    if network.noise_embedding == "fourier" and channels > 2 * len(FOURIER_FREQUENCIES):
        raise UserError(f"network.noise_channels={channels}; fourier has at most {2 * len(FOURIER_FREQUENCIES)}")
    widths = [mult * network.channels for mult in network.channel_mults]
    if network.norm_groups and (uneven := [width for width in widths if width % network.norm_groups]):
        raise UserError(f"network.norm_groups={network.norm_groups} does not divide {uneven[0]} channels")
    return UNet(
        out_channels=_outputs(config),
        channels=network.channels,
        channel_mults=network.channel_mults,
        blocks_per_level=network.blocks_per_level,
        block=one_of("network.block", network.block, list(BLOCKS)),  # type: ignore[arg-type]
        attention=attention,  # type: ignore[arg-type]
        attention_levels=network.attention_levels,
        attention_heads=network.attention_heads,
        head_channels=network.head_channels,
        transformer_depth=network.transformer_depth,
        middle_attention=network.middle_attention,
        up_attention=one_of("network.up_attention", network.up_attention, ("every", "last")),  # type: ignore[arg-type]
        resample=one_of("network.resample", network.resample, ("conv", "residual", "pool")),  # type: ignore[arg-type]
        down_padding=tuple(network.down_padding) or None,
        input_skip=network.input_skip,
        noise_embedding=one_of(  # type: ignore[arg-type]
            "network.noise_embedding", network.noise_embedding, ("sinusoidal", "fourier")
        ),
        noise_channels=network.noise_channels,
        freq_shift=network.freq_shift,
        style=_style(network),
        conditioner=conditioner(config, vector_features=4 * network.channels),
        remat=network.remat,
    )


def _style(network: ConfigDict) -> Style:
    return Style(
        norm=one_of("network.norm", network.norm, ("group", "layer", "rms", "instance")),  # type: ignore[arg-type]
        norm_groups=network.norm_groups,
        norm_eps=network.norm_eps,
        scale_shift=network.scale_shift,
        skip_scale=math.sqrt(0.5) if network.skip_rescale else 1.0,
        dropout=network.dropout,
        resample_filter=one_of(  # type: ignore[arg-type]
            "network.resample_filter", network.resample_filter, ("box", "fir")
        ),
        project_resampled=network.project_resampled,
        dtype=pick("network.dtype", network.dtype, DTYPES),
    )


def dit(config: ConfigDict) -> DiT:
    """The DiT of the group `network`. Raises UserError for settings that do not fit together."""
    network, (height, width, _) = config.network, config.data.shape
    try:
        check_patches(height, width, patch_size=network.patch_size)
        head_count(network.width, network.attention_heads, 0)
    except ValueError as error:
        raise UserError(f"{error}: change data.image_size, network.patch_size or network.attention_heads") from error
    if network.width % 4:
        raise UserError(f"network.width={network.width} must be a multiple of 4, as positions in rows and columns are")
    vectors_only = network.embedder == "per_block"
    if vectors_only and ("text" in config.model.conditions or "image" in config.model.conditions):
        raise UserError("network.embedder='per_block' takes labels and scalars alone; set network.embedder='shared'")
    return DiT(
        out_channels=_outputs(config),
        features=network.width,
        depth=network.depth,
        heads=network.attention_heads,
        patch_size=network.patch_size,
        dropout=network.dropout,
        grid_size=network.grid_size,
        embedder=one_of("network.embedder", network.embedder, ("shared", "per_block")),  # type: ignore[arg-type]
        freq_shift=network.freq_shift,
        mlp_norm_eps=network.norm_eps,
        conditioner=conditioner(config, vector_features=network.width),
        dtype=pick("network.dtype", network.dtype, DTYPES),
        remat=network.remat,
    )


def settings_of(network: nn.Module) -> dict[str, Any]:
    """The keys of the group `network` that give this UNet or DiT, except dropout, dtype and remat (the user's).

    Raises UserError where no keys give it.
    """
    if isinstance(network, UNet):
        style = network.style
        if not all(isinstance(value, int) for value in (network.attention_heads, network.transformer_depth)):
            raise UserError("this network has other attention heads or depths at each level, which no key says")
        fields = (
            *("channels", "channel_mults", "blocks_per_level", "block", "attention", "attention_levels"),
            *("attention_heads", "head_channels", "transformer_depth", "middle_attention", "up_attention", "resample"),
            *("input_skip", "noise_embedding", "noise_channels", "freq_shift"),
        )
        of_style = ("norm", "norm_groups", "norm_eps", "scale_shift", "resample_filter", "project_resampled")
        return {
            "name": "unet",
            **{name: getattr(network, name) for name in fields},
            **{name: getattr(style, name) for name in of_style},
            "skip_rescale": style.skip_scale != 1.0,
            "down_padding": network.down_padding or (),
        }
    if isinstance(network, DiT):
        if not network.qkv_bias or network.mlp_ratio != 4:
            raise UserError("this transformer has no biases in attention, or another width inside, which no key says")
        return {
            "name": "dit",
            "width": network.features,
            "attention_heads": network.heads,
            "norm_eps": network.mlp_norm_eps,
            **{name: getattr(network, name) for name in ("depth", "patch_size", "grid_size", "embedder", "freq_shift")},
        }
    raise UserError(f"a {type(network).__name__} is no network that a diffusion model is trained with")


def conditioner(config: ConfigDict, *, vector_features: int) -> Conditioner | None:
    """The embedders of model.conditions and of augmentation. Raises UserError where their widths do not fit."""
    condition, dtype = config.condition, pick("network.dtype", config.network.dtype, DTYPES)

    def text() -> nn.Module:
        wanted = condition.text
        if wanted.encoder == "frozen" and not wanted.projected:
            return conditioning.TextTokens(config.data.text_width)
        if wanted.encoder == "frozen":
            return conditioning.TextFeatures(wanted.width, vector_features, dtype)
        return conditioning.TextTransformer(
            wanted.vocabulary, wanted.width, vector_features, wanted.depth, wanted.heads, dtype
        )

    def image() -> nn.Module:
        forms: dict[str, Callable[[], nn.Module]] = {
            "concat": conditioning.ImageChannels,
            "cross_attention": lambda: conditioning.ImageTokens(
                condition.image.width, condition.image.downsamples, dtype
            ),
        }
        return pick("condition.image.into", condition.image.into, forms)()

    embedders: dict[str, Callable[[], nn.Module]] = {
        "label": lambda: conditioning.LabelEmbedding(len(config.data.class_names), vector_features),
        "text": text,
        "image": image,
        "scalars": lambda: conditioning.ScalarEmbedding(vector_features, dtype=dtype),
    }
    widths = {"text": _text_tokens(config), "image": _image_tokens(config)}
    if widths["image"] % 4:
        raise UserError(f"condition.image.width={widths['image']} must be a multiple of 4, as positions are")
    if all(widths.values()) and len(set(widths.values())) > 1:
        raise UserError(
            f"tokens of texts ({widths['text']}) and of images ({widths['image']}) are concatenated: give "
            "condition.text.width and condition.image.width the same value"
        )
    made: dict[str, Any] = {name: embedders[name]() for name in config.model.conditions}
    if config.data.augment:
        made["augment"] = conditioning.AugmentEmbedding(vector_features, dtype)
    return Conditioner(made) if made else None


def _text_tokens(config: ConfigDict) -> int:
    """The width of the text's tokens; 0 without tokens."""
    text = config.condition.text
    if "text" not in config.model.conditions:
        return 0
    return config.data.text_width if text.encoder == "frozen" and not text.projected else text.width


def _image_tokens(config: ConfigDict) -> int:
    """The width of the condition image's tokens; 0 without tokens."""
    image = config.condition.image
    return image.width if "image" in config.model.conditions and image.into == "cross_attention" else 0


def _tokens(config: ConfigDict) -> bool:
    return bool(_text_tokens(config) or _image_tokens(config))


def _only_tokens(config: ConfigDict) -> str:
    """The setting that makes a condition tokens without a vector; "" where none does."""
    text = config.condition.text
    if _image_tokens(config):
        return "condition.image.into='cross_attention'"
    if _text_tokens(config) and text.encoder == "frozen" and not text.projected:
        return "condition.text.projected=False"
    return ""


def _outputs(config: ConfigDict) -> int:
    return config.data.shape[-1] * (2 if config.model.learned_variance else 1)


def convnet(config: ConfigDict) -> Classifier:
    """The classifier of the group `network`. Raises UserError for images smaller than its stride."""
    least = 2 ** (len(config.network.channel_mults) - 1)
    if min(config.data.shape[:2]) < least:
        raise UserError(f"network.channel_mults={config.network.channel_mults} needs sides of at least {least}")
    return Classifier(
        num_classes=len(config.data.class_names),
        channels=config.network.channels,
        channel_mults=config.network.channel_mults,
        dropout=config.network.dropout,
        dtype=pick("network.dtype", config.network.dtype, DTYPES),
    )

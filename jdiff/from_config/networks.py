"""Networks and their embedders of conditions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.common.keys import root_key
from jdiff.conditions import Condition
from jdiff.config import adapts, one_of
from jdiff.diffusion.denoiser import JUMP
from jdiff.diffusion.guidance import GUIDANCE_SCALE
from jdiff.from_config.names import pick
from jdiff.networks.adapter import Adapter
from jdiff.networks.attention import head_count
from jdiff.networks.classifier import Classifier
from jdiff.networks.conditioning import AugmentEmbedding, Conditioner, GuidanceEmbedding, JumpEmbedding
from jdiff.networks.embeddings import FOURIER_FREQUENCIES
from jdiff.networks.layers import Style
from jdiff.networks.transformer import DiT, check_patches
from jdiff.networks.unet import BLOCKS, UNet, check_sides

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

Shape = tuple[int, int, int]  # (h, w, c) of x


def denoising(config: ConfigDict, shape: Shape, conditions: Sequence[Condition]) -> nn.Module:
    """The network F(x, c_noise, cond) of a diffusion model. Raises UserError for settings that do not fit together."""
    if adapts(config) and config.network.name != "unet":
        raise UserError(
            f"condition.image.into='adapter' stands beside a UNet, and network.name={config.network.name!r}; a "
            "transformer takes images by 'concat' or 'cross_attention'"
        )
    network = pick("network.name", config.network.name, NETWORKS)(config, shape, conditions)
    if config.network.norm_groups:  # must divide the widths of all layers, which a trace alone shows
        x, cond = jnp.zeros((1, *shape)), {each.name: each.encode(_one(each, config)) for each in conditions}
        try:
            jax.eval_shape(network.init, root_key(0), x, jnp.ones(1), cond)
        except ValueError as error:
            raise UserError(f"network.norm_groups={config.network.norm_groups}: {error}") from error
    return network


def _one(condition: Condition, config: ConfigDict) -> Any:
    return jax.tree.map(jnp.asarray, condition.example(1, tuple(config.data.shape[:2])))


def multiple(config: ConfigDict) -> int:
    """What the sides of images must be multiples of."""
    network = config.network
    if config.task == "autoencoder":
        return 2 ** (len(config.autoencoder.channel_mults) - 1)
    of_x = network.patch_size if network.name == "dit" else 2 ** (len(network.channel_mults) - 1)
    return of_x * pixels_a_side(config)


def pixels_a_side(config: ConfigDict) -> int:
    """How many of a picture's pixels, along a side, one of x stands for."""
    return 2 ** (len(config.autoencoder.channel_mults) - 1) if config.model.space == "latents" else 1


def unet(config: ConfigDict, shape: Shape, conditions: Sequence[Condition]) -> UNet:
    """The UNet of the group `network`. Raises UserError for settings that do not fit together."""
    network, (height, width, channels) = config.network, shape
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
    if attention == "cross" and not any(condition.token_width for condition in conditions):
        raise UserError(
            "network.attention='cross' looks at the tokens of a text or an encoded image, and model.conditions="
            f"{tuple(config.model.conditions)} gives none; use self or transformer"
        )
    only = next((condition.only_tokens for condition in conditions if condition.only_tokens), "")
    if only and (attention == "self" or not attending):
        raise UserError(
            f"{only} gives tokens alone, which attention must look at: set network.attention to cross or transformer, "
            "and network.attention_levels"
        )
    features = network.noise_channels or network.channels
    if network.noise_embedding == "fourier" and features > 2 * len(FOURIER_FREQUENCIES):
        raise UserError(f"network.noise_channels={features}; fourier has at most {2 * len(FOURIER_FREQUENCIES)}")
    widths = [mult * network.channels for mult in network.channel_mults]
    if network.norm_groups and (uneven := [width for width in widths if width % network.norm_groups]):
        raise UserError(f"network.norm_groups={network.norm_groups} does not divide {uneven[0]} channels")
    plain = UNet(
        out_channels=channels * (2 if config.model.learned_variance else 1),
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
        conditioner=conditioner(config, conditions, vector_features=4 * network.channels),
        remat=network.remat,
    )
    if not adapts(config):
        return plain
    own = conditioner(config, conditions, vector_features=4 * network.channels)  # one module has one place
    encoder = plain.clone(joints=True, conditioner=own)
    return plain.clone(adapter=Adapter(encoder, network.channels, plain.style.dtype))


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


def dit(config: ConfigDict, shape: Shape, conditions: Sequence[Condition]) -> DiT:
    """The DiT of the group `network`. Raises UserError for settings that do not fit together."""
    network, (height, width, channels) = config.network, shape
    try:
        check_patches(height, width, patch_size=network.patch_size)
        head_count(network.width, network.attention_heads, 0)
    except ValueError as error:
        raise UserError(f"{error}: change data.image_size, network.patch_size or network.attention_heads") from error
    if network.width % 4:
        raise UserError(f"network.width={network.width} must be a multiple of 4, as positions in rows and columns are")
    vectors_only = network.embedder == "per_block"
    if vectors_only and any(condition.token_width or condition.pictures for condition in conditions):
        raise UserError("network.embedder='per_block' takes labels and scalars alone; set network.embedder='shared'")
    return DiT(
        out_channels=channels * (2 if config.model.learned_variance else 1),
        features=network.width,
        depth=network.depth,
        heads=network.attention_heads,
        patch_size=network.patch_size,
        dropout=network.dropout,
        grid_size=network.grid_size,
        embedder=one_of("network.embedder", network.embedder, ("shared", "per_block")),  # type: ignore[arg-type]
        freq_shift=network.freq_shift,
        mlp_norm_eps=network.norm_eps,
        conditioner=conditioner(config, conditions, vector_features=network.width),
        dtype=pick("network.dtype", network.dtype, DTYPES),
        remat=network.remat,
    )


def settings_of(network: nn.Module) -> dict[str, Any]:
    """The keys of the group `network` that make this network, where it is a UNet or a DiT that keys can make.

    Dropout, dtype and remat are left out: they are the user's. Raises UserError where keys cannot say what it is.
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


def conditioner(config: ConfigDict, conditions: Sequence[Condition], *, vector_features: int) -> Conditioner | None:
    """The embedders of the conditions, of augmentation, and of what a flow map is told. Raises UserError where their
    widths do not fit.
    """
    dtype = pick("network.dtype", config.network.dtype, DTYPES)
    widths = {each.name: each.token_width for each in conditions if each.token_width}
    if len(set(widths.values())) > 1:
        told = " and of ".join(f"{name}s ({width})" for name, width in widths.items())
        keys = " and ".join(f"condition.{name}.width" for name in widths)
        raise UserError(f"tokens of {told} are concatenated: give {keys} the same value")
    embedders = {each.name: each.embedder(vector_features, dtype) for each in conditions}
    made: dict[str, Any] = {name: embedder for name, embedder in embedders.items() if embedder is not None}
    if config.data.augment:
        made["augment"] = AugmentEmbedding(vector_features, dtype)
    if config.task == "flow_map":
        made[JUMP] = JumpEmbedding(vector_features, dtype=dtype)
        if config.flow_map.scales:
            made[GUIDANCE_SCALE] = GuidanceEmbedding(vector_features, dtype=dtype)
    return Conditioner(made) if made else None


def convnet(config: ConfigDict, shape: Shape) -> Classifier:
    """The classifier of the group `network`. Raises UserError for images smaller than its stride."""
    least = 2 ** (len(config.network.channel_mults) - 1)
    if min(shape[:2]) < least:
        raise UserError(f"network.channel_mults={config.network.channel_mults} needs sides of at least {least}")
    return Classifier(
        num_classes=len(config.data.class_names),
        channels=config.network.channels,
        channel_mults=config.network.channel_mults,
        dropout=config.network.dropout,
        dtype=pick("network.dtype", config.network.dtype, DTYPES),
    )


# network.name -> (config, x's shape, conditions) -> a network that denoises.
NETWORKS: dict[str, Callable[[ConfigDict, Shape, Sequence[Condition]], nn.Module]] = {"unet": unet, "dit": dit}

"""diffusers' DiTTransformer2DModel <-> jdiff's DiT.

Unlike the paper's, diffusers' model embeds timestep and label in every block, and its sinusoids have freq_shift 1.
"""

from collections.abc import Iterator

import jax.numpy as jnp

from jdiff.interop.settings import Settings
from jdiff.interop.shared import heads
from jdiff.interop.table import Entry, layer
from jdiff.networks.conditioning import Conditioner, LabelEmbedding
from jdiff.networks.transformer import DiT

DEFAULTS = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "attention_bias": True,
    "sample_size": 32,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "upcast_attention": False,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-5,
}
# Published weights (facebook/DiT-XL-2-256) name an older, more general class, with these settings besides. DiT has
# them off.
TRANSFORMER_OFF = {
    "cross_attention_dim": None,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "double_self_attention": False,
    "num_vector_embeds": None,
    "attention_type": "default",
    "caption_channels": None,
    "interpolation_scale": None,
    "use_additional_conditions": None,
}
TRANSFORMER = {
    **DEFAULTS,
    **TRANSFORMER_OFF,
    "attention_head_dim": 88,
    "in_channels": None,
    "num_layers": 1,
    "attention_bias": False,
    "sample_size": None,
    "patch_size": None,
    "activation_fn": "geglu",
    "num_embeds_ada_norm": None,
    "norm_type": "layer_norm",
    "norm_elementwise_affine": True,
}


def transformer(settings: Settings) -> DiT:
    """The network that the settings of a Transformer2DModel over patches describe."""
    for name, value in TRANSFORMER_OFF.items():
        settings.allow(name, value)
    for name in ("patch_size", "sample_size", "in_channels"):
        if settings.take(name) is None:
            raise settings.unknown(name, "only transformers over patches, DiT, are")
    return dit(settings)


def dit(settings: Settings) -> DiT:
    """The network that a DiTTransformer2DModel's settings describe. Its condition is "label"; label num_embeds_ada_norm
    is the null.
    """
    settings.allow("norm_type", "ada_norm_zero")
    settings.allow("activation_fn", "gelu-approximate")
    settings.allow("norm_elementwise_affine", False)
    settings.ignore("norm_num_groups", "upcast_attention")  # it has no group norms; attention is in our dtype
    in_channels, out_channels = settings.take("in_channels"), settings.take("out_channels")
    number, patch = settings.take("num_attention_heads"), settings.take("patch_size")
    features = number * settings.take("attention_head_dim")
    classes = settings.take("num_embeds_ada_norm")
    if not classes:
        raise settings.unknown("num_embeds_ada_norm", "only a number of classes is")
    return DiT(
        out_channels=in_channels if out_channels is None else out_channels,
        features=features,
        depth=settings.take("num_layers"),
        heads=number,
        patch_size=patch,
        dropout=settings.take("dropout"),
        grid_size=settings.take("sample_size") // patch,
        embedder="per_block",
        freq_shift=1,
        qkv_bias=settings.take("attention_bias"),
        mlp_norm_eps=settings.take("norm_eps"),
        conditioner=Conditioner({"label": LabelEmbedding(classes, features)}),
    )


def inputs(network: DiT, settings: Settings) -> tuple:
    """The smallest inputs that fit the network: one patch."""
    side = network.patch_size
    return jnp.zeros((1, side, side, settings.take("in_channels"))), jnp.zeros(1), {"label": jnp.zeros(1, int)}


def entries(network: DiT, settings: Settings) -> Iterator[Entry]:
    """DiTTransformer2DModel's table of weights."""
    yield from layer("pos_embed.proj", "patches", "conv")
    for index in range(network.depth):
        theirs, ours = f"transformer_blocks.{index}", f"block_{index}"
        embedder = f"{theirs}.norm1.emb"
        yield from layer(f"{embedder}.timestep_embedder.linear_1", f"noise_{index}/dense_0", "dense")
        yield from layer(f"{embedder}.timestep_embedder.linear_2", f"noise_{index}/dense_1", "dense")
        yield Entry(f"{embedder}.class_embedder.embedding_table.weight", f"conditioner_{index}/embedders_label/table")
        yield from layer(f"{theirs}.norm1.linear", f"{ours}/modulation", "dense")
        yield from heads(f"{theirs}.attn1", f"{ours}/attention", bias=network.qkv_bias)
        yield from layer(f"{theirs}.ff.net.0.proj", f"{ours}/wide", "dense")
        yield from layer(f"{theirs}.ff.net.2", f"{ours}/narrow", "dense")
    yield from layer("proj_out_1", "last_modulation", "dense")
    yield from layer("proj_out_2", "last", "dense")

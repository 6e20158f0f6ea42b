"""CLIP's vision tower from transformers' files: of CLIPVisionModelWithProjection, or of the whole CLIPModel."""

from collections.abc import Iterator

from jdiff.interop.features.files import Source
from jdiff.interop.features.rows import Row, layer, norm
from jdiff.networks.features.clip_vision import CLIPVision

# The text tower; and a buffer of older files.
IGNORED = ("text_model.", "text_projection.", "logit_scale", "vision_model.embeddings.position_ids")


def source(name: str) -> Source:
    return Source(f"the network {name}", "model.safetensors", f"https://huggingface.co/openai/{name}")


def rows(network: CLIPVision) -> Iterator[Row]:
    """CLIPVisionModelWithProjection's table of weights."""
    yield Row("vision_model.embeddings.class_embedding", "class_token")
    yield Row("vision_model.embeddings.position_embedding.weight", "positions")
    yield Row("vision_model.embeddings.patch_embedding.weight", "patches/kernel", "conv")
    yield from norm("vision_model.pre_layrnorm", "norm_before")
    for index in range(network.depth):
        theirs, ours = f"vision_model.encoder.layers.{index}", f"block_{index}"
        yield from norm(f"{theirs}.layer_norm1", f"{ours}/norm_0")
        for part in "qkv":
            yield from layer(f"{theirs}.self_attn.{part}_proj", f"{ours}/attention/{part}", "dense")
        yield from layer(f"{theirs}.self_attn.out_proj", f"{ours}/attention/out", "dense")
        yield from norm(f"{theirs}.layer_norm2", f"{ours}/norm_1")
        yield from layer(f"{theirs}.mlp.fc1", f"{ours}/wide", "dense")
        yield from layer(f"{theirs}.mlp.fc2", f"{ours}/narrow", "dense")
    yield from norm("vision_model.post_layernorm", "norm")
    yield Row("visual_projection.weight", "projection/kernel", "dense")

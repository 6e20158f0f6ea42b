"""DINOv2 from its authors' files or transformers' (Dinov2Model, Dinov2WithRegistersModel)."""

from collections.abc import Iterator

from jdiff.interop.features.files import Source
from jdiff.interop.features.rows import Row, layer, norm
from jdiff.interop.tensors import Tensors
from jdiff.networks.features.dinov2 import DINOv2

IGNORED = ("mask_token", "embeddings.mask_token")  # of training


def source(name: str) -> Source:
    base = name.removesuffix("_reg")
    file = f"{base}{'_reg4' if base != name else ''}_pretrain.pth"
    return Source(f"the network {name}", file, f"https://dl.fbaipublicfiles.com/dinov2/{base}/{file}")


def rows(network: DINOv2, tensors: Tensors) -> Iterator[Row]:
    """The rows of whichever of the two kinds these tensors are."""
    of_transformers = any(name.startswith("embeddings.") for name in tensors)
    return _transformers(network) if of_transformers else _authors(network)


def _authors(network: DINOv2) -> Iterator[Row]:
    yield Row("cls_token", "class_token")
    yield Row("pos_embed", "positions")
    if network.registers:
        yield Row("register_tokens", "registers")
    yield from layer("patch_embed.proj", "patches", "conv")
    for index in range(network.depth):
        theirs, ours = f"blocks.{index}", f"block_{index}"
        yield from norm(f"{theirs}.norm1", f"{ours}/norm_0")
        for third, part in enumerate("qkv"):
            yield from layer(f"{theirs}.attn.qkv", f"{ours}/attention/{part}", "dense", third=third)
        yield from layer(f"{theirs}.attn.proj", f"{ours}/attention/out", "dense")
        yield Row(f"{theirs}.ls1.gamma", f"{ours}/scale_0")
        yield from norm(f"{theirs}.norm2", f"{ours}/norm_1")
        yield from layer(f"{theirs}.mlp.fc1", f"{ours}/wide", "dense")
        yield from layer(f"{theirs}.mlp.fc2", f"{ours}/narrow", "dense")
        yield Row(f"{theirs}.ls2.gamma", f"{ours}/scale_1")
    yield from norm("norm", "norm")


def _transformers(network: DINOv2) -> Iterator[Row]:
    yield Row("embeddings.cls_token", "class_token")
    yield Row("embeddings.position_embeddings", "positions")
    if network.registers:
        yield Row("embeddings.register_tokens", "registers")
    yield from layer("embeddings.patch_embeddings.projection", "patches", "conv")
    for index in range(network.depth):
        theirs, ours = f"encoder.layer.{index}", f"block_{index}"
        yield from norm(f"{theirs}.norm1", f"{ours}/norm_0")
        for part in ("query", "key", "value"):
            yield from layer(f"{theirs}.attention.attention.{part}", f"{ours}/attention/{part[0]}", "dense")
        yield from layer(f"{theirs}.attention.output.dense", f"{ours}/attention/out", "dense")
        yield Row(f"{theirs}.layer_scale1.lambda1", f"{ours}/scale_0")
        yield from norm(f"{theirs}.norm2", f"{ours}/norm_1")
        yield from layer(f"{theirs}.mlp.fc1", f"{ours}/wide", "dense")
        yield from layer(f"{theirs}.mlp.fc2", f"{ours}/narrow", "dense")
        yield Row(f"{theirs}.layer_scale2.lambda1", f"{ours}/scale_1")
    yield from norm("layernorm", "norm")

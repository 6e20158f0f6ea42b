"""Pretrained feature networks from local files, in any of the usual formats. Nothing is downloaded.

extractor = load_inception("pt_inception-2015-12-05-6726825d.pth")
pool = jax.jit(lambda params, images: extractor.apply(params, extractor.input(images))["pool"])
features = pool(extractor.params, images)            # uint8 [B, H, W, C] -> float32 [B, 2048]
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jdiff.common.errors import UserError
from jdiff.common.keys import root_key
from jdiff.common.names import nearest
from jdiff.interop import table
from jdiff.interop.features import clip_vision as clip_rows
from jdiff.interop.features import dinov2 as dinov2_rows
from jdiff.interop.features import files, rows
from jdiff.interop.features import inception as inception_rows
from jdiff.interop.features import lpips as lpips_rows
from jdiff.networks.features import clip_vision as clip_networks
from jdiff.networks.features import dinov2 as dinov2_networks
from jdiff.networks.features import inception as inception_networks
from jdiff.networks.features.lpips import LPIPS
from jdiff.networks.features.space import Extractor, FeatureSpace, Input


def load_inception(path: str | Path, input: Input = inception_networks.TF1) -> Extractor:
    """FID's Inception-v3; layers as in `InceptionFeatures`. The weights are pytorch-fid's or torch-fidelity's file, or
    NVIDIA's TorchScript (inception-2015-12-05.pt), told apart by their tensors.

    Raises UserError where the file is missing, damaged, or holds other tensors; so do all of these functions.
    """
    network = inception_networks.Inception()
    tensors = files.read(path, inception_rows.SOURCE)
    shapes = _shapes(network, inception_networks.SIDE)
    unfit = f"{path} does not hold FID's Inception of 2015-12-05"
    wanted = inception_rows.rows(tensors, shapes)
    params = rows.to_params(tensors, wanted, shapes, unfit, inception_rows.IGNORED)
    spaces = _spaces(inception_networks.NAME, inception_networks.DIMENSIONS, input, params)
    return Extractor(spaces=spaces, input=input, params=params, apply=lambda p, x: _apply(network, p, x)._asdict())


def load_dinov2(name: str, path: str | Path, input: Input = dinov2_networks.DGM_EVAL) -> Extractor:
    """DINOv2's class token ("class_token"), from the authors' file or transformers'. name: dinov2_vits14,
    dinov2_vitb14 or dinov2_vitl14, or one of these with _reg.
    """
    network = _known(name, dinov2_networks.NETWORKS)
    tensors = files.read(path, dinov2_rows.source(name))
    shapes = _shapes(network, network.patch_size * network.grid)
    wanted = dinov2_rows.rows(network, tensors)
    params = rows.to_params(tensors, wanted, shapes, f"{path} does not hold {name}", dinov2_rows.IGNORED)
    return _one_layer(name, "class_token", network.features, network, params, input)


def load_clip_vision(name: str, path: str | Path, input: Input | None = None) -> Extractor:
    """CLIP's image embeddings ("projection"), not normalised, from transformers' file. name: clip-vit-base-patch32,
    clip-vit-large-patch14 or clip-vit-large-patch14-336. input: CMMD's where None.
    """
    network = _known(name, clip_networks.NETWORKS)
    tensors = files.read(path, clip_rows.source(name))
    shapes = _shapes(network, network.side)
    unfit = f"{path} does not hold {name}"
    params = rows.to_params(tensors, clip_rows.rows(network), shapes, unfit, clip_rows.IGNORED)
    return _one_layer(name, "projection", network.projection, network, params, input or clip_networks.cmmd(network))


def load_lpips(tower_path: str | Path, heads_path: str | Path) -> tuple[LPIPS, PyTree, str]:
    """(network, its parameters, their sha256), the towers being told apart by their tensors. The network is a distance,
    so it has no `Extractor`.
    """
    of_tower = files.read(tower_path, lpips_rows.source(tower_path, lpips_rows.TOWERS))
    of_heads = files.read(heads_path, lpips_rows.source(heads_path, lpips_rows.HEADS))
    tower = lpips_rows.tower_of(of_tower, tower_path)
    network, tower_source, heads_source = LPIPS(tower), lpips_rows.TOWERS[tower], lpips_rows.HEADS[tower]
    shapes = _shapes(network, 64, inputs=2)
    params: dict[str, Any] = {}
    for path, source, tensors, wanted in (
        (tower_path, tower_source, of_tower, [*lpips_rows.tower_rows(tower)]),
        (heads_path, heads_source, of_heads, [*lpips_rows.head_rows()]),
    ):
        part = {row.ours: shapes[row.ours] for row in wanted}
        unfit = f"{path} does not hold {source.what}"
        params |= rows.to_params(tensors, wanted, part, unfit, lpips_rows.IGNORED)
    return network, params, rows.sha256(params)


def _known(name: str, networks: dict) -> Any:
    if name not in networks:
        raise UserError(f"no feature network is called {name!r}; {', '.join(networks)} are{nearest(name, [*networks])}")
    return networks[name]


def _shapes(network: nn.Module, side: int, inputs: int = 1) -> rows.Shapes:
    images = [jnp.zeros((1, side, side, 3))] * inputs
    return table.shapes_of(jax.eval_shape(network.init, root_key(0), *images)["params"])


def _apply(network: nn.Module, params: PyTree, x: jax.Array) -> Any:
    return network.apply({"params": params}, x)


def _spaces(name: str, dimensions: dict[str, int], input: Input, params: PyTree) -> dict[str, FeatureSpace]:
    weights = rows.sha256(params)
    return {
        layer: FeatureSpace(name=f"{name}/{layer}", dimension=dimension, input=input, weights=weights)
        for layer, dimension in dimensions.items()
    }


def _one_layer(name: str, layer: str, dimension: int, network: nn.Module, params: PyTree, input: Input) -> Extractor:
    spaces = _spaces(name, {layer: dimension}, input, params)
    return Extractor(spaces=spaces, input=input, params=params, apply=lambda p, x: {layer: _apply(network, p, x)})

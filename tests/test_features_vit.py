"""DINOv2 and CLIP's vision towers against timm's and transformers', of the same random weights: the published patches
and sides, few and narrow layers; and whole, marked slow.

The largest difference measured (timm 1.0.31, transformers 5.24.0, torch 2.14.1, CPU, float32): 7e-6.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from jdiff.interop import features
from jdiff.interop.features import clip_vision as clip_table
from jdiff.interop.features import dinov2 as dinov2_table
from jdiff.interop.features.rows import Row
from jdiff.networks.features import clip_vision, dinov2
from jdiff.networks.features.clip_vision import CLIPVision
from jdiff.networks.features.dinov2 import DINOv2
from jdiff.networks.features.resize import resize_tf1
from tests.features_parity import SIDES, difference, peer, random_images, random_tensors, real_images, torch_images

RELATIVE = 1e-4
SMALL = DINOv2(features=32, depth=2, heads=2, grid=16)
REGISTERS = DINOv2(features=32, depth=2, heads=2, grid=16, registers=4, antialias=True, position_offset=0.0)
CLIP = CLIPVision(features=32, depth=2, heads=2, patch_size=32, grid=7, projection=16)
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
OF_CLIP = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def authors(network: DINOv2) -> dict[str, np.ndarray]:
    """Random weights in the names of DINOv2's authors."""
    side = network.patch_size * network.grid
    made = random_tensors(dinov2_table.rows(network, {}), features._shapes(network, side))
    return {**made, "mask_token": np.zeros((1, network.features), np.float32)}


def timm_model(network: DINOv2, tensors: dict[str, np.ndarray], side: int) -> Any:
    """timm's model of the same function. It has the position of the class token within that token where there are
    registers.
    """
    torch = pytest.importorskip("torch")
    model = peer("timm.models.vision_transformer").VisionTransformer(
        img_size=side,
        patch_size=network.patch_size,
        embed_dim=network.features,
        depth=network.depth,
        num_heads=network.heads,
        init_values=1.0,
        num_classes=0,
        reg_tokens=network.registers,
        no_embed_class=network.registers > 0,
    )
    state = {name: torch.tensor(values) for name, values in tensors.items() if name != "mask_token"}
    state["pos_embed"] = positions(network, state["pos_embed"], side // network.patch_size)
    if network.registers:
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    model.load_state_dict(state)
    return model.eval()


def positions(network: DINOv2, theirs: Any, grid: int) -> Any:
    """The authors' resize of positions, by torch: the scale is (grid + 0.1) / grid0 without registers."""
    torch = pytest.importorskip("torch")
    if grid == network.grid:
        return theirs
    square = theirs[:, 1:].reshape(1, network.grid, network.grid, -1).permute(0, 3, 1, 2)
    to = {"size": (grid, grid)} if network.registers else {"scale_factor": ((grid + 0.1) / network.grid,) * 2}
    resized = torch.nn.functional.interpolate(square, mode="bicubic", antialias=network.registers > 0, **to)
    return torch.cat([theirs[:, :1], resized.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)], dim=1)


def run(extractor: Any) -> Callable[[np.ndarray], jax.Array]:
    """The features of the network's one layer."""
    (layer,), program = extractor.spaces, jax.jit(extractor.apply)
    return lambda x: program(extractor.params, x)[layer]


def pillow(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def pictures(test_data):
    """One of noise and a photo at each size."""
    return {side: np.concatenate([random_images(1, side), real_images(test_data, 1, side)]) for side in SIDES}


@pytest.fixture
def small(monkeypatch) -> None:
    """The published names mean the small networks."""
    monkeypatch.setitem(dinov2.NETWORKS, "dinov2_vits14", SMALL)
    monkeypatch.setitem(dinov2.NETWORKS, "dinov2_vits14_reg", REGISTERS)
    monkeypatch.setitem(clip_vision.NETWORKS, "clip-vit-base-patch32", CLIP)


@pytest.mark.usefixtures("small")
def test_dinov2_in_the_protocols_of_its_peers(tmp_path, pictures):
    torch = pytest.importorskip("torch")
    tensors = authors(SMALL)
    save_file(tensors, tmp_path / "dinov2.safetensors")
    model = timm_model(SMALL, tensors, 224)
    mean, std = IMAGENET

    def interpolated(images: np.ndarray) -> np.ndarray:
        x = torch_images(images).float()
        out = torch.nn.functional.interpolate(x, (224, 224), mode="bicubic", antialias=True)
        return out.numpy().transpose(0, 2, 3, 1)

    protocols = [
        (dinov2.DGM_EVAL, lambda images: np.stack([pillow(image, 224) for image in images])),
        (dinov2.EDM2, interpolated),
        (dinov2.TORCH_FIDELITY, lambda images: np.asarray(jax.jit(resize_tf1, static_argnums=1)(images, 224))),
    ]
    seen = []
    for protocol, theirs in protocols:
        extractor = features.load_dinov2("dinov2_vits14", tmp_path / "dinov2.safetensors", protocol)
        assert extractor.spaces["class_token"].dimension == 32
        network, prepared = run(extractor), jax.jit(extractor.input)
        for side in SIDES:
            expected = model(torch_images((theirs(pictures[side]) / 255 - mean) / std).float()).detach()
            seen.append(network(prepared(pictures[side])))
            assert difference(seen[-1], expected) < RELATIVE
    assert difference(seen[0], seen[len(SIDES)]) > RELATIVE  # that protocols differ is seen


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("name", "network"), [("dinov2_vits14", SMALL), ("dinov2_vits14_reg", REGISTERS)])
@pytest.mark.parametrize("side", [224, 112])
def test_dinov2_of_its_authors_files(tmp_path, name, network, side):
    """Also at a side that the positions are resized to, as the authors do."""
    torch = pytest.importorskip("torch")
    tensors = authors(network)
    torch.save({name: torch.tensor(values) for name, values in tensors.items()}, tmp_path / "dinov2.pth")
    network_of_ours, x = run(features.load_dinov2(name, tmp_path / "dinov2.pth")), normal(2, side, side, 3)
    expected = timm_model(network, tensors, side)(torch_images(x)).detach()
    assert difference(network_of_ours(x), expected) < RELATIVE


@pytest.mark.parametrize(("name", "network"), [("dinov2_vits14", SMALL), ("dinov2_vits14_reg", REGISTERS)])
def test_dinov2_of_transformers_files(tmp_path, monkeypatch, name, network):
    """transformers adds nothing to the number of patches; and images that are not square."""
    transformers = pytest.importorskip("transformers")
    like_theirs = network.clone(position_offset=0.0)
    monkeypatch.setitem(dinov2.NETWORKS, name, like_theirs)
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 224,
        "patch_size": 14,
    }
    if network.registers:
        config = transformers.Dinov2WithRegistersConfig(**settings)
        model = transformers.Dinov2WithRegistersModel(config)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**settings))
    randomised(model).save_pretrained(tmp_path)
    network_of_ours = run(features.load_dinov2(name, tmp_path))
    for shape in ((224, 224), (112, 140)):
        x = normal(2, *shape, 3)
        expected = model(torch_images(x)).last_hidden_state[:, 0].detach()
        assert difference(network_of_ours(x), expected) < RELATIVE


def test_weights_are_the_same_from_either_kind_of_file(tmp_path, small):
    """A feature space does not depend on the file, but it does on the weights and on the input."""
    tensors = authors(SMALL)
    save_file(tensors, tmp_path / "authors.safetensors")
    theirs, ours = dinov2_table.rows(SMALL, {"embeddings.": np.zeros(0)}), [*dinov2_table.rows(SMALL, {})]
    by_path = {row.ours: row for row in ours}

    def of(row: Row) -> np.ndarray:
        source = by_path[row.ours]
        values = tensors[source.theirs]
        return values if source.third is None else np.split(values, 3)[source.third]

    save_file({row.theirs: np.ascontiguousarray(of(row)) for row in theirs}, tmp_path / "model.safetensors")
    first, second = (features.load_dinov2("dinov2_vits14", tmp_path / name) for name in ("authors.safetensors", ""))
    assert first.spaces == second.spaces
    other = features.load_dinov2("dinov2_vits14", tmp_path, dinov2.EDM2)
    assert first.spaces != other.spaces
    assert first.spaces["class_token"].weights == other.spaces["class_token"].weights
    tensors["norm.bias"][3] += 1e-3
    save_file(tensors, tmp_path / "authors.safetensors")
    changed = features.load_dinov2("dinov2_vits14", tmp_path / "authors.safetensors")
    assert first.spaces["class_token"].weights != changed.spaces["class_token"].weights


def randomised(model: Any) -> Any:
    """Every weight drawn anew: as built, biases and positions are zero, scales are one."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4.0
            parameter.normal_(std=1 / fan_in**0.5, generator=generator)
            if "lambda" in name or ("norm" in name and name.endswith("weight")):
                parameter += 1
    return model.eval()


def clip_model(network: CLIPVision) -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=network.features,
        intermediate_size=4 * network.features,
        num_hidden_layers=network.depth,
        num_attention_heads=network.heads,
        image_size=network.side,
        patch_size=network.patch_size,
        projection_dim=network.projection,
    )
    return randomised(transformers.CLIPVisionModelWithProjection(config))


@pytest.mark.usefixtures("small")
def test_clip_in_cmmds_protocol(tmp_path, pictures):
    """From the file of the vision tower, and from one of the whole model, with its text tower."""
    model = clip_model(CLIP)
    model.save_pretrained(tmp_path)
    extractor = features.load_clip_vision("clip-vit-base-patch32", tmp_path)
    assert extractor.spaces["projection"].dimension == 16
    mean, std = OF_CLIP
    network, prepared = run(extractor), jax.jit(extractor.input)
    for side in SIDES:
        images = pictures[side][:, :, : side - side // 4]
        first, last = side // 8, side // 8 + side - side // 4
        cropped = np.stack([pillow(image[first:last], 224) for image in images])
        expected = model(torch_images((cropped / 255 - mean) / std).float()).image_embeds.detach()
        assert difference(network(prepared(images)), expected) < RELATIVE
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {"logit_scale": np.zeros(1, np.float32), "text_model.final_layer_norm.bias": np.zeros(3, np.float32)}
    tensors["vision_model.embeddings.position_ids"] = np.arange(50)[None]
    save_file(tensors, tmp_path / "whole.safetensors")
    assert features.load_clip_vision("clip-vit-base-patch32", tmp_path / "whole.safetensors").spaces == extractor.spaces


def test_clip_reads_images_of_its_own_side_alone(tmp_path, small):
    save_file(random_tensors(clip_table.rows(CLIP), features._shapes(CLIP, 224)), tmp_path / "clip.safetensors")
    extractor = features.load_clip_vision("clip-vit-base-patch32", tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match="224 x 224, not of 256"):
        run(extractor)(normal(1, 256, 256, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*dinov2.NETWORKS])
def test_whole_dinov2(tmp_path: Path, name):
    network = dinov2.NETWORKS[name]
    tensors = authors(network)
    save_file(tensors, tmp_path / "model.safetensors")
    x = normal(1, 224, 224, 3)
    extractor = features.load_dinov2(name, tmp_path)
    (tmp_path / "model.safetensors").unlink()  # up to 1.2 GB
    expected = timm_model(network, tensors, 224)(torch_images(x)).detach()
    assert difference(run(extractor)(x), expected) < RELATIVE


@pytest.mark.slow
@pytest.mark.parametrize("name", [*clip_vision.NETWORKS])
def test_whole_clip(tmp_path: Path, name):
    network = clip_vision.NETWORKS[name]
    model = clip_model(network)
    model.save_pretrained(tmp_path)
    x = normal(1, network.side, network.side, 3)
    extractor = features.load_clip_vision(name, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert difference(run(extractor)(x), model(torch_images(x)).image_embeds.detach()) < RELATIVE

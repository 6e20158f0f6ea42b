"""diffusers' UNet2DModel and UNet2DConditionModel against ours, loaded from what they save: outputs, gradients, and the
way back.

Measured (diffusers 0.42.1, CPU, float32): outputs within 5e-7 of the largest value. Asked, of gradients too: 1e-4.
"""

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff import interop
from jdiff.common.errors import UserError
from jdiff.interop import unets
from jdiff.interop.settings import Settings
from jdiff.interop.table import their_shape
from tests.interop_parity import (
    WEIGHTS,
    assert_saved_as_it_was,
    compare,
    config,
    diffusers,
    normal,
    refused,
    reloaded,
    theirs,
    torch,
    with_tensors,
)

TEXT_WIDTH = 24


def blocks(*kinds: str) -> dict[str, tuple[str, ...]]:
    """Their names of blocks, from the first level to the last: "", "Attn", "CrossAttn" or "Resnet"."""
    resnet = {"down": "ResnetDownsampleBlock2D", "up": "ResnetUpsampleBlock2D"}
    down = [resnet["down"] if kind == "Resnet" else f"{kind}DownBlock2D" for kind in kinds]
    up = [resnet["up"] if kind == "Resnet" else f"{kind}UpBlock2D" for kind in reversed(kinds)]
    return {"down_block_types": tuple(down), "up_block_types": tuple(up)}


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    shape: tuple[int, int, int, int]
    settings: dict[str, Any] = field(hash=False)
    tokens: int = 0


def plain(name: str, shape: tuple[int, int, int, int], **settings: Any) -> Case:
    small = {"block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1}
    return Case(name, "UNet2DModel", shape, small | settings)


def conditional(name: str, shape: tuple[int, int, int, int], tokens: int, **settings: Any) -> Case:
    small = {"block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1}
    return Case(name, "UNet2DConditionModel", shape, small | {"cross_attention_dim": TEXT_WIDTH} | settings, tokens)


CASES = [
    plain(
        "plain",
        (3, 12, 8, 3),
        **blocks("", ""),
        layers_per_block=2,
        add_attention=False,
        resnet_time_scale_shift="scale_shift",
        act_fn="swish",
        dropout=0.2,
    ),
    plain(
        "attention",
        (1, 16, 16, 3),
        **blocks("Attn", "", "Attn"),
        block_out_channels=(16, 32, 16),
        attention_head_dim=8,
        num_class_embeds=5,
    ),
    plain(
        "ddpm-cifar10-32",
        (3, 8, 8, 3),
        **blocks("", "Attn"),
        attention_head_dim=None,
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
        norm_eps=1e-6,
    ),
    plain(
        "resnet",
        (3, 8, 12, 2),
        **blocks("Resnet", "Attn", "Attn"),
        block_out_channels=(16, 32, 32),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attn_norm_num_groups=8,
        in_channels=2,
        out_channels=4,
    ),
    conditional("sd1", (3, 8, 8, 4), 7, **blocks("CrossAttn", ""), attention_head_dim=2),
    conditional(
        "sd2", (1, 12, 8, 4), 1, **blocks("CrossAttn", ""), attention_head_dim=(2, 4), use_linear_projection=True
    ),
    conditional(
        "by-level",
        (3, 8, 8, 4),
        12,
        **blocks("CrossAttn", "CrossAttn"),
        attention_head_dim=(4, 2),
        transformer_layers_per_block=(1, 2),
        num_class_embeds=5,
        downsample_padding=0,
        flip_sin_to_cos=False,
    ),
]
NAMED = {case.name: case for case in CASES}


def peer(case: Case):
    """Their model with random weights: no norm and no bias that is 0 or 1, and first features so small that the norms'
    epsilon shows.
    """
    torch.manual_seed(0)
    model = getattr(diffusers, case.kind)(**case.settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
        for parameter in model.conv_in.parameters():
            parameter *= 0.01
    return model


def inputs(case: Case) -> tuple[np.ndarray, dict, dict]:
    """(x, what ours takes beside it, what theirs takes)."""
    times = np.linspace(3, 900, case.shape[0]).astype(np.float32)
    cond: dict[str, Any] = {}
    other = {"timestep": torch.tensor(times)}
    if case.settings.get("num_class_embeds"):
        labels = np.array([4, 0, 2])[: case.shape[0]]
        cond["label"], other["class_labels"] = jnp.asarray(labels), torch.tensor(labels)
    if case.tokens:
        text = normal(case.shape[0], case.tokens, TEXT_WIDTH, seed=1)
        cond["text"] = {"features": jnp.asarray(text)}
        other["encoder_hidden_states"] = torch.tensor(text)
    return normal(*case.shape), {"c_noise": jnp.asarray(times), "cond": cond}, other


@dataclass
class Saved:
    """A model of theirs, the folder that it is saved in, which nobody changes, and what we load from there."""

    case: Case
    model: Any
    folder: Path
    network: nn.Module
    params: Any


@pytest.fixture(scope="module")
def saved(request, tmp_path_factory) -> Saved:
    case = NAMED[request.param]
    model, folder = peer(case), tmp_path_factory.mktemp(case.name)
    model.save_pretrained(folder)
    return Saved(case, model, folder, *interop.load(folder))


each_case = pytest.mark.parametrize("saved", NAMED, indirect=True)


def of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("saved", names, indirect=True)


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(saved.folder, tmp_path / "model"))


@each_case
def test_outputs_and_gradients_are_theirs(saved):
    x, given, other = inputs(saved.case)

    def mine(params, x):
        return saved.network.apply({"params": params}, x, **given)

    compare(mine, lambda x: saved.model(x, **other).sample, saved.params, x)


@each_case
def test_the_way_out_is_exact(saved, tmp_path):
    assert_saved_as_it_was(saved.params, saved.folder, tmp_path)
    x, _, other = inputs(saved.case)
    with torch.no_grad():
        before, after = (model(theirs(x), **other).sample for model in (saved.model, reloaded(saved.model, tmp_path)))
    assert torch.equal(before, after)


PUBLISHED = {
    "google/ddpm-cifar10-32": {
        "_class_name": "UNet2DModel",
        "act_fn": "silu",
        "attention_head_dim": None,
        "block_out_channels": [128, 256, 256, 256],
        "center_input_sample": False,
        **blocks("", "Attn", "", ""),
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "in_channels": 3,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 32,
        "time_embedding_type": "positional",
    },
    # Most of what it says is their default.
    "stable-diffusion-v1-5": {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768, "sample_size": 64},
    "stable-diffusion-2-1": {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "dual_cross_attention": False,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "upcast_attention": True,
        "use_linear_projection": True,
    },
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("google/ddpm-cifar10-32", 35_746_307),
        ("stable-diffusion-v1-5", 859_520_964),
        ("stable-diffusion-2-1", 865_910_724),
    ],
)
def test_published_models_have_these_names_and_shapes(name, parameters):
    settings = {key: value for key, value in PUBLISHED[name].items() if key != "_class_name"}
    with torch.device("meta"):
        model = getattr(diffusers, PUBLISHED[name]["_class_name"])(**settings)
    their = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert sum(map(np.prod, their.values())) == parameters
    described = interop.describe(PUBLISHED[name])
    assert their == {
        entry.theirs: their_shape(entry, described.shapes[entry.ours]) for entry in described.entries if entry.theirs
    }


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"attention_head_dim": 8}, {"attention_heads": 8, "head_channels": 0}),
        ({"attention_head_dim": [8, 8, 8, 8]}, {"attention_heads": 8, "head_channels": 0}),
        ({"attention_head_dim": [5, 10, 20, 20]}, {"attention_heads": 1, "head_channels": 64}),
        ({"attention_head_dim": [5, 10, 20, 40]}, {"attention_heads": (5, 10, 20, 40), "head_channels": 0}),
        ({"transformer_layers_per_block": [3, 3, 3, 3]}, {"transformer_depth": 3}),
        ({"transformer_layers_per_block": [1, 1, 2, 10]}, {"transformer_depth": (1, 1, 2, 10)}),
        ({"layers_per_block": [2, 2, 2, 2], "cross_attention_dim": [8, 8, 8, 8]}, {"blocks_per_level": 2}),
    ],
)
def test_what_levels_have_in_common_is_one_number(settings, fields):
    """So that a config can say it."""
    network = unets.unet_2d_condition(Settings(settings, unets.UNET_2D_CONDITION))
    assert {name: getattr(network, name) for name in fields} == fields


@of("sd1")
def test_the_null_text_is_zeros_until_it_is_trained(saved):
    null = saved.params["conditioner"]["embedders_text"]["null"]
    np.testing.assert_array_equal(null, np.zeros(TEXT_WIDTH))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(saved.params))


@of("attention")
def test_shards_are_one_model(saved, tmp_path):
    saved.model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    shutil.copy(saved.folder / WEIGHTS, tmp_path / "unet.safetensors")  # of no name that they have
    jax.tree.map(np.testing.assert_array_equal, interop.load(tmp_path)[1], saved.params)

    # Saved over: what is read is what was saved last.
    interop.save(jax.tree.map(jnp.zeros_like, saved.params), config(saved.folder), tmp_path)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(interop.load(tmp_path)[1]))

    (tmp_path / WEIGHTS).unlink()
    saved.model.save_pretrained(tmp_path, max_shard_size="100KB")
    sorted(tmp_path.glob("diffusion*.safetensors"))[0].unlink()
    refused(tmp_path, "lacks diffusion_pytorch_model-00001-of-")


FIRST_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def with_first_names(folder: Path) -> int:
    """Name attention's tensors as the first releases did, and many folders still do."""
    renamed = 0

    def rename(tensors: dict[str, np.ndarray]) -> None:
        nonlocal renamed
        for name in list(tensors):
            for today, first in FIRST_NAMES.items():
                if f".{today}." in name:
                    tensors[name.replace(today, first)] = tensors.pop(name)
                    renamed += 1

    with_tensors(folder, rename)
    return renamed


@of("ddpm-cifar10-32")
def test_first_names_of_attention_are_known(saved, folder):
    assert with_first_names(folder) == 8 * 4
    x, _, other = inputs(saved.case)
    with torch.no_grad():
        before, after = (model(theirs(x), **other).sample for model in (saved.model, reloaded(saved.model, folder)))
    assert torch.equal(before, after)  # they read these names so
    jax.tree.map(np.testing.assert_array_equal, interop.load(folder)[1], saved.params)


def test_first_names_of_an_autoencoder_are_known(tmp_path):
    torch.manual_seed(0)
    diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path)
    expected = interop.load(tmp_path)[1]
    assert with_first_names(tmp_path) == 8 * 2
    jax.tree.map(np.testing.assert_array_equal, interop.load(tmp_path)[1], expected)


@of("plain")
def test_another_network_is_not_saved_like_this_one(saved, tmp_path):
    params = saved.params
    interop.save_like(params, saved.folder, tmp_path / "same")
    assert (tmp_path / "same" / WEIGHTS).read_bytes() == (saved.folder / WEIGHTS).read_bytes()

    first, out = params["first"], tmp_path / "other"
    for changed, difference in (
        ({name: part for name, part in params.items() if name != "first"}, "first/bias is nothing here and [16] there"),
        ({**params, "more": {"kernel": jnp.zeros((2, 3))}}, "more/kernel is [2, 3] here and nothing there"),
        ({**params, "first": {**first, "bias": jnp.zeros(8)}}, "first/bias is [8] here and [16] there"),
    ):
        with pytest.raises(UserError, match=re.escape(f"this network is not {saved.folder}'s: {difference}")):
            interop.save_like(changed, saved.folder, out)
    with pytest.raises(UserError, match=re.escape(f"this network is not the config's UNet2DModel: {difference}")):
        interop.save(changed, config(saved.folder), out)
    assert not out.exists()


@of("plain")
def test_tensors_that_do_not_fit_are_refused_by_name(folder):
    name, kept = "up_blocks.1.resnets.0.conv_shortcut.weight", {}
    with_tensors(folder, lambda tensors: kept.update({name: tensors.pop(name)}))
    refused(folder, f"lack the tensor {name}")
    with_tensors(folder, lambda tensors: tensors.update({name: kept[name][:, :-1]}))
    refused(folder, name, "[16, 47, 1, 1]", "[16, 48, 1, 1]")
    with_tensors(folder, lambda tensors: tensors.update(kept | {"more.bias": np.zeros(3, np.float32)}))
    refused(folder, "hold the tensor more.bias,")
    with_tensors(folder, lambda tensors: tensors.update({"extra.bias": np.zeros(3, np.float32)}))
    refused(folder, "hold the tensor extra.bias (and 1 more)")


@of("plain")
def test_files_that_cannot_be_read_are_refused_by_name(folder):
    whole = (folder / WEIGHTS).read_bytes()
    for damaged in (b"", whole[:4], whole[: len(whole) // 2], whole[:-1], b"\xff" * 100):
        (folder / WEIGHTS).write_bytes(damaged)
        refused(folder, str(folder / WEIGHTS), "not a whole safetensors file")
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    refused(folder, str(folder), f"no {WEIGHTS}", "save_pretrained")
    for text in ("", "{", "\xff", '{"_class_name": "UNet2DModel",}'):
        (folder / "config.json").write_text(text, encoding="latin-1")
        refused(folder, str(folder / "config.json"), "not JSON")
    (folder / "config.json").write_text("[1, 2]")
    refused(folder, str(folder / "config.json"), "JSON object")
    (folder / "config.json").unlink()
    refused(folder, str(folder), "config.json")
    refused(folder / "nowhere", str(folder / "nowhere"), "holds no model")


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("UNet3DConditionModel", {}, ["'UNet3DConditionModel'", "UNet2DConditionModel"]),
        (None, {}, ["None", "UNet2DModel"]),
        ("UNet2DModel", {"time_embedding_type": "fourier"}, ["time_embedding_type='fourier'", "'positional'"]),
        ("UNet2DModel", {"act_fn": "gelu"}, ["act_fn='gelu'", "'silu'"]),
        ("UNet2DModel", {"made_up": 3}, ["made_up=3"]),
        ("UNet2DModel", {"use_linear_projection": False}, ["use_linear_projection=False"]),
        ("UNet2DModel", {"center_input_sample": True}, ["center_input_sample=True"]),
        ("UNet2DModel", {"mid_block_type": None}, ["mid_block_type=None"]),
        ("UNet2DModel", {"class_embed_type": "timestep"}, ["class_embed_type='timestep'"]),
        ("UNet2DModel", {"downsample_padding": 2}, ["downsample_padding=2"]),
        ("UNet2DModel", {"downsample_type": "fir"}, ["down_block_types", "fir"]),
        ("UNet2DModel", {"upsample_type": "resnet"}, ["down_block_types", "one way"]),
        ("UNet2DModel", {"attn_norm_num_groups": 16}, ["attn_norm_num_groups=16", "32"]),
        ("UNet2DModel", {"resnet_time_scale_shift": "scale_shift"}, ["attn_norm_num_groups=None", "32"]),
        ("UNet2DModel", {"resnet_time_scale_shift": "spatial"}, ["resnet_time_scale_shift='spatial'"]),
        ("UNet2DModel", {"block_out_channels": [32, 48, 64, 64]}, ["block_out_channels", "48"]),
        ("UNet2DModel", {"block_out_channels": [32, 64]}, ["2 block_out_channels"]),
        ("UNet2DModel", {"attention_head_dim": 24, "block_out_channels": [32] * 4}, ["heads of 24"]),
        ("UNet2DModel", {"norm_num_groups": 24, "attn_norm_num_groups": 24}, ["24", "224"]),
        ("UNet2DModel", blocks("", "Skip", "Skip", ""), ["SkipDownBlock2D", "AttnDownBlock2D"]),
        ("UNet2DModel", {"up_block_types": ["UpBlock2D"] * 4}, ["up_block_types", "mirror"]),
        ("UNet2DConditionModel", blocks("K", "K", "K", "K"), ["KDownBlock2D", "CrossAttnDownBlock2D"]),
        ("UNet2DConditionModel", blocks("SimpleCrossAttn", "", "", ""), ["SimpleCrossAttnDownBlock2D"]),
        ("UNet2DConditionModel", {"addition_embed_type": "text_time"}, ["addition_embed_type='text_time'"]),
        ("UNet2DConditionModel", {"only_cross_attention": True}, ["only_cross_attention=True"]),
        ("UNet2DConditionModel", {"cross_attention_dim": None}, ["cross_attention_dim=None", "number"]),
        ("UNet2DConditionModel", {"cross_attention_dim": [8, 8, 8, 16]}, ["cross_attention_dim=[8, 8, 8, 16]"]),
        ("UNet2DConditionModel", {"attention_head_dim": [2, 4]}, ["attention_head_dim=[2, 4]", "4 levels"]),
        ("UNet2DConditionModel", {"attention_head_dim": 7}, ["320 channels", "7 attention heads"]),
        (
            "UNet2DConditionModel",
            {"transformer_layers_per_block": [[1, 1], [1, 2], 1, 1]},
            ["transformer_layers_per_block=[[1, 1], [1, 2], 1, 1]"],
        ),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_settings_that_are_not_known_are_refused_by_name(kind, settings, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": kind, **settings}))
    refused(tmp_path, *words, *([kind] if kind else []))

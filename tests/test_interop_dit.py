"""diffusers' DiTTransformer2DModel, with random weights, against ours with the same: outputs, gradients, files."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff import interop
from jdiff.common.errors import UserError
from jdiff.networks.transformer import positions

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from safetensors.numpy import load_file, save_file

WEIGHTS = "diffusion_pytorch_model.safetensors"
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 3,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 5,
    "norm_num_groups": 1,
}


def made(folder: Path, **settings) -> DiTTransformer2DModel:
    """A model of theirs in the folder, every one of its weights drawn anew: as built, half of its paths are zero."""
    model = DiTTransformer2DModel(**(TINY | settings)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4.0
            parameter.normal_(std=0.5 / fan_in**0.5, generator=generator)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({}, 8),
        ({"patch_size": 4, "out_channels": 6, "num_layers": 1, "norm_eps": 1e-2}, 16),
        ({"out_channels": 6, "attention_bias": False, "dropout": 0.3, "num_layers": 3}, 12),
    ],
)
def test_outputs_and_gradients_are_theirs(tmp_path, settings, side):
    """At the model's own side, and at others, over which its positions stretch; 5 is the null of 5 classes."""
    model = made(tmp_path, **settings)
    network, params = interop.load(tmp_path)
    x = np.random.default_rng(0).normal(size=(3, side, side, 3)).astype(np.float32)
    times, labels = np.array([3.0, 451.0, 999.0], np.float32), np.array([0, 4, 5])

    theirs_x = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    theirs = model(theirs_x, torch.tensor(times), torch.tensor(labels)).sample
    (theirs_gradient,) = torch.autograd.grad(theirs.sin().sum(), theirs_x)

    def total(x, params, times, labels):
        out = network.apply({"params": params}, x, times, {"label": labels})
        return jnp.sum(jnp.sin(out)), out

    (_, ours), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x, params, times, labels)
    for name, a, b in (("output", ours, theirs), ("gradient", gradient, theirs_gradient)):
        b = b.detach().numpy().transpose(0, 2, 3, 1)
        assert a.shape == b.shape
        assert b.std() > 0.05, name
        difference = np.abs(a - b).max() / np.abs(b).max()
        assert difference < 1e-5, name  # measured: 1e-6; the exact GELU in place of tanh's: above 1e-5


def test_the_null_is_their_last_row(tmp_path):
    made(tmp_path)
    network, params = interop.load(tmp_path)
    x, apply = jnp.ones((2, 8, 8, 3)), jax.jit(network.apply)
    dropped = {"label": jnp.array([0, 3]), "drop": {"label": jnp.array([True, True])}}
    last = {"label": jnp.array([5, 5]), "drop": {"label": jnp.array([False, False])}}
    outs = [apply({"params": params}, x, jnp.ones(2), cond) for cond in (dropped, last)]
    np.testing.assert_array_equal(*outs)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (6, 4), (3, 8)])
def test_positions_are_theirs(rows, columns):
    """A model of theirs fails on rectangles; its table of positions does not."""
    theirs = get_2d_sincos_pos_embed(16, (rows, columns), base_size=4)
    ours = positions(rows, columns, 16, grid_size=4)
    np.testing.assert_allclose(ours.reshape(-1, 16), theirs, atol=1e-6)


def test_there_and_back_is_the_same_to_the_bit(tmp_path):
    model = made(tmp_path / "theirs", out_channels=6, patch_size=4)
    _, params = interop.load(tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    interop.save(params, config, tmp_path / "ours")

    theirs, ours = (load_file(tmp_path / name / WEIGHTS) for name in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape, name
        assert ours[name].tobytes() == tensor.tobytes(), name

    again = DiTTransformer2DModel.from_pretrained(tmp_path / "ours").eval()
    x, times, labels = torch.ones(2, 3, 8, 8), torch.tensor([1.0, 500.0]), torch.tensor([1, 5])
    assert torch.equal(again(x, times, labels).sample, model(x, times, labels).sample)

    _, back = interop.load(tmp_path / "ours")
    assert jax.tree.all(jax.tree.map(np.array_equal, params, back))


def _without(tensors):
    del tensors["transformer_blocks.1.norm1.linear.bias"]


def _with_more(tensors):
    tensors["transformer_blocks.2.extra"] = np.zeros(3, np.float32)


def _wrong(tensors):
    tensors["transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"] = np.zeros((5, 16), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, r"lack the tensor transformer_blocks\.1\.norm1\.linear\.bias"),
        (_with_more, r"hold the tensor transformer_blocks\.2\.extra"),
        (_wrong, r"embedding_table\.weight is \[5, 16\]; .* must be \[6, 16\]"),
    ],
)
def test_wrong_tensors_are_refused_by_name(tmp_path, change, message):
    made(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=message) as error:
        interop.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "setting",
    [
        {"rotary": True},
        {"activation_fn": "geglu"},
        {"norm_elementwise_affine": True},
        {"norm_type": "ada_norm"},
        {"num_embeds_ada_norm": None},
    ],
)
def test_unknown_settings_are_refused_by_name(tmp_path, setting):
    config = {"_class_name": "DiTTransformer2DModel", **TINY, **setting}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ((name, value),) = setting.items()
    with pytest.raises(UserError, match=f"{name}={value!r}") as error:
        interop.load(tmp_path)
    assert "\n" not in str(error.value)

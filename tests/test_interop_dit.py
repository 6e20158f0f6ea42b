"""diffusers' DiTTransformer2DModel, with random weights, against ours with the same: outputs, gradients, files."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff import interop
from jdiff.networks.embeddings import positions
from tests.interop_parity import (
    assert_saved_as_it_was,
    compare,
    diffusers,
    normal,
    refused,
    reloaded,
    torch,
    with_tensors,
)

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


def made(folder: Path, **settings):
    """A model of theirs in the folder, every one of its weights drawn anew: as built, half of its paths are zero."""
    model = diffusers.DiTTransformer2DModel(**(TINY | settings)).eval()
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
    times, labels = np.array([3.0, 451.0, 999.0], np.float32), np.array([0, 4, 5])

    def mine(params, x):
        return network.apply({"params": params}, x, jnp.asarray(times), {"label": jnp.asarray(labels)})

    def others(x):
        return model(x, torch.tensor(times), torch.tensor(labels)).sample

    # Measured: 1e-6; the exact GELU in place of tanh's: above 1e-5.
    compare(mine, others, params, normal(3, side, side, 3), within=1e-5)


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
    theirs = diffusers.models.embeddings.get_2d_sincos_pos_embed(16, (rows, columns), base_size=4)
    ours = positions(rows, columns, 16, grid_size=4)
    np.testing.assert_allclose(ours.reshape(-1, 16), theirs, atol=1e-6)


def test_the_way_out_is_exact(tmp_path):
    model = made(tmp_path / "theirs", out_channels=6, patch_size=4)
    assert_saved_as_it_was(interop.load(tmp_path / "theirs")[1], tmp_path / "theirs", tmp_path / "ours")
    given = torch.ones(2, 3, 8, 8), torch.tensor([1.0, 500.0]), torch.tensor([1, 5])
    assert torch.equal(reloaded(model, tmp_path / "ours")(*given).sample, model(*given).sample)


def test_the_class_that_published_folders_name(tmp_path):
    """Transformer2DModel, as facebook/DiT-XL-2-256's config.json has it."""
    model = made(tmp_path, out_channels=6, attention_bias=True)
    config = json.loads((tmp_path / "config.json").read_text())
    others = {"cross_attention_dim": None, "num_vector_embeds": None, "only_cross_attention": False}
    theirs = {**config, **others, "_class_name": "Transformer2DModel", "use_linear_projection": False}
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    network, params = interop.load(tmp_path)
    times, labels = np.array([3.0, 451.0], np.float32), np.array([0, 5])
    compare(
        lambda params, x: network.apply({"params": params}, x, jnp.asarray(times), {"label": jnp.asarray(labels)}),
        lambda x: model(x, torch.tensor(times), torch.tensor(labels)).sample,
        params,
        normal(2, 8, 8, 3),
    )
    theirs["cross_attention_dim"] = 8
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    refused(tmp_path, "Transformer2DModel", "cross_attention_dim=8")


def _without(tensors):
    del tensors["transformer_blocks.1.norm1.linear.bias"]


def _with_more(tensors):
    tensors["transformer_blocks.2.extra"] = np.zeros(3, np.float32)


def _wrong(tensors):
    tensors["transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"] = np.zeros((5, 16), np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without, ["lack the tensor transformer_blocks.1.norm1.linear.bias"]),
        (_with_more, ["hold the tensor transformer_blocks.2.extra"]),
        (_wrong, ["embedding_table.weight is [5, 16]; ", " must be [6, 16]"]),
    ],
)
def test_wrong_tensors_are_refused_by_name(tmp_path, change, words):
    made(tmp_path)
    with_tensors(tmp_path, change)
    refused(tmp_path, *words)


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
    refused(tmp_path, f"{name}={value!r}")

"""diffusers' AutoencoderKL and VQModel against ours, loaded from what they save: outputs, gradients, and the way back.

The largest difference measured (diffusers 0.42.1, CPU, float32): outputs 4e-6, gradients 7e-6.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff import interop
from jdiff.networks.bottlenecks import VQ, Gaussian
from tests.interop_parity import (
    assert_saved_as_it_was,
    close,
    compare,
    diffusers,
    normal,
    ours,
    refused,
    reloaded,
    theirs,
    torch,
    with_settings,
    with_tensors,
)


def blocks(levels: int, attending: tuple[int, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Their names of blocks, with attention at some levels."""
    down = ["AttnDownEncoderBlock2D" if level in attending else "DownEncoderBlock2D" for level in range(levels)]
    up = ["AttnUpDecoderBlock2D" if level in attending else "UpDecoderBlock2D" for level in reversed(range(levels))]
    return {"down_block_types": tuple(down), "up_block_types": tuple(up)}


@dataclass(frozen=True)
class Case:
    kind: str
    shape: tuple[int, int, int, int]
    settings: dict[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.kind}-{'x'.join(map(str, self.shape))}"


KL_CASES = [
    Case("AutoencoderKL", (3, 16, 16, 3), {**blocks(2), "block_out_channels": (16, 32), "norm_num_groups": 8}),
    Case(
        "AutoencoderKL",
        (1, 24, 16, 1),
        {
            **blocks(3),
            "in_channels": 1,
            "out_channels": 2,
            "block_out_channels": (16, 32, 32),
            "layers_per_block": 2,
            "norm_num_groups": 4,
            "latent_channels": 5,
            "mid_block_add_attention": False,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "act_fn": "swish",
            "shift_factor": 0.1,
            "force_upcast": False,
        },
    ),
    Case(
        "AutoencoderKL",
        (3, 8, 12, 3),
        {
            **blocks(3, attending=(1, 2)),
            "block_out_channels": (16, 16, 32),
            "norm_num_groups": 16,
            "use_quant_conv": False,
            "latents_mean": (0.1, 0.2, 0.3, 0.4),
            "latents_std": (1.0, 2.0, 3.0, 4.0),
        },
    ),
]
VQ_CASES = [
    Case(
        "VQModel",
        (3, 16, 16, 3),
        {**blocks(2), "block_out_channels": (16, 32), "norm_num_groups": 8, "num_vq_embeddings": 50},
    ),
    Case(
        "VQModel",
        (1, 16, 24, 1),
        {
            **blocks(3, attending=(2,)),
            "in_channels": 1,
            "out_channels": 1,
            "block_out_channels": (16, 32, 32),
            "layers_per_block": 2,
            "norm_num_groups": 4,
            "num_vq_embeddings": 17,
            "latent_channels": 6,
            "vq_embed_dim": 4,
            "mid_block_add_attention": False,
            "lookup_from_codebook": True,
        },
    ),
]


def peer(case: Case):
    """Their model with random weights: none that is 0 or 1, codes as far apart as the latents are, and what comes into
    the first norms so small that their epsilon shows.
    """
    torch.manual_seed(0)
    model = getattr(diffusers, case.kind)(**case.settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
        for first in (model.encoder.conv_in, model.decoder.conv_in):
            first.weight *= 0.01
            first.bias *= 0.01
        if case.kind == "VQModel":
            latents = model.encode(theirs(images(case))).latents
            codes = model.quantize.embedding.weight
            codes.copy_(latents.mean() + latents.std() * torch.randn_like(codes))
    return model


def images(case: Case) -> np.ndarray:
    return normal(*case.shape)


def method(network, name: str = "__call__"):
    return jax.jit(lambda params, x: network.apply({"params": params}, x, method=name))


def codebook(params) -> tuple[VQ, dict]:
    """The bottleneck that holds a loaded model's codes, and its state."""
    codes = params["codebook"]["codes"]
    bottleneck = VQ(*codes.shape)
    return bottleneck, bottleneck.holding(codes)


@pytest.fixture
def saved(request, tmp_path):
    """(case, their model, the folder it is saved in)."""
    model = peer(request.param)
    model.save_pretrained(tmp_path)
    return request.param, model, tmp_path


@pytest.mark.parametrize("saved", KL_CASES, ids=str, indirect=True)
def test_kl_encodes_and_decodes_as_theirs(saved):
    case, model, folder = saved
    network, params = interop.load(folder)

    def moments(params, x):
        features = method(network, "encode")(params, x)
        return jnp.concatenate(Gaussian(network.latent_channels).moments(features), axis=-1)

    def their_moments(x):
        posterior = model.encode(x).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1)

    made = compare(moments, their_moments, params, images(case))
    z = normal(*made.shape[:3], made.shape[3] // 2, seed=1)
    compare(method(network, "decode"), lambda z: model.decode(z).sample, params, z)


def test_the_mean_is_decoded_by_default(tmp_path):
    model = peer(KL_CASES[0])
    model.save_pretrained(tmp_path)
    network, params = interop.load(tmp_path)
    x = images(KL_CASES[0])
    close(method(network)(params, x), ours(model(theirs(x)).sample))


def test_log_variances_are_clamped_as_theirs(tmp_path):
    model = peer(KL_CASES[0])
    with torch.no_grad():
        model.quant_conv.bias[4:6] = torch.tensor([-60.0, 60.0])
    model.save_pretrained(tmp_path)
    network, params = interop.load(tmp_path)
    x = images(KL_CASES[0])
    _, log_variance = Gaussian(network.latent_channels).moments(method(network, "encode")(params, x))
    assert log_variance.min() == -30
    assert log_variance.max() == 20
    close(log_variance, ours(model.encode(theirs(x)).latent_dist.logvar))


@pytest.mark.parametrize("saved", VQ_CASES, ids=str, indirect=True)
def test_vq_encodes_quantizes_and_decodes_as_theirs(saved):
    case, model, folder = saved
    network, params = interop.load(folder)
    x = images(case)
    made = compare(method(network, "encode"), lambda x: model.encode(x).latents, params, x)

    z = normal(*made.shape, seed=1) * made.std() + made.mean()
    bottleneck, state = codebook(params)
    quantized, indices = (of(state, jnp.asarray(z)) for of in (bottleneck.quantized, bottleneck.indices))
    their_codes, _, (_, _, their_indices) = model.quantize(theirs(z))
    assert len(np.unique(indices)) > 5
    np.testing.assert_array_equal(indices, their_indices.numpy().reshape(indices.shape))
    close(quantized, ours(their_codes))

    def decode(params, z):
        return method(network, "decode")(params, bottleneck.quantized(state, jnp.asarray(z)))

    compare(decode, lambda z: model.decode(z).sample, params, z)


def test_vq_decodes_codes_as_theirs(tmp_path):
    """Theirs then takes latents, or, with lookup_from_codebook, indices."""
    for index, case in enumerate(VQ_CASES):
        folder = tmp_path / str(index)
        model = peer(case)
        model.save_pretrained(folder)
        network, params = interop.load(folder)
        shape = (2, 4, 5, params["codebook"]["codes"].shape[1])
        if model.config.lookup_from_codebook:
            tokens = np.random.default_rng(0).integers(0, model.config.num_vq_embeddings, size=shape[:3])
            bottleneck, state = codebook(params)
            z = bottleneck.lookup(state, jnp.asarray(tokens))
            expected = model.decode(torch.tensor(tokens), force_not_quantize=True, shape=shape).sample
        else:
            z = normal(*shape, seed=1)
            expected = model.decode(theirs(z), force_not_quantize=True).sample
        close(method(network, "decode")(params, z), ours(expected))


@pytest.mark.parametrize("saved", KL_CASES + VQ_CASES, ids=str, indirect=True)
def test_the_way_out_is_exact(saved, tmp_path_factory):
    case, model, folder = saved
    out = tmp_path_factory.mktemp("out")
    assert_saved_as_it_was(interop.load(folder)[1], folder, out)
    with torch.no_grad():
        x = theirs(images(case))
        assert torch.equal(model(x).sample, reloaded(model, out)(x).sample)


@pytest.fixture
def small(tmp_path):
    peer(KL_CASES[0]).save_pretrained(tmp_path)
    return tmp_path


def test_tensors_that_do_not_fit_are_refused_by_name(small):
    name = "decoder.up_blocks.1.resnets.0.conv_shortcut.weight"
    kept = {}
    with_tensors(small, lambda tensors: kept.update({name: tensors.pop(name)}))
    refused(small, name, "lack")
    with_tensors(small, lambda tensors: tensors.update({name: kept[name][:, :-1]}))
    refused(small, name, "[16, 31, 1, 1]", "[16, 32, 1, 1]")
    with_tensors(small, lambda tensors: tensors.update(kept | {"encoder.more.bias": np.zeros(3, np.float32)}))
    refused(small, "encoder.more.bias")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temporal": True}, ["AutoencoderKL", "temporal=True"]),
        ({"norm_type": "group"}, ["AutoencoderKL", "norm_type"]),
        ({"act_fn": "relu"}, ["act_fn='relu'", "silu"]),
        ({"block_out_channels": [16, 24]}, ["block_out_channels", "24"]),
        ({"down_block_types": ["DownEncoderBlock2D", "KDownBlock2D"]}, ["KDownBlock2D", "AttnDownEncoderBlock2D"]),
        ({"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}, ["up_block_types", "mirror"]),
        ({"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}, ["block_out_channels"]),
        ({"latent_channels": 8}, ["encoder.conv_out.weight", "[8, 32, 3, 3]", "[16, 32, 3, 3]"]),
        ({"use_quant_conv": False}, ["quant_conv"]),
        ({"mid_block_add_attention": False}, ["mid_block.attentions"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_are_not_known_are_refused_by_name(small, settings, words):
    with_settings(small, **settings)
    refused(small, *words)


def test_spatial_norms_are_refused(tmp_path):
    peer(VQ_CASES[0]).save_pretrained(tmp_path)
    with_settings(tmp_path, norm_type="spatial")
    refused(tmp_path, "VQModel", "norm_type='spatial'", "'group'")


def test_settings_left_out_are_their_defaults(tmp_path):
    """As in folders that an older release has saved."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(block_out_channels=(32,)).eval()
    model.save_pretrained(tmp_path)
    written = {"_class_name": "AutoencoderKL", "block_out_channels": [32]}
    (tmp_path / "config.json").write_text(json.dumps(written))
    network, params = interop.load(tmp_path)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    close(method(network)(params, x), ours(model(theirs(x)).sample))

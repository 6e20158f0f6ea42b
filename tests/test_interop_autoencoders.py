"""diffusers' AutoencoderKL and VQModel against ours, loaded from what they save: outputs, gradients, and the way back.

A difference is the largest |ours - theirs| over the largest |theirs|. The largest measured (diffusers 0.42.1, CPU,
float32): outputs 4e-6, gradients 7e-6.
"""

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jdiff import interop
from jdiff.common.errors import UserError
from jdiff.networks.autoencoder import KLAutoencoder, Layout
from jdiff.networks.layers import Style
from jdiff.networks.quantizer import Codebook, nearest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

RELATIVE = 1e-4
WEIGHTS = "diffusion_pytorch_model.safetensors"


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


KL = [
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
VQ = [
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
    return np.random.default_rng(0).normal(size=case.shape).astype(np.float32)


def latents_like(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def theirs(x: np.ndarray):
    return torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def ours(x) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


def close(mine: Any, others: np.ndarray) -> None:
    mine = np.asarray(mine)
    assert mine.shape == others.shape
    assert np.abs(mine - others).max() < RELATIVE * np.abs(others).max()


def output_and_gradient(function, params, x: np.ndarray):
    """f(x) and the gradient of sum(sin(f(x)))."""

    def summed(x):
        out = function(params, x)
        return jnp.sum(jnp.sin(out)), out

    (_, out), gradient = jax.jit(jax.value_and_grad(summed, has_aux=True))(x)
    return out, gradient


def their_output_and_gradient(function, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = theirs(x).requires_grad_()
    out = function(x)
    torch.sum(torch.sin(out)).backward()
    return ours(out), ours(x.grad)


def compare(mine, others, x: np.ndarray, params) -> np.ndarray:
    """Theirs of x, where ours agree in value and gradient."""
    out, gradient = output_and_gradient(mine, params, x)
    their_out, their_gradient = their_output_and_gradient(others, x)
    close(out, their_out)
    close(gradient, their_gradient)
    return their_out


def method(network, name: str = "__call__", **options):
    return jax.jit(lambda params, x: network.apply({"params": params}, x, method=name, **options))


@pytest.fixture
def saved(request, tmp_path):
    """(case, their model, the folder it is saved in)."""
    model = peer(request.param)
    model.save_pretrained(tmp_path)
    return request.param, model, tmp_path


@pytest.mark.parametrize("saved", KL, ids=str, indirect=True)
def test_kl_encodes_and_decodes_as_theirs(saved):
    case, model, folder = saved
    network, params = interop.load(folder)

    def moments(params, x):
        return jnp.concatenate(method(network, "encode")(params, x), axis=-1)

    def their_moments(x):
        posterior = model.encode(x).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1)

    made = compare(moments, their_moments, images(case), params)
    z = latents_like((*made.shape[:3], made.shape[3] // 2))
    compare(method(network, "decode"), lambda z: model.decode(z).sample, z, params)


def test_the_mean_is_decoded_by_default(tmp_path):
    model = peer(KL[0])
    model.save_pretrained(tmp_path)
    network, params = interop.load(tmp_path)
    x = images(KL[0])
    close(method(network)(params, x), ours(model(theirs(x)).sample))


def test_log_variances_are_clamped_as_theirs(tmp_path):
    model = peer(KL[0])
    with torch.no_grad():
        model.quant_conv.bias[4:6] = torch.tensor([-60.0, 60.0])
    model.save_pretrained(tmp_path)
    network, params = interop.load(tmp_path)
    x = images(KL[0])
    _, log_variance = method(network, "encode")(params, x)
    assert log_variance.min() == -30
    assert log_variance.max() == 20
    close(log_variance, ours(model.encode(theirs(x)).latent_dist.logvar))


@pytest.mark.parametrize("saved", VQ, ids=str, indirect=True)
def test_vq_encodes_quantizes_and_decodes_as_theirs(saved):
    case, model, folder = saved
    network, params = interop.load(folder)
    x = images(case)
    made = compare(method(network, "encode"), lambda x: model.encode(x).latents, x, params)

    z = latents_like(made.shape) * made.std() + made.mean()
    quantized, indices = method(network, "quantize")(params, z)
    their_codes, _, (_, _, their_indices) = model.quantize(theirs(z))
    assert len(np.unique(indices)) > 5
    np.testing.assert_array_equal(indices, their_indices.numpy().reshape(indices.shape))
    close(quantized, ours(their_codes))

    compare(method(network, "decode"), lambda z: model.decode(z).sample, z, params)
    close(method(network)(params, x), ours(model(theirs(x)).sample))


def test_vq_decodes_without_quantizing_as_theirs(tmp_path):
    """Theirs then takes latents, or, with lookup_from_codebook, indices."""
    for index, case in enumerate(VQ):
        folder = tmp_path / str(index)
        model = peer(case)
        model.save_pretrained(folder)
        network, params = interop.load(folder)
        shape = (2, 4, 5, params["codebook"]["codes"].shape[1])
        if model.config.lookup_from_codebook:
            tokens = np.random.default_rng(0).integers(0, model.config.num_vq_embeddings, size=shape[:3])
            z = method(network, "lookup")(params, tokens)
            expected = model.decode(torch.tensor(tokens), force_not_quantize=True, shape=shape).sample
        else:
            z = latents_like(shape)
            expected = model.decode(theirs(z), force_not_quantize=True).sample
        close(method(network, "decode", quantize=False)(params, z), ours(expected))


@pytest.mark.parametrize("saved", KL + VQ, ids=str, indirect=True)
def test_the_way_out_and_in_is_exact(saved, tmp_path_factory):
    case, model, folder = saved
    network, params = interop.load(folder)
    out = tmp_path_factory.mktemp("out")
    interop.save(params, json.loads((folder / "config.json").read_text()), out)

    before, after = load_file(folder / WEIGHTS), load_file(out / WEIGHTS)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert (tensor.dtype, tensor.shape) == (after[name].dtype, after[name].shape), name
        assert tensor.tobytes() == after[name].tobytes(), name

    again, same = interop.load(out)
    assert again == network
    assert jax.tree.structure(same) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, same, params)

    assert json.loads((out / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    reloaded = getattr(diffusers, case.kind).from_pretrained(out).eval()
    with torch.no_grad():
        x = theirs(images(case))
        assert torch.equal(model(x).sample, reloaded(x).sample)


@pytest.fixture
def small(tmp_path):
    peer(KL[0]).save_pretrained(tmp_path)
    return tmp_path


def refused(folder, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        interop.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def with_tensors(folder, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def with_settings(folder, **settings) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


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
    peer(VQ[0]).save_pretrained(tmp_path)
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


TINY = Layout(channels=8, channel_mults=(1, 2), blocks_per_level=1, style=Style(norm_groups=4))


def test_images_that_do_not_halve_are_refused():
    network = KLAutoencoder(layout=TINY)
    with pytest.raises(
        UserError, match=re.escape("8x9 do not fit an autoencoder of 2 levels: sides must be multiples of 2")
    ):
        network.init(jax.random.key(0), jnp.zeros((1, 8, 9, 3)))


def test_layers_compute_in_bfloat16_and_answer_in_float32():
    half = KLAutoencoder(layout=replace(TINY, style=replace(TINY.style, dtype=jnp.bfloat16)))
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = jax.jit(half.init)(jax.random.key(1), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    whole = KLAutoencoder(layout=TINY)
    for name, given in (("encode", x), ("decode", x[:, ::2, ::2, :1].repeat(4, axis=-1))):
        rounded, exact = (method(network, name)(variables["params"], given) for network in (half, whole))
        for one, other in zip(jax.tree.leaves(rounded), jax.tree.leaves(exact), strict=True):
            assert one.dtype == jnp.float32
            assert 0 < np.abs(one - other).max() < 0.05 * np.abs(other).max()


@pytest.mark.parametrize(("shape", "count", "offset"), [((7,), 40, 0.0), ((3, 4, 5, 2), 9, 0.0), ((50, 3), 64, 1e3)])
def test_nearest_is_the_brute_force_nearest(shape, count, offset):
    """Far from the origin as well, where ||z||^2 - 2 z e + ||e||^2 cannot tell codes apart."""
    rng = np.random.default_rng(0)
    codes = (offset + rng.normal(size=(count, shape[-1]))).astype(np.float32)
    z = (offset + rng.normal(size=shape)).astype(np.float32)
    distances = np.sum((z[..., None, :].astype(np.float64) - codes) ** 2, axis=-1)
    quantized, indices = jax.jit(nearest)(codes, z)
    assert indices.shape == shape[:-1]
    np.testing.assert_array_equal(indices, distances.argmin(axis=-1))
    np.testing.assert_array_equal(quantized, codes[distances.argmin(axis=-1)])


def test_a_code_is_nearest_to_itself_and_the_first_of_equals():
    codes = jnp.array([[0.0, 1.0], [2.0, 3.0], [2.0, 3.0], [-1.0, 5.0]])
    quantized, indices = nearest(codes, codes)
    assert indices.tolist() == [0, 1, 1, 3]
    np.testing.assert_array_equal(quantized, codes)


def test_the_gradient_goes_straight_through():
    """d sum(w q^2) / dz = 2 w q, as though q were z; the codes get none."""
    rng = np.random.default_rng(0)
    codes, z, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((9, 3), (4, 5, 3), (4, 5, 3)))
    quantized, _ = nearest(codes, z)
    to_codes, to_z = jax.grad(lambda codes, z: jnp.sum(w * nearest(codes, z)[0] ** 2), argnums=(0, 1))(codes, z)
    np.testing.assert_allclose(to_z, 2 * w * quantized, rtol=1e-6)
    np.testing.assert_array_equal(to_codes, jnp.zeros_like(codes))


def test_a_codebook_holds_its_codes():
    book = Codebook(16, 3)
    variables = book.init(jax.random.key(0), jnp.zeros((1, 3)))
    codes = variables["params"]["codes"]
    assert codes.shape == (16, 3)
    assert 0.03 < np.abs(codes).max() <= 1 / 16
    z = 0.1 * jax.random.normal(jax.random.key(1), (4, 4, 3))
    quantized, indices = book.apply(variables, z)
    np.testing.assert_array_equal(quantized, nearest(codes, z)[0])
    held = jax.tree.map(np.asarray, variables)  # as a loaded model's
    np.testing.assert_array_equal(jax.jit(lambda z: book.apply(held, z))(z)[0], quantized)
    np.testing.assert_array_equal(book.apply(variables, indices, method="lookup"), quantized)
    assert np.isnan(book.apply(variables, jnp.array([16]), method="lookup")).all()

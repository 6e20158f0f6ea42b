"""Files of weights as people have them: of torch, old and new, of TorchScript; and what is not what it should be."""

import hashlib
import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from jdiff.common.errors import UserError
from jdiff.interop import features
from jdiff.interop.features import dinov2 as dinov2_table
from jdiff.interop.features import graphs, torch_files
from jdiff.interop.features import inception as inception_table
from jdiff.interop.features import lpips as lpips_table
from jdiff.interop.features.files import Source, read
from jdiff.networks.features import dinov2
from jdiff.networks.features.dinov2 import DINOv2
from jdiff.networks.features.inception import SIDE, Inception
from tests.features_parity import random_tensors

SMALL = DINOv2(features=16, depth=1, heads=2, grid=2)
NAME = "dinov2_vits14"


@pytest.fixture
def tensors(monkeypatch) -> dict[str, np.ndarray]:
    """Of a tiny network that goes by a published name."""
    monkeypatch.setitem(dinov2.NETWORKS, NAME, SMALL)
    return random_tensors(dinov2_table.rows(SMALL, {}), features._shapes(SMALL, 28))


def refusal(path, name: str = NAME) -> str:
    with pytest.raises(UserError) as caught:
        features.load_dinov2(name, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("new", [True, False])
def test_torchs_files_hold_what_torch_saved(tmp_path, new):
    torch = pytest.importorskip("torch")
    base = torch.randn(6, 8)
    saved = {
        "float": torch.randn(3, 4),
        "double": torch.randn(2, dtype=torch.float64),
        "half": torch.randn(5).half(),
        "bfloat16": torch.randn(5).bfloat16(),
        "long": torch.arange(7),
        "bool": torch.tensor([True, False]),
        "number": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "transposed": base.T,
        "part": base[1:3, ::2],
        "conv.weight": torch.nn.Parameter(torch.randn(2, 3, 1, 1)),
    }
    torch.save(torch.nn.Module().state_dict() | saved, tmp_path / "weights", _use_new_zipfile_serialization=new)
    found = torch_files.read(tmp_path / "weights")
    assert found.keys() == saved.keys()
    for name, tensor in saved.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], tensor.detach().float().numpy())


def test_torchscripts_files_hold_a_modules_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Sequential(torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    )
    torch.jit.script(module.eval()).save(tmp_path / "module.pt")
    found, state = torch_files.read(tmp_path / "module.pt"), module.state_dict()
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


class Harmful:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("content", [b"", b"<html>", pickle.dumps(Harmful()), pickle.dumps({"a": 1})])
def test_what_is_no_file_of_tensors_is_refused(tmp_path, content, capsys):
    (tmp_path / "weights.pth").write_bytes(content)
    assert "weights.pth is not a whole file of torch's tensors" in refusal(tmp_path / "weights.pth")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(tmp_path, tensors, new, share):
    torch = pytest.importorskip("torch")
    file = tmp_path / "weights.pth"
    state = {name: torch.tensor(values) for name, values in tensors.items()}
    torch.save(state, file, _use_new_zipfile_serialization=new)
    features.load_dinov2(NAME, file)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert "is not a whole file" in refusal(file)


def test_a_missing_file_says_which_and_where_people_get_it(tmp_path):
    assert refusal(tmp_path / "no.pth") == (
        f"{tmp_path}/no.pth cannot be read (No such file or directory); the network {NAME} is in the file "
        f"{NAME}_pretrain.pth, from https://dl.fbaipublicfiles.com/dinov2/{NAME}/{NAME}_pretrain.pth"
    )
    reg = refusal(tmp_path / "no.pth", f"{NAME}_reg")
    assert f"https://dl.fbaipublicfiles.com/dinov2/{NAME}/{NAME}_reg4_pretrain.pth" in reg
    assert f"{tmp_path} holds neither model.safetensors nor pytorch_model.bin; the network" in refusal(tmp_path)
    with pytest.raises(
        UserError, match=r"pt_inception-2015-12-05-6726825d.pth, whose sha256 begins with 6726825d, from https"
    ):
        features.load_inception(tmp_path / "no.pth")
    with pytest.raises(UserError, match=r"vgg16-397923af.pth, whose sha256 begins with 397923af, from https"):
        features.load_lpips(tmp_path / "no.pth", tmp_path / "no.pth")
    with pytest.raises(UserError, match=r"https://huggingface\.co/openai/clip-vit-large-patch14-336"):
        features.load_clip_vision("clip-vit-large-patch14-336", tmp_path / "no.safetensors")
    assert (
        lpips_table.HEADS["alex"].hint.count("sha256 df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0")
        == 1
    )


def test_a_file_of_the_published_name_has_the_published_contents(tmp_path):
    content = {"x": np.zeros(2, np.float32)}
    save_file(content, tmp_path / "weights.safetensors")
    digest = hashlib.sha256((tmp_path / "weights.safetensors").read_bytes()).hexdigest()
    source = Source("a network", "weights.safetensors", "https://somewhere", digest[:8])
    assert read(tmp_path / "weights.safetensors", source).keys() == content.keys()
    with pytest.raises(
        UserError, match=f"damaged or another file: its sha256 begins with {digest[:8]}; a network is in"
    ):
        read(tmp_path / "weights.safetensors", Source("a network", "weights.safetensors", "https://somewhere", "0" * 8))


def test_the_first_tensor_that_does_not_fit_is_named(tmp_path, tensors):
    file = tmp_path / "weights.safetensors"

    def refused(**changes: np.ndarray | None) -> str:
        changed = {name.replace("__", "."): values for name, values in changes.items()}
        save_file({name: v for name, v in (tensors | changed).items() if v is not None}, file)
        return refusal(file).removeprefix(f"{file} does not hold {NAME}: ")

    assert refused(pos_embed=None) == "it lacks the tensor pos_embed"
    assert refused(pos_embed=None, cls_token=None) == "it lacks the tensor cls_token"
    assert refused(blocks__0__attn__qkv__weight=np.zeros((16, 16), np.float32)) == (
        "its tensor blocks.0.attn.qkv.weight is [16, 16] and should be [48, 16]"
    )
    assert refused(extra=np.zeros(3, np.float32)) == "it has no place for the tensor extra"
    nan = np.full(16, np.nan, np.float32)
    assert refused(norm__bias=nan) == "its tensor norm.bias holds values that are not finite"
    assert refused(register_tokens=np.zeros((1, 4, 16), np.float32)) == "it has no place for the tensor register_tokens"
    with pytest.raises(
        UserError, match=r"does not hold FID's Inception of 2015-12-05: it lacks the tensor Conv2d_1a_3x3"
    ):
        features.load_inception(file)


def test_unknown_names_are_refused_with_the_nearest():
    message = refusal("x.pth", "dinov2_vitl14_registers")
    assert "no feature network is called 'dinov2_vitl14_registers'; dinov2_vits14," in message
    assert message.endswith("did you mean 'dinov2_vitl14_reg'?")


def field(number: int, value: bytes | int) -> bytes:
    """A field of a protocol buffer."""

    def varint(value: int) -> bytes:
        return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def graph_of(tensors: dict[str, np.ndarray]) -> bytes:
    """A frozen graph of TensorFlow with these constants, some of whose nodes are other than these."""
    nodes = [field(1, field(1, b"Sub/y") + field(2, b"Placeholder"))]
    for name, values in tensors.items():
        sides = b"".join(field(2, field(1, side)) for side in values.shape)
        kind = 1 if values.dtype == np.float32 else 3
        tensor = field(1, kind) + field(2, sides) + field(4, values.tobytes())
        attributes = field(5, field(1, b"dtype") + field(2, field(6, kind)))
        attributes += field(5, field(1, b"value") + field(2, field(8, tensor)))
        nodes.append(field(1, field(1, name.encode()) + field(2, b"Const") + attributes))
    return b"".join(nodes) + field(4, field(1, 27))


def test_constants_of_a_graph_are_read_and_a_cut_one_is_refused(tmp_path):
    values = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int32([3]), "s": np.float32(2)}
    (tmp_path / "graph.pb").write_bytes(whole := graph_of(values))
    found = graphs.read(tmp_path / "graph.pb")
    assert set(found) == {"a/b"}  # no whole numbers, and no scalars, which the graph computes with
    np.testing.assert_array_equal(found["a/b"], values["a/b"])
    for count in range(1, len(whole) - 6, 7):
        (tmp_path / "cut.pb").write_bytes(whole[:count])
        try:
            assert set(graphs.read(tmp_path / "cut.pb")) <= {"a/b"}
        except UserError as error:
            assert "no whole graph" in str(error)  # noqa: PT017
    with pytest.raises(UserError, match="no whole graph"):
        graphs.read(tmp_path / "missing.pb")


@pytest.mark.slow
def test_inception_of_nvidias_translation_and_of_the_graph_is_the_same(tmp_path):
    """Of the same values, with the graph's scales of 1, which NVIDIA's file lacks."""
    shapes = features._shapes(Inception(), SIDE)
    by_path = {row.ours: row.theirs for row in inception_table.rows({}, shapes)}
    torchs = random_tensors(inception_table.rows({}, shapes), shapes)
    for path, name in by_path.items():
        if path.endswith("/scale"):
            torchs[name] = np.ones_like(torchs[name])
    nvidias = {
        row.theirs: torchs[by_path[row.ours]]
        for row in inception_table.rows({"layers.": np.zeros(0)}, shapes)
        if row.theirs
    }
    assert "layers.mixed_10.tower_1_mixed_conv_1.beta" in nvidias
    assert "layers.mixed.tower_1.conv_2.var" in nvidias
    save_file(torchs, tmp_path / "torch.safetensors")
    save_file(nvidias, tmp_path / "nvidia.safetensors")
    graph = {}
    for row in inception_table.rows({"softmax/weights": np.zeros(0)}, shapes):
        values = torchs[by_path[row.ours]]
        graph[row.theirs] = values.transpose(2, 3, 1, 0) if values.ndim == 4 else values.T
    assert graph["mixed_9/tower/mixed/conv_1/conv2d_params"].shape == (3, 1, 384, 384)
    assert graph["mixed/tower_1/conv_2/batchnorm/moving_variance"].shape == (96,)
    (tmp_path / "classify_image_graph_def.pb").write_bytes(graph_of(graph))
    files = ("torch.safetensors", "nvidia.safetensors", "classify_image_graph_def.pb")
    first, second, third = (features.load_inception(tmp_path / file) for file in files)
    assert first.spaces == second.spaces == third.spaces

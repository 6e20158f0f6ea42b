"""LPIPS against the package lpips, of the same random towers and heads.

The largest difference measured (lpips 0.1.4, torch 2.14.1, CPU, float32): 4e-7.
"""

import contextlib
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jdiff.common.errors import UserError
from jdiff.interop import features
from jdiff.interop.features import lpips as table
from jdiff.networks.features.lpips import LPIPS
from tests.features_parity import difference, peer, random_images, random_tensors, real_images, torch_images

RELATIVE = 1e-4
CASES = [("alex", 32), ("alex", 96), ("alex", 299), ("alex", 512), ("vgg", 32), ("vgg", 96)]
LARGE = [("vgg", 299), ("vgg", 512)]


def files(tower: str, folder: Path) -> tuple[Path, Path]:
    """The random tower as torchvision's file holds it, and the random heads as lpips's does."""
    torch = pytest.importorskip("torch")
    shapes = features._shapes(LPIPS(tower), 64, inputs=2)
    paths = folder / "tower.pth", folder / "heads.pth"
    for path, rows in zip(paths, (table.tower_rows(tower), table.head_rows()), strict=True):
        tensors = {name: torch.tensor(values) for name, values in random_tensors(rows, shapes).items()}
        if path == paths[0]:
            tensors["classifier.6.bias"] = torch.zeros(1000)
        torch.save(tensors, path, _use_new_zipfile_serialization=path == paths[1])
    return paths


def theirs(tower: str, paths: tuple[Path, Path]) -> Any:
    torch = pytest.importorskip("torch")
    package = peer("lpips")
    with contextlib.ExitStack() as stack:  # a classifier of 100 M random numbers, to no end
        for name in ("kaiming_normal_", "kaiming_uniform_", "normal_"):
            stack.enter_context(mock.patch.object(torch.nn.init, name))
        model = package.LPIPS(pretrained=False, pnet_rand=True, net=tower, verbose=False)
    tower_state, heads = (torch.load(path) for path in paths)
    for name in model.net.state_dict():
        _, place, part = name.split(".")
        model.net.get_submodule(f"{name.split('.')[0]}.{place}").get_parameter(part).data = tower_state[
            f"features.{place}.{part}"
        ]
    missing = model.load_state_dict(heads, strict=False)
    assert not missing.unexpected_keys
    return model.eval()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(ours, theirs) by tower: distances of images of [-1, 1]."""
    made: dict[str, Any] = {}

    def of(tower: str) -> Any:
        if tower not in made:
            paths = files(tower, tmp_path_factory.mktemp(tower))
            network, params, _ = features.load_lpips(*paths)
            program = jax.jit(network.apply)
            made[tower] = (lambda x, y: program({"params": params}, x, y)), theirs(tower, paths)
        return made[tower]

    return of


@pytest.mark.parametrize(("tower", "side"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in LARGE)])
def test_distances_are_theirs(pair, test_data, tower, side):
    ours, model = pair(tower)
    photos = real_images(test_data, 2, side)
    x = np.stack([random_images(1, side)[0], photos[0]]) / np.float32(127.5) - 1
    y = photos[::-1] / np.float32(127.5) - 1
    distances = np.asarray(ours(x, y))
    expected = model(torch_images(x), torch_images(y)).detach().flatten()
    assert difference(distances, expected) < RELATIVE
    np.testing.assert_allclose(ours(x, x), 0, atol=1e-9)


def test_the_published_heads_are_read(tmp_path):
    """The package brings its heads along, in torch's old format; the towers are not downloaded here."""
    package = Path(peer("lpips").__file__).parent
    tower, _ = files("alex", tmp_path)
    _, params, _ = features.load_lpips(tower, package / "weights" / "v0.1" / "alex.pth")
    heads = [np.asarray(params[f"weight_{index}"]) for index in range(5)]
    assert [len(head) for head in heads] == [64, 192, 384, 256, 256]
    assert all(head.min() >= 0 and head.max() > 0 for head in heads)


def test_the_tower_is_told_by_its_tensors_whatever_the_file_is_called(tmp_path):
    tower, heads = files("alex", tmp_path)
    network, _, _ = features.load_lpips(tower.rename(tmp_path / "network.bin"), heads)
    assert network.tower == "alex"
    other = tmp_path / "alexnet.safetensors"
    save_file(
        {"features.0.weight": np.zeros(1, np.float32), "features.3.squeeze.weight": np.zeros(1, np.float32)}, other
    )
    with pytest.raises(
        UserError, match=r"alexnet.safetensors holds neither VGG16 nor AlexNet with torchvision's names"
    ):
        features.load_lpips(other, heads)

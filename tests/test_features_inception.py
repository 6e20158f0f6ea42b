"""FID's Inception against pytorch-fid's and torch-fidelity's, of the same random weights and batch-norm statistics.

The largest difference measured (pytorch-fid 0.3.0, torch-fidelity 0.4.0, torch 2.14.1, CPU, float32): 2e-6.
"""

from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

from jdiff.interop import features
from jdiff.interop.features import inception as table
from jdiff.networks.features import inception
from tests.features_parity import SIDES, difference, peer, random_images, random_tensors, real_images, torch_images

RELATIVE = 1e-4
COUNT = 2
# torch-fidelity's names -> ours
LAYERS = {
    "64": "block_64",
    "192": "block_192",
    "768": "block_768",
    "2048": "pool",
    "logits_unbiased": "logits_unbiased",
    "logits": "logits",
}


@pytest.fixture(scope="module")
def tensors():
    shapes = features._shapes(inception.Inception(), inception.SIDE)
    return random_tensors(table.rows({}, shapes), shapes)


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory) -> Path:
    """The weights in the names and the format of pytorch-fid's file."""
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save({name: torch.tensor(values) for name, values in tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def run(file):
    """All layers of images that were resized: one program for all protocols."""
    extractor = features.load_inception(file)
    program = jax.jit(extractor.apply)
    return lambda resized: {name: np.asarray(x) for name, x in program(extractor.params, resized).items()}


@pytest.fixture(scope="module")
def pictures(test_data):
    """One of noise and a photo at each size."""
    return {side: np.concatenate([random_images(1, side), real_images(test_data, 1, side)]) for side in SIDES}


@pytest.fixture(scope="module")
def torch_fidelity(file):
    """Their network; it returns the features in the order of LAYERS."""
    module = peer("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    return module("inception", list(LAYERS), feature_extractor_weights_path=str(file))


@pytest.fixture(scope="module")
def pytorch_fid(file):
    """Their network, which would download its weights; it returns the four blocks."""
    module, torch = peer("pytorch_fid.inception"), pytest.importorskip("torch")
    with mock.patch.object(module, "load_state_dict_from_url", return_value=torch.load(file)):
        return module.InceptionV3(output_blocks=(0, 1, 2, 3)).eval()


@pytest.mark.parametrize("side", SIDES)
def test_features_are_torch_fidelitys(torch_fidelity, run, pictures, side):
    theirs = torch_fidelity(torch_images(pictures[side]))
    ours = run(jax.jit(inception.TF1)(pictures[side]))
    for name, x in zip(LAYERS.values(), theirs, strict=True):
        assert ours[name].shape == (COUNT, inception.DIMENSIONS[name])
        assert difference(ours[name], x) < RELATIVE, name


@pytest.mark.parametrize("side", SIDES)
def test_features_are_pytorch_fids(pytorch_fid, run, pictures, side):
    theirs = pytorch_fid(torch_images(pictures[side]).float() / 255)
    ours = run(jax.jit(inception.PYTORCH_FID)(pictures[side]))
    for name, x in zip(("block_64", "block_192", "block_768", "pool"), theirs, strict=True):
        assert difference(ours[name], x.mean(dim=(2, 3))) < RELATIVE, name


def test_spatial_features_are_the_first_channels_of_mixed_6d(torch_fidelity, run, pictures):
    seen: list[Any] = []
    hook = torch_fidelity.Mixed_6d.branch1x1.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    torch_fidelity(torch_images(pictures[96]))
    hook.remove()
    (branch,) = seen
    expected = branch[:, :7].numpy().transpose(0, 2, 3, 1).reshape(COUNT, 2023)
    assert difference(run(jax.jit(inception.TF1)(pictures[96]))["spatial"], expected) < RELATIVE

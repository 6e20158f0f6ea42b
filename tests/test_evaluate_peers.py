"""The whole command by published protocols against the libraries they are named after: the same two folders of images,
the same random weights, whatever is between.
"""

import json
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from jdiff.config import load, override
from jdiff.evaluation.distances import KernelDistance
from jdiff.from_config.evaluation import PUBLISHED
from jdiff.interop import features
from jdiff.interop.features import inception as table
from jdiff.modes.evaluate import evaluate
from jdiff.networks.features import inception
from tests.features_parity import peer, random_images, random_tensors

pytestmark = pytest.mark.slow
SIDE, SIZE = 48, 20
# Covariances of 45 and 60 images in 2,048 dimensions are singular: their general matrix root takes roots of rounding
# errors, and test_metrics_peers shows which of the two is right.
RELATIVE = 1e-3


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch = pytest.importorskip("torch")
    shapes = features._shapes(inception.Inception(), inception.SIDE)
    tensors = random_tensors(table.rows({}, shapes), shapes)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save({name: torch.tensor(values) for name, values in tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def folders(test_data, tmp_path_factory):
    """(60 crops of photos, 45 others with noise laid over them)."""
    top = tmp_path_factory.mktemp("images")
    files = sorted((test_data / "facades_100").rglob("*.jpg"))
    rng = np.random.default_rng(0)
    for name, count in (("real", 60), ("made", 45)):
        (top / name).mkdir()
        for number in range(count):
            photo = Image.open(files[number % len(files)]).convert("RGB")
            left, upper = rng.integers(0, photo.width - 96), rng.integers(0, photo.height - 96)
            crop = np.asarray(photo.crop((left, upper, left + 96, upper + 96)).resize((SIDE, SIDE)))
            if name == "made":
                crop = np.clip(crop + 0.2 * (random_images(number + 1, SIDE)[-1] - 127.0), 0, 255).astype(np.uint8)
            Image.fromarray(crop).save(top / name / f"{number:03d}.png")
    return top / "real", top / "made"


def ours(protocol, folders, weights, out):
    """The command's numbers; KID of subsets that are small enough for these folders."""
    known = PUBLISHED[protocol]
    metrics = tuple(
        replace(metric, size=SIZE) if isinstance(metric, KernelDistance) else metric for metric in known.metrics
    )
    arguments = (
        f"--config.data.dir={folders[0]}",
        "--config.data.image_size=0",
        "--config.data.holdout=0.0",
        f"--config.eval.images={folders[1]}",
        f"--config.eval.protocol={protocol}",
        f"--config.eval.weights={weights}",
    )
    config = override(load("folder"), arguments)
    with mock.patch.dict(PUBLISHED, {protocol: replace(known, metrics=metrics)}):
        assert evaluate(config, out / "none", out) == 0
    return {name: one["value"] for name, one in json.loads((out / "evaluation.json").read_text())["numbers"].items()}


def test_pytorch_fids(folders, weights, tmp_path):
    module, torch = peer("pytorch_fid.inception"), pytest.importorskip("torch")
    score = peer("pytorch_fid.fid_score")
    with mock.patch.object(module, "load_state_dict_from_url", return_value=torch.load(weights)):
        theirs = score.calculate_fid_given_paths(list(map(str, folders)), 16, torch.device("cpu"), 2048, 0)
    assert ours("pytorch-fid", folders, weights, tmp_path)["fid"] == pytest.approx(theirs, rel=RELATIVE)


def test_torch_fidelitys(folders, weights, tmp_path):
    fidelity = peer("torch_fidelity")
    theirs = fidelity.calculate_metrics(
        input1=str(folders[1]),
        input2=str(folders[0]),
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        kid_subset_size=SIZE,
        feature_extractor_weights_path=str(weights),
        cuda=False,
        batch_size=16,
        cache=False,
        verbose=False,
    )
    found = ours("torch-fidelity", folders, weights, tmp_path)
    assert found["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=RELATIVE)
    assert found["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert found["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-4)
    assert found["precision"] == pytest.approx(theirs["precision"], abs=1 / 45)
    assert found["recall"] == pytest.approx(theirs["recall"], abs=1 / 60)

"""What the tests of feature networks share: pictures, random weights for a network of theirs and ours, and differences.

A difference is the largest |ours - theirs| over the largest |theirs|.
"""

import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jdiff.interop.features.rows import Row
from jdiff.interop.table import Entry, their_shape

SIDES = (32, 96, 299, 512)
# Where the peers are that need torchvision. In the environment itself it would be found by transformers and diffusers,
# which cannot be imported beside a torchvision that cannot.
PEERS = Path(os.environ.get("JDIFF_TEST_PEERS", Path(__file__).parents[1] / ".peers"))
# A wheel of torchvision that was made for another build of torch cannot load its operators, and cannot be imported
# unless they are declared. No test calls them.
OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[Any] = []


def peer(name: str) -> ModuleType:
    """A library built on torch and torchvision; the test is skipped where one of the three is not installed:

    pip install --no-deps --target .peers torchvision pytorch-fid torch-fidelity lpips timm
    """
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    if PEERS.is_dir() and str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))
    try:
        importlib.import_module("torchvision")
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:
        for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "DEF")
        for operator, signature in OPERATORS.items():
            library.define(operator + signature)
        _declared.append(library)  # they last as long as it
        importlib.import_module("torchvision")
    return pytest.importorskip(name)


def random_images(count: int, side: int, channels: int = 3) -> np.ndarray:
    """Noise, from fine to coarse."""
    rng = np.random.default_rng(side)
    values = rng.normal(size=(count, side, side, channels)).cumsum(axis=1).cumsum(axis=2)
    return (127.5 + 127.5 * np.sin(values / 8)).astype(np.uint8)


def real_images(folder: Path, count: int, side: int) -> np.ndarray:
    """Photos of facades at another size."""
    files = sorted((folder / "facades_100").rglob("*.jpg"))[:count]
    assert len(files) == count
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((side, side))) for file in files])


def random_tensors(rows: Iterable[Row], shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """A tensor of theirs for each row: kernels that keep the variance, scales and variances about 1, others about 0."""
    rng, tensors = np.random.default_rng(seed), {}
    for row in rows:
        if row.theirs is None or row.theirs in tensors:
            continue
        shape = their_shape(Entry(row.theirs, row.ours, row.conversion), shapes[row.ours])
        if row.third is not None:
            shape = (3 * shape[0], *shape[1:])
        if row.ours.endswith(("/kernel", "positions")):
            values = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif "scale" in row.ours or row.ours.endswith("/var"):
            values = rng.uniform(0.5, 1.5, shape)
        elif row.ours.startswith("weight_"):
            values = rng.uniform(0, 1, shape)
        else:
            values = rng.normal(size=shape) * 0.1
        tensors[row.theirs] = values.astype(np.float32)
    return tensors


def torch_images(images: np.ndarray) -> Any:
    """[B, H, W, C] -> [B, C, H, W], of torch."""
    return importlib.import_module("torch").tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def difference(ours: Any, theirs: Any) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert theirs.std() > 0
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())

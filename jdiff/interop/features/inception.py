"""FID's Inception from the file of pytorch-fid and torch-fidelity, NVIDIA's translation (StyleGAN, EDM, clean-fid), or
TensorFlow's graph itself (classify_image_graph_def.pb).

The first two libraries' files have torchvision's names. NVIDIA's has TensorFlow's, and no scales: they are all ones.
"""

import re
from collections.abc import Iterator

from jdiff.interop.features.files import Source
from jdiff.interop.features.rows import Row, Shapes
from jdiff.interop.tensors import Tensors

_URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
_FILE = "pt_inception-2015-12-05-6726825d.pth"
SOURCE = Source("FID's Inception", _FILE, _URL + _FILE, "6726825d")
IGNORED = ("AuxLogits.", ".num_batches_tracked")

# Our modules' names (torchvision's) -> TensorFlow's.
STEM = {
    "Conv2d_1a_3x3": "conv",
    "Conv2d_2a_3x3": "conv_1",
    "Conv2d_2b_3x3": "conv_2",
    "Conv2d_3b_1x1": "conv_3",
    "Conv2d_4a_3x3": "conv_4",
}
BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


def _tower(name: str, branch: str, count: int) -> dict[str, str]:
    """Convolutions in a row: branch_1, branch_2, ... -> name.conv, name.conv_1, ..."""
    return {f"{branch}_{i + 1}": f"{name}.conv" + (f"_{i}" if i else "") for i in range(count)}


_ONES, _POOL = {"branch1x1": "conv"}, {"branch_pool": "tower_2.conv"}
_A = _ONES | _tower("tower", "branch5x5", 2) | _tower("tower_1", "branch3x3dbl", 3) | _POOL
_B = {"branch3x3": "conv"} | _tower("tower", "branch3x3dbl", 3)
_C = _ONES | _tower("tower", "branch7x7", 3) | _tower("tower_1", "branch7x7dbl", 5) | _POOL
_D = _tower("tower", "branch3x3", 2) | _tower("tower_1", "branch7x7x3", 4)
_E = {
    "branch1x1": "conv",
    "branch3x3_1": "tower_conv",
    "branch3x3_2a": "tower_mixed_conv",
    "branch3x3_2b": "tower_mixed_conv_1",
    "branch3x3dbl_1": "tower_1_conv",
    "branch3x3dbl_2": "tower_1_conv_1",
    "branch3x3dbl_3a": "tower_1_mixed_conv",
    "branch3x3dbl_3b": "tower_1_mixed_conv_1",
    "branch_pool": "tower_2_conv",
}
BRANCHES = dict(zip(BLOCKS, (_A, _A, _A, _B, _C, _C, _C, _C, _D, _E, _E), strict=True))


def rows(tensors: Tensors, shapes: Shapes) -> Iterator[Row]:
    """The rows of whichever of the three kinds these tensors are."""
    if "softmax/weights" in tensors:
        yield from _of_graph(shapes)
        return
    nvidia = any(name.startswith("layers.") for name in tensors)
    for path in shapes:
        module, _, part = path.rpartition("/")
        if part != "kernel" or module == "fc":
            continue
        if nvidia:
            theirs = f"layers.{_of_tensorflow(module)}"
            names: dict[str, str | None] = {"bias": "beta", "mean": "mean", "var": "var", "scale": None}
            yield Row(f"{theirs}.weight", path, "conv")
        else:
            theirs = module.replace("/", ".")
            names = {"scale": "bn.weight", "bias": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
            yield Row(f"{theirs}.conv.weight", path, "conv")
        for ours, name in names.items():
            yield Row(name and f"{theirs}.{name}", f"{module}/{ours}")
    last = "output" if nvidia else "fc"
    yield Row(f"{last}.weight", "fc/kernel", "dense")
    yield Row(f"{last}.bias", "fc_bias")


def _of_graph(shapes: Shapes) -> Iterator[Row]:
    """The rows of TensorFlow's graph, whose arrays are laid out as ours."""
    names = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
    for path in shapes:
        module, _, part = path.rpartition("/")
        if part == "kernel" and module != "fc":
            theirs = re.sub("(tower|tower_1|tower_2|mixed)_(?=mixed|conv)", r"\1/", _of_tensorflow(module))
            theirs = theirs.replace(".", "/")
            yield Row(f"{theirs}/conv2d_params", path)
            for ours, name in names.items():
                yield Row(f"{theirs}/batchnorm/{name}", f"{module}/{ours}")
    yield Row("softmax/weights", "fc/kernel")
    yield Row("softmax/biases", "fc_bias")


def _of_tensorflow(module: str) -> str:
    """Mixed_5c/branch1x1 -> mixed_1.conv"""
    block, _, branch = module.partition("/")
    if not branch:
        return STEM[block]
    letter = block.removeprefix("Mixed_")
    index = BLOCKS.index(letter)
    return f"mixed{f'_{index}' if index else ''}.{BRANCHES[letter][branch]}"

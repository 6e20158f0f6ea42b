"""LPIPS from two files: torchvision's VGG16 or AlexNet, and the linear heads that come with the package lpips."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from jdiff.common.errors import UserError
from jdiff.interop.features.files import Source
from jdiff.interop.features.rows import Row, layer
from jdiff.interop.tensors import Tensors

Tower = Literal["vgg", "alex"]

_TORCHVISION = "https://download.pytorch.org/models/"
_HEADS = "the package lpips (pip download --no-deps lpips; a wheel is a zip): lpips/weights/v0.1/"
TOWERS: dict[Tower, Source] = {
    "vgg": Source("LPIPS's VGG16", "vgg16-397923af.pth", f"{_TORCHVISION}vgg16-397923af.pth", "397923af"),
    "alex": Source(
        "LPIPS's AlexNet", "alexnet-owt-7be5be79.pth", f"{_TORCHVISION}alexnet-owt-7be5be79.pth", "7be5be79"
    ),
}
HEADS: dict[Tower, Source] = {
    "vgg": Source(
        "LPIPS's heads for VGG16",
        "vgg.pth",
        f"{_HEADS}vgg.pth",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
    "alex": Source(
        "LPIPS's heads for AlexNet",
        "alex.pth",
        f"{_HEADS}alex.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
}
IGNORED = ("classifier.",)  # the tower's last layers, of 1,000 classes
# Our convolutions -> their places in torchvision's `features`.
PLACES: dict[Tower, dict[str, int]] = {
    "vgg": {
        **{"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12, "conv3_3": 14},
        **{"conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 24, "conv5_2": 26, "conv5_3": 28},
    },
    "alex": {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10},
}


def source(path: str | Path, known: Mapping[Tower, Source]) -> Source:
    """The published file of this name; else VGG16's, which most take."""
    return next((one for one in known.values() if one.file == Path(path).name), known["vgg"])


def tower_of(tensors: Tensors, path: str | Path) -> Tower:
    """Whose convolutions these are. Raises UserError where they are of neither."""
    for tower, places in PLACES.items():
        if all(f"features.{place}.weight" in tensors for place in places.values()):
            return tower
    raise UserError(
        f"{path} holds neither VGG16 nor AlexNet with torchvision's names of tensors, which are all that LPIPS takes "
        f"here; {TOWERS['vgg'].hint}"
    )


def tower_rows(tower: Tower) -> Iterator[Row]:
    """torchvision's convolutions."""
    for ours, place in PLACES[tower].items():
        yield from layer(f"features.{place}", f"tower/{ours}", "conv")


def head_rows() -> Iterator[Row]:
    """The weights of the five layers' channels."""
    for index in range(5):
        yield Row(f"lin{index}.model.1.weight", f"weight_{index}", "conv_1x1")

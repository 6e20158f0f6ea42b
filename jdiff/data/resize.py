"""Rules that bring pictures of any size to height x width, the same geometry for all pictures of a record.

    rule          what is kept of an h x w picture                    how it is scaled
    centre        the largest central box of the wanted aspect        bicubic
    adm           the central height x width pixels of the picture    halved by a box filter while twice the wanted
                  scaled to just cover them (Dhariwal & Nichol 2021,  size or more, then bicubic
                  arXiv 2105.05233, their published code)
    random_crop   as adm, but scaled to cover a size drawn between    as adm
                  the wanted one and 1/0.8 of it; where the pixels
                  are taken is drawn as well (the same code)
    pad           all of it, in the middle, the rest filled           bicubic
    squash        all of it, its aspect given up                      bicubic

Bicubic is Pillow's: Keys' kernel with a = -1/2, widened where it shrinks, so antialiased. Small pictures are enlarged.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from jaxtyping import Num, Shaped
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.channels import by_channel

Rule = Literal["centre", "adm", "random_crop", "pad", "squash"]
Pictures = dict[str, np.ndarray]
Size = tuple[int, int]
Box = tuple[float, float, float, float]  # top, left, bottom, right

LEAST_SHARE = 0.8  # of the shorter side, that a random crop keeps
LONGEST = 16  # times its width (or height) that a picture may be long; adm and random_crop scale it whole
BOX, BICUBIC = Image.Resampling.BOX, Image.Resampling.BICUBIC


def by_no_chance(rule: Rule) -> Rule:
    """The rule for pictures that are always to be the same, as held-out ones."""
    return "adm" if rule == "random_crop" else rule


@dataclass(frozen=True)
class Resize:
    """{name: [h, w, c]} of one record -> {name: [height, width, c]}, dtypes and numbers of channels kept.

    The rule is worked out for the first picture that is no mask; the others follow it, and may be of another size if
    their aspect is the same to a pixel.

    masks: pictures scaled to the nearest pixel, so that they keep their set of values. alpha: pictures (uint8, four
    channels) whose last channel is opacity, by which Pillow weighs the colours; without it all four channels are alike.
    fill: what "pad" fills with, for a picture; 0 where it is not named.

    Raises ValueError for an unknown rule or a dtype other than uint8, uint16 and float32 (masks: any), UserError where
    the aspects differ.
    """

    rule: Rule
    height: int
    width: int
    masks: frozenset[str] = frozenset()
    alpha: frozenset[str] = frozenset()
    fill: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise ValueError(f"unknown resize rule {self.rule!r}; allowed: {', '.join(get_args(Rule))}")
        if min(self.height, self.width) < 1:
            raise ValueError(f"pictures cannot be resized to {self.height} x {self.width}")

    def __call__(self, pictures: Pictures, rng: np.random.Generator | None = None) -> Pictures:
        """rng: for "random_crop" alone."""
        if self.rule != "random_crop" and all(one.shape[:2] == (self.height, self.width) for one in pictures.values()):
            return pictures
        leader = next((name for name in pictures if name not in self.masks), next(iter(pictures)))
        size = pictures[leader].shape[:2]
        for name, picture in pictures.items():
            if not same_aspect(size, picture.shape[:2]):
                raise UserError(
                    f"{leader} and {name} of one record are {_text(size)} and {_text(picture.shape[:2])} (height x "
                    "width): they cannot show the same place; give pictures of one aspect"
                )
        pictures = self._shortened(pictures)
        size = pictures[leader].shape[:2]
        geometry = self._geometry(size, rng)
        return {name: self._applied(geometry, name, picture, size) for name, picture in pictures.items()}

    def _shortened(self, pictures: Pictures) -> Pictures:
        """Very long pictures cut to their middle, where they would be scaled whole: a strip would fill the memory."""
        if self.rule not in ("adm", "random_crop"):
            return pictures
        return {
            name: _middle(picture, LONGEST * max(self.height, self.width) / min(self.height, self.width))
            for name, picture in pictures.items()
        }

    def _geometry(self, leader: Size, rng: np.random.Generator | None) -> "_Geometry":
        """The rule, for a leading picture of that size."""
        (h, w), height, width = leader, self.height, self.width
        match self.rule:
            case "centre":
                scale = max(height / h, width / w)
                box_h, box_w = min(h, height / scale), min(w, width / scale)
                box = ((h - box_h) / 2, (w - box_w) / 2, (h + box_h) / 2, (w + box_w) / 2)
                return _Geometry(box, (height, width))
            case "pad":
                scale = min(height / h, width / w)
                size = (min(height, max(1, round(h * scale))), min(width, max(1, round(w * scale))))
                return _Geometry((0, 0, h, w), size, -((height - size[0]) // 2), -((width - size[1]) // 2))
            case "squash":
                return _Geometry((0, 0, h, w), (height, width))
        shorter = min(height, width)
        if self.rule == "random_crop":
            assert rng is not None
            drawn = int(rng.integers(shorter, math.ceil(shorter / LEAST_SHARE), endpoint=True))
        else:
            drawn = shorter
        cover = (height * drawn / shorter, width * drawn / shorter)
        h, w = [(h, w), *_halvings((h, w), cover)][-1]
        scale = max(cover[0] / h, cover[1] / w)
        size = (round(h * scale), round(w * scale))
        spare = (size[0] - height, size[1] - width)
        if rng is not None and self.rule == "random_crop":
            top, left = (int(rng.integers(pixels, endpoint=True)) for pixels in spare)
        else:
            top, left = (pixels // 2 for pixels in spare)
        return _Geometry(None, size, top, left, cover)

    def _applied(
        self, geometry: "_Geometry", name: str, picture: Shaped[np.ndarray, "h w c"], leader: Size
    ) -> Shaped[np.ndarray, "h2 w2 c"]:
        size = picture.shape[:2]
        box = geometry.box_within(size, leader)
        if name in self.masks:
            scaled = _nearest(picture, box, geometry.size)
        else:
            steps: list[Step] = []
            for half in _halvings(size, geometry.cover) if geometry.cover else []:
                steps.append((half, BOX, box))
                box = (0, 0, *half)
            scaled = _scaled(picture, [*steps, (geometry.size, BICUBIC, box)], name in self.alpha)
        return _window(scaled, geometry.top, geometry.left, (self.height, self.width), self.fill.get(name, 0))


@dataclass(frozen=True)
class _Geometry:
    """`box` of the leading picture (None: all of it) is scaled to `size`, of which the window at (top, left) is taken;
    where top or left is negative, there is room around it. cover: pictures are halved first, to no less than that.
    """

    box: Box | None
    size: Size
    top: int = 0
    left: int = 0
    cover: tuple[float, float] | None = None

    def box_within(self, size: Size, leader: Size) -> Box:
        """The box, in a picture of another size."""
        h, w = size
        if self.box is None:
            return (0, 0, h, w)
        top, left, bottom, right = self.box
        y, x = h / leader[0], w / leader[1]
        return (top * y, left * x, min(h, bottom * y), min(w, right * x))


Step = tuple[Size, Image.Resampling, Box]


def _halvings(size: Size, cover: tuple[float, float]) -> list[Size]:
    """The sizes that `size` takes when it is halved while it is at least twice `cover`."""
    sizes = []
    while size[0] >= 2 * cover[0] and size[1] >= 2 * cover[1]:
        size = (size[0] // 2, size[1] // 2)
        sizes.append(size)
    return sizes


def _scaled(picture: Num[np.ndarray, "h w c"], steps: list[Step], alpha: bool) -> Num[np.ndarray, "h2 w2 c"]:
    """`picture` through `steps`: by Pillow's own 8-bit arithmetic where it is uint8, else in float32."""
    channels = picture.shape[-1]
    if alpha and (picture.dtype != np.uint8 or channels != 4):
        raise ValueError(f"opacity needs uint8 [h, w, 4]; the picture is {picture.dtype} {list(picture.shape)}")
    if picture.dtype != np.uint8:
        return by_channel(picture, lambda channel: np.asarray(_through(Image.fromarray(channel), steps)))
    if channels == 1:
        return np.asarray(_through(Image.fromarray(picture[..., 0]), steps))[..., None]
    if channels == 3 or alpha:
        return np.asarray(_through(Image.fromarray(picture), steps))
    return np.concatenate([_scaled(picture[..., i : i + 1], steps, False) for i in range(channels)], axis=-1)


def _through(image: Image.Image, steps: list[Step]) -> Image.Image:
    for (height, width), method, (top, left, bottom, right) in steps:
        image = image.resize((width, height), method, (left, top, right, bottom))
    return image


def _nearest(picture: Shaped[np.ndarray, "h w c"], box: Box, size: Size) -> Shaped[np.ndarray, "h2 w2 c"]:
    """The pixels of `picture` on which the middles of `size` pixels over `box` lie."""
    top, left, bottom, right = box
    rows = top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]
    columns = left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]
    h, w = picture.shape[:2]
    return picture[np.minimum(rows.astype(int), h - 1)[:, None], np.minimum(columns.astype(int), w - 1)]


def _window(
    picture: Shaped[np.ndarray, "h w c"], top: int, left: int, size: Size, fill: float
) -> Shaped[np.ndarray, "h2 w2 c"]:
    if min(top, left, picture.shape[0] - size[0], picture.shape[1] - size[1]) >= 0:
        return picture[top : top + size[0], left : left + size[1]]
    filled = np.full((*size, picture.shape[-1]), fill, picture.dtype)
    filled[-top : picture.shape[0] - top, -left : picture.shape[1] - left] = picture
    return filled


def _middle(picture: Shaped[np.ndarray, "h w c"], longest: float) -> Shaped[np.ndarray, "h2 w2 c"]:
    """The middle of a picture that is longer than `longest` times its shorter side."""
    h, w = picture.shape[:2]
    most = math.ceil(longest * min(h, w))
    top, left = max(0, h - most) // 2, max(0, w - most) // 2
    return picture[top : h - top, left : w - left]


def same_aspect(a: Size, b: Size) -> bool:
    """Whether b is a at another scale, sides rounded to whole pixels."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= max(*a, *b)


def _text(size: Size) -> str:
    return f"{size[0]} x {size[1]}"

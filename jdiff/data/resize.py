"""Resizing and cropping, the same geometry for all pictures of a record."""

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

LEAST_SHARE = 0.8  # a random crop keeps at least this share of the shorter side
LONGEST = 16  # the largest ratio of sides that adm and random_crop scale; they cut longer pictures first
BOX, BICUBIC = Image.Resampling.BOX, Image.Resampling.BICUBIC


def by_no_chance(rule: Rule) -> Rule:
    """The deterministic counterpart of `rule`, for held-out pictures: adm for random_crop."""
    return "adm" if rule == "random_crop" else rule


@dataclass(frozen=True)
class Resize:
    """{name: [h, w, c]} of one record -> {name: [height, width, c]}, with dtypes and channels unchanged.

        rule          crop of an h x w picture                            scaling
        centre        the largest central box of the target's aspect      bicubic
        adm           scale until the picture just covers the target,     halve by a box filter while the picture is
                      then the central height x width pixels              at least twice as large, then bicubic
        random_crop   as adm, with the covered size uniform between       as adm
                      the target's and 1/0.8 of it, at a random place
        pad           none; the picture is centred, the rest filled       bicubic
        squash        none; the aspect changes                            bicubic

    adm and random_crop follow the published code of Dhariwal & Nichol 2021 (arXiv 2105.05233). Bicubic is Pillow's:
    Keys' kernel with a = -1/2, widened when it shrinks (antialiased). Small pictures are enlarged.

    The rule is applied to the first picture that is not a mask; the others get the same geometry, and may differ from
    it in size but not in aspect (to one pixel).

    masks: names of pictures with nearest-neighbour scaling, which keeps their set of values. alpha: names of uint8
    pictures whose fourth channel is opacity; Pillow weighs colours by it, and treats four channels alike otherwise.
    fill: name -> the value that "pad" fills with; default 0.

    Raises ValueError for an unknown rule, a side below 1 or a dtype other than uint8, uint16 and float32 (masks: any),
    and UserError if the aspects differ.
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
        """rng: needed by "random_crop" alone."""
        if self.rule != "random_crop" and all(one.shape[:2] == (self.height, self.width) for one in pictures.values()):
            return pictures
        leader = self._leader(pictures)
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

    def without_chance(self, pictures: Pictures) -> Pictures:
        """What the rule does before any chance: all of it, or, for "random_crop", the halvings that every draw begins
        with. The rule makes the same of the result as of the pictures themselves.
        """
        if self.rule != "random_crop":
            return self(pictures)
        shortened = self._shortened(pictures)
        leader = self._leader(pictures)
        if shortened[leader].shape != pictures[leader].shape:  # the rule would cut what is halved once more
            return pictures
        most = math.ceil(min(self.height, self.width) / LEAST_SHARE) / min(self.height, self.width)
        cover = (self.height * most, self.width * most)
        halvings = _halvings(pictures[leader].shape[:2], cover)
        return {name: self._halved(name, picture, halvings) for name, picture in pictures.items()}

    def _halved(self, name: str, picture: Shaped[np.ndarray, "h w c"], sizes: list[Size]) -> np.ndarray:
        """A picture of the leader's size halved with it; masks and pictures of other sizes as they are."""
        if (
            not sizes
            or name in self.masks
            or picture.shape[0] // 2 != sizes[0][0]
            or picture.shape[1] // 2 != sizes[0][1]
        ):
            return picture
        steps: list[Step] = []
        size = picture.shape[:2]
        for half in sizes:
            steps.append((half, BOX, (0, 0, *size)))
            size = half
        return _scaled(picture, steps, name in self.alpha)

    def _leader(self, pictures: Pictures) -> str:
        return next((name for name in pictures if name not in self.masks), next(iter(pictures)))

    def _shortened(self, pictures: Pictures) -> Pictures:
        """For adm and random_crop, very long pictures cut to their middle: scaled whole, a strip would fill memory."""
        if self.rule not in ("adm", "random_crop"):
            return pictures
        return {
            name: _middle(picture, LONGEST * max(self.height, self.width) / min(self.height, self.width))
            for name, picture in pictures.items()
        }

    def _geometry(self, leader: Size, rng: np.random.Generator | None) -> "_Geometry":
        """The geometry of the rule for a leading picture of size `leader`."""
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
    """Scale `box` of the leading picture (None: all of it) to `size`, then take the window at (top, left); a negative
    offset pads. cover: halve pictures first, while they stay at least that large.
    """

    box: Box | None
    size: Size
    top: int = 0
    left: int = 0
    cover: tuple[float, float] | None = None

    def box_within(self, size: Size, leader: Size) -> Box:
        """The box in the coordinates of a picture of size `size`."""
        h, w = size
        if self.box is None:
            return (0, 0, h, w)
        top, left, bottom, right = self.box
        y, x = h / leader[0], w / leader[1]
        return (top * y, left * x, min(h, bottom * y), min(w, right * x))


Step = tuple[Size, Image.Resampling, Box]


def _halvings(size: Size, cover: tuple[float, float]) -> list[Size]:
    """The successive halves of `size` while it is at least twice `cover`."""
    sizes = []
    while size[0] >= 2 * cover[0] and size[1] >= 2 * cover[1]:
        size = (size[0] // 2, size[1] // 2)
        sizes.append(size)
    return sizes


def _scaled(picture: Num[np.ndarray, "h w c"], steps: list[Step], alpha: bool) -> Num[np.ndarray, "h2 w2 c"]:
    """`picture` after each of `steps`: in Pillow's 8-bit arithmetic if it is uint8, else in float32."""
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
    """Nearest-neighbour sampling of `picture` on a grid of `size` over `box`."""
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
    """`picture`, its longer side cut to at most `longest` times the shorter, around the centre."""
    h, w = picture.shape[:2]
    most = math.ceil(longest * min(h, w))
    top, left = max(0, h - most) // 2, max(0, w - most) // 2
    return picture[top : h - top, left : w - left]


def same_aspect(a: Size, b: Size) -> bool:
    """Whether sizes a and b, (height, width), have one aspect ratio up to rounding of sides to whole pixels."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= max(*a, *b)


def _text(size: Size) -> str:
    return f"{size[0]} x {size[1]}"

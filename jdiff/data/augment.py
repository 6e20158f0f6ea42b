"""Random changes of a record's pictures, the same for all of them: flips, quarter turns, EDM's non-leaky augmentation.

Non-leaky (Karras et al. 2022, arXiv 2206.00364, appendix F.2 and table 6): what was done to the pictures is told to the
network, so that it samples what was not done to them. In coordinates from the picture's middle, x to the right and y
down, with Rot(t) = [[cos t, -sin t], [sin t, cos t]], the picture at x moves to

    x' = Rot(-a4) diag(s, 1/s) Rot(a4) . Rot(-a3) . 2^(0.2 a2) . diag(1 - 2 a0, 1 - 2 a1) x + (width a6, height a7) / 8,

s = 2^(0.2 a5). The condition's nine components are zero where nothing was done:

    0  a0             mirrored left and right: 0 or 1, evenly, always drawn
    1  a1             mirrored top and bottom: 0 or 1, evenly
    2  a2             enlarged by 2^(0.2 a2): N(0, 1)
    3  cos(a3) - 1    turned by the angle a3, counter-clockwise to the eye: uniform in [-pi, pi]
    4  sin(a3)
    5  a5 cos(a4)     stretched by 2^(0.2 a5) along the direction a4, counter-clockwise from the right, and shrunk as
    6  a5 sin(a4)     much across it: a5 from N(0, 1), a4 uniform in [-pi, pi] half of the time, else 0
    7  a6             moved right by a6 / 8 of the width: N(0, 1)
    8  a7             moved down by a7 / 8 of the height: N(0, 1)

Each of y-flip, scale, rotation, anisotropy and translation (7 and 8 together) is done with probability A_prob. That a4
is 0 half of the time is their published code's. (5 and 6 do not tell a5 along a4 from -a5 along a4 + pi, which shrinks
where the other stretches.)
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Num, Shaped
from PIL import Image
from scipy import ndimage

from jdiff.common.errors import UserError
from jdiff.data.channels import by_channel

Pictures = dict[str, np.ndarray]

CONDITION_SIZE = 9
STEP = 0.2  # log2 of the enlargement and the stretch by one standard deviation
SHIFT = 1 / 8  # of the side, by one standard deviation
SPLINE = 3  # the order of the interpolating splines
MARGIN = 3  # pixels that Lanczos' filter reaches


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Mirrors left and right, or top and bottom, each with probability 1/2; turns by 0, 1, 2 or 3 quarters, evenly.

    Pixels only change places. Raises UserError where pictures are to be turned that are not square.
    """

    horizontal: bool = False
    vertical: bool = False
    quarters: bool = False

    def __call__(self, pictures: Pictures, rng: np.random.Generator) -> Pictures:
        if self.horizontal and rng.random() < 0.5:
            pictures = {name: picture[:, ::-1] for name, picture in pictures.items()}
        if self.vertical and rng.random() < 0.5:
            pictures = {name: picture[::-1] for name, picture in pictures.items()}
        if self.quarters:
            for name, (height, width, *_) in ((name, picture.shape) for name, picture in pictures.items()):
                if height != width:
                    raise UserError(f"{name} is {height} x {width}: only square pictures can be turned by quarters")
            turns = int(rng.integers(4))
            pictures = {name: np.rot90(picture, turns) for name, picture in pictures.items()}
        return pictures


@dataclass(frozen=True)
class Motion:
    """One draw of table 6: a0 .. a7 by name. The default does nothing."""

    x_flip: int = 0
    y_flip: int = 0
    scale: float = 0.0
    angle: float = 0.0
    direction: float = 0.0
    stretch: float = 0.0
    right: float = 0.0
    down: float = 0.0

    @property
    def condition(self) -> Float32[np.ndarray, "9"]:
        """What the network is told."""
        along = (self.stretch * math.cos(self.direction), self.stretch * math.sin(self.direction))
        turned = (math.cos(self.angle) - 1, math.sin(self.angle))
        return np.array([self.x_flip, self.y_flip, self.scale, *turned, *along, self.right, self.down], np.float32)

    @property
    def only_flips(self) -> bool:
        return not (self.scale or self.angle or self.stretch or self.right or self.down)

    def inverse(self, height: int, width: int) -> tuple[Float[np.ndarray, "2 2"], Float[np.ndarray, "2"]]:
        """(M, t): from (row, column) in the moved picture to M (row, column) + t before it, flips left out."""
        stretch = 2 ** (STEP * self.stretch)
        squeeze = _rotation(-self.direction) @ np.diag([1 / stretch, stretch]) @ _rotation(self.direction)
        matrix = 2 ** (-STEP * self.scale) * _rotation(self.angle) @ squeeze
        matrix = matrix[::-1, ::-1]  # from (x, y) to (row, column)
        middle = np.array([height - 1, width - 1]) / 2
        moved = SHIFT * np.array([height * self.down, width * self.right])
        return matrix, middle - matrix @ (middle + moved)


@dataclass(frozen=True)
class NonLeaky:
    """pictures [h, w, c] -> (moved pictures, condition float32 [9]): see above.

    probability: A_prob; EDM has 0.12 for CIFAR-10 and 0.15 for FFHQ and AFHQ. 0: nothing is done, mirroring included.
    masks: pictures moved to the nearest pixel, so that they keep their set of values.

    Pictures not moved, and those only mirrored, are exact. Others are interpolated by cubic splines and continued by
    reflection; where a motion shrinks, at twice as many points a side, which Lanczos' filter brings back.
    """

    probability: float
    masks: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"the probability of augmentation is {self.probability}; it must be in [0, 1]")

    def __call__(self, pictures: Pictures, rng: np.random.Generator) -> tuple[Pictures, Float32[np.ndarray, "9"]]:
        motion = self.draw(rng)
        return moved(pictures, motion, self.masks), motion.condition

    def draw(self, rng: np.random.Generator) -> Motion:
        """Takes as many numbers from rng whatever it draws."""
        x_flip, y_flip = rng.integers(2, size=2)
        scale, stretch, right, down = rng.standard_normal(4)
        angle, direction = rng.uniform(-math.pi, math.pi, 2)
        y_flips, scales, rotates, stretches, shifts = rng.random(5) < self.probability
        slants = rng.random() < 0.5
        return Motion(
            x_flip=int(x_flip * (self.probability > 0)),
            y_flip=int(y_flip * y_flips),
            scale=float(scale * scales),
            angle=float(angle * rotates),
            direction=float(direction * stretches * slants),
            stretch=float(stretch * stretches),
            right=float(right * shifts),
            down=float(down * shifts),
        )


def moved(pictures: Pictures, motion: Motion, masks: frozenset[str] = frozenset()) -> Pictures:
    """`pictures` [h, w, c] under one motion; of several sizes, each in its own pixels."""
    if motion.x_flip:
        pictures = {name: picture[:, ::-1] for name, picture in pictures.items()}
    if motion.y_flip:
        pictures = {name: picture[::-1] for name, picture in pictures.items()}
    if motion.only_flips:
        return pictures
    return {
        name: _nearest(picture, motion) if name in masks else _interpolated(picture, motion)
        for name, picture in pictures.items()
    }


def _nearest(picture: Shaped[np.ndarray, "h w c"], motion: Motion) -> Shaped[np.ndarray, "h w c"]:
    matrix, offset = motion.inverse(*picture.shape[:2])
    channels = [_affine(channel, matrix, offset, order=0) for channel in np.moveaxis(picture, -1, 0)]
    return np.stack(channels, axis=-1)


def _interpolated(picture: Num[np.ndarray, "h w c"], motion: Motion) -> Num[np.ndarray, "h w c"]:
    height, width = picture.shape[:2]
    matrix, offset = motion.inverse(height, width)
    if np.linalg.norm(matrix, 2) <= 1 + 1e-9:
        return by_channel(picture, lambda channel: _affine(channel, matrix, offset, order=SPLINE))
    # Point j of the fine grid lies at j / 2 - 1/4 - MARGIN of the coarse one.
    fine = (2 * (height + 2 * MARGIN), 2 * (width + 2 * MARGIN))
    offset = offset - matrix @ np.full(2, 0.25 + MARGIN)
    box = (2 * MARGIN, 2 * MARGIN, 2 * (MARGIN + width), 2 * (MARGIN + height))

    def shrunk(channel: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
        points = Image.fromarray(_affine(channel, matrix / 2, offset, order=SPLINE, shape=fine))
        return np.asarray(points.resize((width, height), Image.Resampling.LANCZOS, box))

    return by_channel(picture, shrunk)


def _affine(
    channel: Shaped[np.ndarray, "h w"],
    matrix: Float[np.ndarray, "2 2"],
    offset: Float[np.ndarray, "2"],
    *,
    order: int,
    shape: tuple[int, int] | None = None,
) -> Shaped[np.ndarray, "h2 w2"]:
    """out[i] = channel[matrix i + offset], continued by reflection about the outermost pixels."""
    return ndimage.affine_transform(channel, matrix, offset, shape, order=order, mode="mirror")


def _rotation(angle: float) -> Float[np.ndarray, "2 2"]:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

"""Masks: pictures of class numbers, or of 0 and 255, not of brightness. Their values are never interpolated."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.sources import Picture

MOST_CLASSES = 200  # a picture with more distinct values is taken for a photo
BINARY = (0, 255)
MOSTLY = 0.9  # a mask with at least this share of 0 and 255 is binary, and its other values are strays
NEAR = 32  # values this close to 0 or 255 count as such in a mask that a lossy format has blurred


def to_mask(image: Image.Image) -> UInt8[np.ndarray, "h w 1"]:
    """A Pillow image -> its values, unscaled. A palette image gives its indices, but black and white palettes and 1-bit
    images give 0 and 255; RGB needs equal channels; 16-bit values must be below 256, or 0 and 65535 (-> 255).

    Raises ValueError if the values cannot be class numbers.
    """
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") and np.ptp(np.asarray(image)[..., -1]):
        raise ValueError("it is partly transparent, and a mask cannot be")
    if image.mode == "1" or (image.mode == "P" and _black_and_white(image)):
        image = image.convert("L")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    values = np.asarray(image)
    if image.mode.startswith(("I", "F")):
        values = _eight_bit(values)
    if image.mode.startswith("RGB") and (values[..., :1] != values[..., 1:3]).any():
        raise ValueError(
            "its colours are not class numbers: save it as a grey or palette PNG, or leave its name out of data.masks "
            "to read it as a picture"
        )
    return values.reshape(*values.shape[:2], -1)[..., :1].astype(np.uint8)


def to_mask_values(values: Num[np.ndarray, "h w 1"]) -> UInt8[np.ndarray, "h w 1"]:
    """The class numbers of a medical mask, whole numbers from 0 to 255. Raises ValueError for others."""
    return _eight_bit(values)


def _black_and_white(image: Image.Image) -> bool:
    palette = image.getpalette("RGB") or [0, 1, 2]
    entries = set(zip(*[iter(palette)] * 3, strict=True))
    return entries <= {(0, 0, 0), (255, 255, 255)}


def _eight_bit(values: np.ndarray) -> np.ndarray:
    """uint8 from whole numbers 0 .. 255, or from 0 and 65535, which become 0 and 255."""
    present = np.unique(values)
    strange = present[~np.isin(present, np.arange(256))]
    if len(strange):
        if not np.isin(present, (0, 65535)).all():
            raise ValueError(f"it holds {strange[0]:g}, and a mask holds whole numbers from 0 to 255")
        values = values // 257
    return values.astype(np.uint8)


@dataclass(frozen=True)
class MaskSummary:
    """The set of one mask's values, and whether it is a binary mask of 0 and 255 (None: all 0, so undecided)."""

    values: frozenset[int]
    binary: bool | None

    @classmethod
    def of(cls, mask: UInt8[np.ndarray, "h w 1"]) -> "MaskSummary":
        """The summary of `mask`."""
        counts = np.bincount(mask.ravel(), minlength=256)
        white, known = counts[255], counts[0] + counts[255]
        if np.count_nonzero(counts[-NEAR:-1]) > 1:  # class numbers start at 0, so not just below 255
            white, known = counts[-NEAR:].sum(), counts[:NEAR].sum() + counts[-NEAR:].sum()
        empty = counts[0] == mask.size
        return cls(
            frozenset(np.flatnonzero(counts).tolist()), None if empty else bool(white and known >= MOSTLY * mask.size)
        )

    @classmethod
    def union(cls, masks: Sequence["MaskSummary"]) -> "MaskSummary":
        """The summary of several masks of one image: their values, and what most of them that are not empty are."""
        votes = [one.binary for one in masks if one.binary is not None]
        values = frozenset().union(*(one.values for one in masks))
        return cls(values, sum(votes) * 2 >= len(votes) if votes else None)


@dataclass(frozen=True)
class MaskValues:
    """The values that a data set's masks may hold, rising; (): not known yet (see `fitted`).

    snap: calling it replaces other values of a mask by the nearest of these; else it returns the mask unchanged.
    Raises UserError for a single value or one outside 0 .. 255.
    """

    values: tuple[int, ...]
    snap: bool = False

    def __post_init__(self) -> None:
        if self.values and (len(set(self.values)) < 2 or not set(self.values) <= set(range(256))):
            raise UserError(f"data.mask_values={self.values}: at least two whole numbers from 0 to 255")

    @property
    def high(self) -> float:
        """The value that maps to 1; 0 maps to -1."""
        return float(max(self.values) or 255)

    def picture(self, height: int | None, width: int | None, channels: int = 1) -> Picture:
        """The description of masks of this height and width (None: they vary), with a channel a rater."""
        return Picture((height, width, channels), kind="mask", high=self.high, values=self.values)

    def check(
        self, name: str, masks: Mapping[int, MaskSummary], file: Callable[[int], str]
    ) -> tuple[dict[int, str], list[str]]:
        """({i: the fault of mask i}, notes on all masks); `name` is the field, file(i) names mask i in a message."""
        strays = {i: sorted(seen.values - set(self.values)) for i, seen in masks.items()}
        strays = {i: values for i, values in strays.items() if values}
        notes = [f"{name} holds the classes {_listed(self.values)}"] if self.values != BINARY else []
        if self.snap:
            if strays:
                notes.append(
                    f"stray values of {len(strays)} masks became the nearest allowed (first: {file(min(strays))})"
                )
            return {}, notes
        faults = {
            i: f"{file(i)} holds {_listed(values)} where masks hold {_listed(self.values)} (data.mask_snap=True takes "
            "the nearest, data.mask_values sets the allowed values)"
            for i, values in strays.items()
        }
        return faults, notes

    def __call__(self, mask: UInt8[np.ndarray, "h w 1"]) -> UInt8[np.ndarray, "h w 1"]:
        return self._nearest[mask] if self.snap else mask

    @cached_property
    def _nearest(self) -> UInt8[np.ndarray, "256"]:
        allowed = np.array(self.values)
        return allowed[np.abs(np.arange(256)[:, None] - allowed).argmin(1)].astype(np.uint8)


def values_of(masks: Iterable[MaskSummary], where: str) -> tuple[int, ...]:
    """The values of a data set's masks: (0, 255) if most non-empty masks are binary, else all values, as classes.

    where: names the data in messages. Raises UserError for more than MOST_CLASSES classes.
    """
    masks = list(masks)
    votes = [seen.binary for seen in masks if seen.binary is not None]
    found = sorted(frozenset().union(*(seen.values for seen in masks)))
    if not votes or sum(votes) * 2 > len(votes) or set(found) <= set(BINARY):
        return BINARY
    if len(found) > MOST_CLASSES:
        raise UserError(
            f"the masks in {where} hold {len(found)} different values, too many for classes: are they photos? Leave "
            "their name out of data.masks to read them as pictures, or list the values in data.mask_values"
        )
    return tuple(found) if len(found) > 1 else (0, *found)


def fitted(masks: Mapping[str, MaskValues], seen: Sequence[Sequence[MaskSummary]], where: str) -> dict[str, MaskValues]:
    """`masks` with the values fitted to `seen`: for each record, one summary per mask, in the order of `masks`."""
    return {
        name: replace(allowed, values=values_of((each[k] for each in seen), where))
        for k, (name, allowed) in enumerate(masks.items())
    }


def checked(
    masks: Mapping[str, MaskValues], seen: Mapping[int, Sequence[MaskSummary]], file: Callable[[str, int], str]
) -> tuple[dict[int, str], list[str]]:
    """MaskValues.check for all masks of records i (summaries in the order of `masks`); file(name, i) names a mask."""
    faults: dict[int, str] = {}
    notes: list[str] = []
    for k, (name, allowed) in enumerate(masks.items()):
        strays, said = allowed.check(name, {i: each[k] for i, each in seen.items()}, partial(file, name))
        faults |= strays
        notes += said
    return faults, notes


def _listed(values: Iterable[int]) -> str:
    shown = [str(value) for value in values]
    return ", ".join(shown[:8] + ["..."] * (len(shown) > 8))

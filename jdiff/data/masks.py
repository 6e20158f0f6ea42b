"""Masks: pictures whose values are numbers of classes, or 0 and 255, and no brightness. They are never mixed or scaled.

An image file's values are kept: a palette gives its indices, except one of black and white alone, which is 0 and 255
like one bit a pixel. Colour files are masks where their channels are equal, 16-bit ones where they hold no more than
8 bits (65535 is 255).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jdiff.common.errors import UserError

MOST_CLASSES = 200  # more different values are a photo's, not a mask's
BINARY = (0, 255)
MOSTLY = 0.9  # of a mask's pixels: if so many are 0 or 255, the others are strays
NEAR = 32  # of 0 or 255, where a lossy format has blurred these


def to_mask(image: Image.Image) -> UInt8[np.ndarray, "h w 1"]:
    """Raises ValueError where the image's values cannot be numbers of classes."""
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") and np.ptp(np.asarray(image)[..., -1]):
        raise ValueError("it is partly transparent, which no mask can be")
    if image.mode == "1" or (image.mode == "P" and _black_and_white(image)):
        image = image.convert("L")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    values = np.asarray(image)
    if image.mode.startswith(("I", "F")):
        values = _eight_bit(values)
    if image.mode.startswith("RGB") and (values[..., :1] != values[..., 1:3]).any():
        raise ValueError(
            "its colours are no numbers of classes: save it as a grey or palette PNG, or read it as a picture, by a "
            "name that data.masks does not hold"
        )
    return values.reshape(*values.shape[:2], -1)[..., :1].astype(np.uint8)


def _black_and_white(image: Image.Image) -> bool:
    palette = image.getpalette("RGB") or [0, 1, 2]
    entries = set(zip(*[iter(palette)] * 3, strict=True))
    return entries <= {(0, 0, 0), (255, 255, 255)}


def _eight_bit(values: np.ndarray) -> np.ndarray:
    """Integers and floats that fit, as they are, and 0 and 65535 as 0 and 255."""
    present = np.unique(values)
    strange = present[~np.isin(present, np.arange(256))]
    if len(strange):
        if not np.isin(present, (0, 65535)).all():
            raise ValueError(f"it holds {strange[0]:g}, and a mask whole numbers from 0 to 255")
        values = values // 257
    return values.astype(np.uint8)


@dataclass(frozen=True)
class Seen:
    """What one mask holds: its values, and whether it looks like one of 0 and 255 (None: it cannot be told)."""

    values: frozenset[int]
    binary: bool | None

    @classmethod
    def of(cls, mask: UInt8[np.ndarray, "h w 1"]) -> "Seen":
        counts = np.bincount(mask.ravel(), minlength=256)
        white, known = counts[255], counts[0] + counts[255]
        if np.count_nonzero(counts[-NEAR:-1]) > 1:  # numbers of classes begin at 0; no two of them lie below 255
            white, known = counts[-NEAR:].sum(), counts[:NEAR].sum() + counts[-NEAR:].sum()
        empty = counts[0] == mask.size
        return cls(
            frozenset(np.flatnonzero(counts).tolist()), None if empty else bool(white and known >= MOSTLY * mask.size)
        )


@dataclass(frozen=True)
class MaskValues:
    """The values that the masks of a data set may hold, rising. snap: others become the nearest of them."""

    values: tuple[int, ...]
    snap: bool = False

    def __post_init__(self) -> None:
        if self.values and (len(set(self.values)) < 2 or not set(self.values) <= set(range(256))):
            raise UserError(f"data.mask_values={self.values}: at least two whole numbers from 0 to 255")

    @property
    def high(self) -> float:
        """The value that becomes 1, as 0 becomes -1."""
        return float(max(self.values) or 255)

    def judge(
        self, name: str, masks: Mapping[int, Seen], file: Callable[[int], str]
    ) -> tuple[dict[int, str], list[str]]:
        """(i -> what is wrong with mask i's values, what to tell of all); file(i) is what mask i is called."""
        strays = {i: sorted(seen.values - set(self.values)) for i, seen in masks.items()}
        strays = {i: values for i, values in strays.items() if values}
        notes = [f"{name} holds the classes {_listed(self.values)}"] if self.values != BINARY else []
        if self.snap:
            if strays:
                notes.append(f"{len(strays)} masks' strays became the nearest allowed (first: {file(min(strays))})")
            return {}, notes
        faults = {
            i: f"{file(i)} holds {_listed(values)} where masks hold {_listed(self.values)} (data.mask_snap=True takes "
            "the nearest, data.mask_values names what is allowed)"
            for i, values in strays.items()
        }
        return faults, notes

    def __call__(self, mask: UInt8[np.ndarray, "h w 1"]) -> UInt8[np.ndarray, "h w 1"]:
        return self._nearest[mask] if self.snap else mask

    @cached_property
    def _nearest(self) -> UInt8[np.ndarray, "256"]:
        allowed = np.array(self.values)
        return allowed[np.abs(np.arange(256)[:, None] - allowed).argmin(1)].astype(np.uint8)


def values_of(masks: Iterable[Seen], where: str) -> tuple[int, ...]:
    """The values that a data set's masks hold: 0 and 255 where most masks that are not empty hold 255 and at least 90 %
    of each is one of the two; else all that occur, which are classes. Raises UserError where those are too many.
    """
    masks = list(masks)
    votes = [seen.binary for seen in masks if seen.binary is not None]
    found = sorted(frozenset().union(*(seen.values for seen in masks)))
    if not votes or sum(votes) * 2 > len(votes) or set(found) <= set(BINARY):
        return BINARY
    if len(found) > MOST_CLASSES:
        raise UserError(
            f"the masks in {where} hold {len(found)} different values, which are no classes: are they photos? Read "
            "them as pictures, by a name that data.masks does not hold, or name the values in data.mask_values"
        )
    return tuple(found) if len(found) > 1 else (0, *found)


def settled(masks: Mapping[str, MaskValues], seen: Sequence[Sequence[Seen]], where: str) -> dict[str, MaskValues]:
    """`masks` with the values that were seen, of each record as many as there are masks, in their order."""
    return {
        name: replace(allowed, values=values_of((each[k] for each in seen), where))
        for k, (name, allowed) in enumerate(masks.items())
    }


def judged(
    masks: Mapping[str, MaskValues], seen: Mapping[int, Sequence[Seen]], file: Callable[[str, int], str]
) -> tuple[dict[int, str], list[str]]:
    """As MaskValues.judge, of all masks of the records i; file(name, i) is what mask `name` of record i is called."""
    faults: dict[int, str] = {}
    notes: list[str] = []
    for k, (name, allowed) in enumerate(masks.items()):
        strays, said = allowed.judge(name, {i: each[k] for i, each in seen.items()}, partial(file, name))
        faults |= strays
        notes += said
    return faults, notes


def _listed(values: Iterable[int]) -> str:
    shown = [str(value) for value in values]
    return ", ".join(shown[:8] + ["..."] * (len(shown) > 8))

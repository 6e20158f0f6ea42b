"""Images without colour among coloured ones."""

from collections.abc import Iterator
from os.path import dirname
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from jdiff.common.words import share
from jdiff.doctor import thresholds as th
from jdiff.doctor.findings import MOST_SUSPECTS, Finding
from jdiff.doctor.scan import Scan

HELD_OUT_IMAGES = "the held-out images"


class Group(NamedTuple):
    """Images of one class, folder, size or split, and which share of them, and of the others, is grey."""

    name: str
    members: Bool[np.ndarray, " n"]
    share: float
    of_rest: float


def without_colour(scan: Scan) -> Bool[np.ndarray, " n"]:
    """Which images are grey though they have three channels: the mean of max - min over channels is below GREY."""
    return np.ptp(scan.colour(np.arange(len(scan.held_out))), axis=-1).mean(axis=(1, 2)) < th.GREY


def colours(scan: Scan) -> list[Finding]:
    """Finding "grey_class": a group that is grey while the others are coloured, or coloured while they are grey; none
    of data without colour.
    """
    if scan.image.thumb.shape[-1] != 3:
        return []
    grey, readable = without_colour(scan), scan.readable
    every = [
        Group(name, members, float(grey[members].mean()), float(grey[readable & ~members].mean()))
        for name, members in groups(scan)
    ]
    found = [one for one in every if one.share >= th.MOST_GREY and one.of_rest <= th.FEW_GREY]
    found = found or [one for one in every if one.share <= th.FEW_GREY and one.of_rest >= th.MOST_GREY]
    if not found:
        return [Finding("grey_class", "fine", "no class is grey while the others are coloured")]
    says = [f"{share(one.share)} of {one.name} are grey, and {share(one.of_rest)} of the others" for one in found]
    do = f"{_learns(found)}: take images of one kind, or data.channels=1 for all"
    each = [(f"of {one.name}", np.flatnonzero(one.members)[: MOST_SUSPECTS // len(found)]) for one in found]
    shown = tuple(suspect for why, rows in each for suspect in scan.suspects(rows, why))
    return [Finding("grey_class", "look", "; ".join(says), do, sum(int(one.members.sum()) for one in found), shown)]


def groups(scan: Scan) -> Iterator[tuple[str, Bool[np.ndarray, " n"]]]:
    """Readable images that may have been made in another way than the rest: the held-out ones, and of the others a
    class, a folder or a size. One at a time: of a thousand classes all at once take gigabytes.
    """
    train, held_out = scan.readable & ~scan.held_out, scan.readable & scan.held_out
    rows = range(len(scan.held_out))
    kind, own = ("class", scan.class_of) if scan.one_class else ("folder", lambda row: dirname(scan.place(row).name))
    sizes = [f"{h} x {w}" for h, w in zip(scan.image.rows.height, scan.image.rows.width, strict=True)]
    for what, values in ((kind, list(map(own, rows))), ("size", sizes)):
        names, group = np.unique(values, return_inverse=True)
        counts = np.bincount(group[train], minlength=len(names))
        for at in np.argsort(-counts)[: th.MOST_GROUPS]:
            if names[at] and th.GROUP_FEWEST <= counts[at] < train.sum():
                yield f"{what} {names[at]}", train & (group == at)
    if held_out.sum() >= th.GROUP_FEWEST:
        yield HELD_OUT_IMAGES, held_out


def _learns(found: list[Group]) -> str:
    """What comes of such groups."""
    if all(one.name.startswith("class ") for one in found):
        return "the model will learn the class by its lack of colour"
    if any(one.name == HELD_OUT_IMAGES for one in found):
        return "the held-out loss will not tell how well the model does"
    return "the model will draw both kinds"

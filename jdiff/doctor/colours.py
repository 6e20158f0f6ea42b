"""Colours that are not what they should be: a class without them, and red and blue exchanged (BGR read as RGB).

Let h(u, v) be how often pixels of the data have u = red - green and v = blue - green, counted apart for four levels of
brightness and four heights in the image (skies are blue, bright and above). An image looks exchanged where its pixels
are likelier with u and v exchanged, sum log h(v, u) / h(u, v) > 0. In data whose colours have a direction (skin, grass,
sky) few images do; a group of which most do is suspicious, and no more: ships on the sea are.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jdiff.doctor import thresholds as th
from jdiff.doctor.findings import MOST_SUSPECTS, Finding
from jdiff.doctor.scan import Scan
from jdiff.doctor.words import share

HELD_OUT_IMAGES = "the held-out images"


@dataclass(frozen=True)
class Group:
    """Images of one class, folder, size or split. share, of_rest: of its images, and of the others, that are as the
    check says.
    """

    name: str
    members: Bool[np.ndarray, " n"]
    share: float
    of_rest: float


def groups(scan: Scan) -> Iterator[tuple[str, Bool[np.ndarray, " n"]]]:
    """Readable images that may have been made in another way than the rest: the held-out ones, and of the others a
    class, a folder or a size. One at a time: of a thousand classes all at once take gigabytes.
    """
    readable, train = scan.readable, scan.readable & ~scan.held_out
    for name, members in _kinds(scan):
        own = members & train
        if th.GROUP_FEWEST <= own.sum() < readable.sum() and not np.array_equal(own, train):
            yield name, own
    held_out = readable & scan.held_out
    if th.GROUP_FEWEST <= held_out.sum() < readable.sum():
        yield HELD_OUT_IMAGES, held_out


def _kinds(scan: Scan) -> Iterator[tuple[str, Bool[np.ndarray, " n"]]]:
    for label, name in enumerate(scan.one_class):
        yield f"class {name}", scan.labels[:, 0] == label
    folders = [] if scan.one_class else [scan.place(row).folder for row in range(len(scan.held_out))]
    sizes = [f"{h} x {w}" for h, w in zip(scan.image.rows.height, scan.image.rows.width, strict=True)]
    for kind, values in (("folder", folders), ("size", sizes)):
        array = np.asarray(values)
        common = Counter(array[scan.readable].tolist() if values else ()).most_common(th.MOST_GROUPS)
        for value, _ in common if len(common) > 1 else ():
            yield f"{kind} {value}", array == value


def without_colour(scan: Scan) -> Bool[np.ndarray, " n"]:
    """Which images are grey though they have three channels: the mean of max - min over channels is below GREY."""
    return np.ptp(scan.colour(np.arange(len(scan.held_out))), axis=-1).mean(axis=(1, 2)) < th.GREY


def colours(scan: Scan) -> list[Finding]:
    """Findings "grey_class" and "swapped"; none of data without colour."""
    return [_grey(scan), _exchanged(scan)] if scan.coloured else []


def _grey(scan: Scan) -> Finding:
    """Groups that are grey while the others are coloured, or coloured while the others are grey."""
    grey, readable = without_colour(scan), scan.readable
    every = [
        Group(name, members, float(grey[members].mean()), float(grey[readable & ~members].mean()))
        for name, members in groups(scan)
    ]
    found = [one for one in every if one.share >= th.MOST_GREY and one.of_rest <= th.FEW_GREY]
    found = found or [one for one in every if one.share <= th.FEW_GREY and one.of_rest >= th.MOST_GREY]
    if all(group.name.startswith("class ") for group in found):
        learns = "the model will learn the class by its lack of colour"
    elif any(group.name == HELD_OUT_IMAGES for group in found):
        learns = "the held-out loss will not tell how well the model does"
    else:
        learns = "the model will draw both kinds"
    says = [f"{share(one.share)} of {one.name} are grey, and {share(one.of_rest)} of the others" for one in found]
    do = f"{learns}: take images of one kind, or data.channels=1 for all"
    fine = "no class is grey while the others are coloured"
    return _finding(scan, "grey_class", found, fine, "; ".join(says), do)


def _exchanged(scan: Scan) -> Finding:
    found = _exchanged_groups(scan)
    says = "; ".join(
        f"red and blue seem exchanged in {group.name}: {share(group.share)} of its images, and "
        f"{share(group.of_rest)} of the others, have colours that are likelier the other way round"
        for group in found
    )
    if any(group.name == HELD_OUT_IMAGES for group in found):
        says += "; or in the training images: it is one of the two"
    elif (scan.readable & scan.held_out).any() and any(group.name.startswith("class ") for group in found):
        says += " (or in the held-out ones of the class)"
    do = "look at them: a program that saves BGR as RGB does this; if so exchange the channels"
    return _finding(scan, "swapped", found, "red and blue seem exchanged in no class", says, do)


def _finding(scan: Scan, code: str, found: list[Group], fine: str, says: str, do: str) -> Finding:
    if not found:
        return Finding(code, "fine", fine)
    each = [(group, np.flatnonzero(group.members)) for group in found]
    shown = (scan.suspects(rows[: MOST_SUSPECTS // len(found)], f"of {group.name}") for group, rows in each)
    return Finding(code, "look", says, do, sum(len(rows) for _, rows in each), sum(map(tuple, shown), ()))


def _exchanged_groups(scan: Scan) -> list[Group]:
    """A class with held-out images is judged by those; else by the colours of all other images, where there are so many
    classes that the others are no one class.
    """
    readable, held_out = scan.readable, scan.readable & scan.held_out
    rows = np.flatnonzero(readable)
    codes, swapped = _codes(scan.colour(rows))
    total = _histogram(codes)
    judged = {f"class {name}": held_out & (scan.labels[:, 0] == label) for label, name in enumerate(scan.one_class)}

    def part(log: Float[np.ndarray, " bins"], members: Bool[np.ndarray, " n"], most: int = len(rows)) -> float:
        """The share of these images that are likelier exchanged."""
        own = np.flatnonzero(members[rows])
        own = own[:: -(-len(own) // most)]
        return float(((log[swapped[own]] - log[codes[own]]).mean(axis=1) > 0).mean())

    found = []
    for name, members in groups(scan):
        same = judged.get(name)
        if same is not None and same.sum() >= th.GROUP_FEWEST:
            log = np.log(_histogram(codes[same[rows]]) + th.PRIOR)
            own, rest, least = part(log, members), part(log, same), th.SAME_CLASS
        elif same is not None and len(judged) < th.FEWEST_CLASSES:
            continue
        else:
            log = np.log(total - _histogram(codes[members[rows]]) + th.PRIOR)
            own, rest, least = part(log, members), part(log, readable & ~members, th.MOST_OTHERS), th.EXCHANGED
        if own - 1.5 * np.sqrt(own * (1 - own) / members.sum()) >= least and rest <= th.REST_EXCHANGED:
            found.append(Group(name, members, own, rest))
    # Where most classes differ from their held-out images, it is these that are odd.
    classes = [group for group in found if group.name in judged]
    enough = sum(1 for same in judged.values() if same.sum() >= th.GROUP_FEWEST)
    if not enough or len(classes) <= max(1, enough / 2):
        return found
    shares = (float(np.mean([getattr(group, each) for group in classes])) for each in ("share", "of_rest"))
    return [Group(HELD_OUT_IMAGES, held_out, *shares)]


def _codes(colour: Float[np.ndarray, "n k k 3"]) -> tuple[Int[np.ndarray, "n kk"], Int[np.ndarray, "n kk"]]:
    """The bin (brightness, height, u, v) of every pixel, and that with u and v exchanged; those of u and v are narrow
    where colours are weak.
    """
    uv = np.stack([colour[..., 0] - colour[..., 1], colour[..., 2] - colour[..., 1]])
    narrow = (np.sign(uv) * np.sqrt(np.abs(uv)) + 1) / 2 * th.UV_BINS
    u, v = np.floor(narrow).astype(np.int64).clip(0, th.UV_BINS - 1)
    bright = np.floor(colour.mean(axis=-1) * th.LEVELS).astype(np.int64).clip(0, th.LEVELS - 1)
    height = (np.arange(colour.shape[1]) * th.LEVELS // colour.shape[1])[:, None]
    place = (bright * th.LEVELS + height) * th.UV_BINS
    both = ((place + u) * th.UV_BINS + v, (place + v) * th.UV_BINS + u)
    return both[0].reshape(len(colour), -1), both[1].reshape(len(colour), -1)


def _histogram(codes: Int[np.ndarray, "n kk"]) -> Int[np.ndarray, " bins"]:
    return np.bincount(codes.ravel(), minlength=(th.LEVELS * th.UV_BINS) ** 2)

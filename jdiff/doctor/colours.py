"""Colours that are not what they should be: a class without them, and red and blue exchanged (BGR read as RGB).

Exchanged channels: let h(u, v) be how often pixels of the data have u = red - green and v = blue - green, counted apart
for four levels of brightness and four heights in the image (skies are blue, bright and above). An image looks exchanged
where its pixels are likelier with u and v exchanged, sum log h(v, u) / h(u, v) > 0. In data whose colours have a
direction (skin, grass, sky) few images do; a group of which most do is suspicious, and no more: ships on the sea are.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from jdiff.doctor.findings import Finding, Suspect
from jdiff.doctor.pool import Pool
from jdiff.doctor.words import MOST_SUSPECTS, listed, many, share

GREY = 0.008  # mean of max - min over channels, in [0, 1]: two of 255 levels
MOST_GREY, FEW_GREY = 0.9, 0.3  # shares of a group that is grey, and of one that is not: some photos have no colours
FEWEST = 10  # images of a group that can be judged
MOST_GROUPS = 32  # folders and sizes that are judged
OWN_EXCHANGED, REST_EXCHANGED = 0.68, 0.3  # share of a group, less its error, and share of the other images
MOST_OTHERS = 5000  # images that a group is compared with
BINS, LEVELS = 16, 4  # of u and of v; of brightness and of height
PRIOR = 0.3  # counted for every bin, seen or not
SAME_CLASS = 0.5  # share of a class, less its error, judged by its own held-out images
FEWEST_CLASSES = 4  # of fewer the others are no measure of one
FEWEST_IMAGES = 40  # among which single ones can be judged
GAIN, OF_USUAL = 1.2, 0.8  # mean log likelihood that an image gains exchanged, and as a share of what others lose
AS_USUAL = 0.35  # share of the others that are less likely than an image exchanged
UNCLEAR, MOST_UNCLEAR = 0.5, 0.12  # gain that says nothing, and the share of such images in data without a direction
MOST_EXCHANGED = 0.4  # share of the images beyond which it is not they that are odd
BLOCK = 256  # images at a time
HELD_OUT_IMAGES = "the held-out images"


def chroma(colour: Float[np.ndarray, "n k k 3"]) -> Float[np.ndarray, " n"]:
    """How coloured images are: the mean over pixels of the largest channel less the smallest, in [0, 1]."""
    return (colour.max(axis=-1) - colour.min(axis=-1)).mean(axis=(1, 2))


@dataclass(frozen=True)
class Group:
    """name: of a class or split. members: which images of the pool. share, of_rest: how many of the group and of the
    other images are as the check says. images: those of the group.
    """

    name: str
    members: Bool[np.ndarray, " n"]
    share: float
    of_rest: float

    @property
    def images(self) -> Int64[np.ndarray, " m"]:
        return np.flatnonzero(self.members)


def groups(pool: Pool) -> Iterator[tuple[str, Bool[np.ndarray, " n"]]]:
    """What may have been made in another way than the rest: the held-out images, and of the others a class, a folder or
    a size. One at a time: of a thousand classes all at once take gigabytes.
    """
    held_out = pool.held_out
    for kind, name, members in _kinds(pool):
        trained = members & ~held_out
        if FEWEST <= trained.sum() < len(pool) and not np.array_equal(trained, ~held_out):
            yield f"{kind} {name}", trained
    if FEWEST <= held_out.sum() < len(pool):
        yield HELD_OUT_IMAGES, held_out


def _kinds(pool: Pool) -> Iterator[tuple[str, str, Bool[np.ndarray, " n"]]]:
    for label, name in enumerate(pool.class_names):
        yield "class", name, pool.label == label
    for kind, values in (("folder", [] if pool.class_names else pool.folders), ("size", pool.sizes)):
        array = np.asarray(values)
        common = [value for value, _ in Counter(values).most_common(MOST_GROUPS)]
        for value in common if len(common) > 1 else ():
            yield kind, value, array == value


def without_colour(pool: Pool) -> Bool[np.ndarray, " n"]:
    """Which images are grey though they have three channels."""
    assert pool.colour is not None
    return chroma(pool.colour) < GREY


def grey_groups(pool: Pool) -> list[Group]:
    """Groups that are grey while the others are coloured, or coloured while the others are grey."""
    if pool.colour is None:
        return []
    grey = without_colour(pool)
    shares = [
        Group(name, members, float(grey[members].mean()), float(grey[~members].mean()))
        for name, members in groups(pool)
    ]
    alone = [group for group in shares if group.share >= MOST_GREY and group.of_rest <= FEW_GREY]
    return alone or [group for group in shares if group.share <= FEW_GREY and group.of_rest >= MOST_GREY]


def exchanged_groups(pool: Pool) -> list[Group]:
    """Groups whose red and blue seem exchanged. A class with held-out images is judged by those; else by the colours of
    all other images, where there are so many classes that the others are no one class.
    """
    if pool.colour is None:
        return []
    codes, exchanged = _codes(pool.colour)
    total = _histogram(codes)
    held_out = pool.held_out
    of_class = {f"class {name}": held_out & (pool.label == label) for label, name in enumerate(pool.class_names)}
    found = []
    for name, members in groups(pool):
        own_class = of_class.get(name)
        if own_class is not None and own_class.sum() >= FEWEST:
            log = np.log(_histogram(codes[own_class]) + PRIOR)
            own = _exchanged_share(log, codes, exchanged, np.flatnonzero(members))
            rest = _exchanged_share(log, codes, exchanged, np.flatnonzero(own_class))
            least = SAME_CLASS
        elif own_class is not None and len(of_class) < FEWEST_CLASSES:
            continue
        else:
            log = np.log(total - _histogram(codes[members]) + PRIOR)
            others = np.flatnonzero(~members)
            others = others[:: -(-len(others) // MOST_OTHERS)]
            own = _exchanged_share(log, codes, exchanged, np.flatnonzero(members))
            rest = _exchanged_share(log, codes, exchanged, others)
            least = OWN_EXCHANGED
        surely = own - 1.5 * np.sqrt(own * (1 - own) / members.sum())
        if surely >= least and rest <= REST_EXCHANGED:
            found.append(Group(name, members, own, rest))
    return _once(pool, found, sum(1 for members in of_class.values() if members.sum() >= FEWEST))


def _exchanged_share(
    log: Float[np.ndarray, " bins"],
    codes: Int64[np.ndarray, "n kk"],
    exchanged: Int64[np.ndarray, "n kk"],
    rows: Int64[np.ndarray, " m"],
) -> float:
    """The share of these images that are likelier with red and blue exchanged."""
    return float(((log[exchanged[rows]] - log[codes[rows]]).mean(axis=1) > 0).mean())


def _once(pool: Pool, found: list[Group], judged: int) -> list[Group]:
    """Where most classes of those judged by their held-out images differ from these, the held-out images alone."""
    classes = [group for group in found if group.name.startswith("class ")]
    if not judged or len(classes) <= max(1, judged / 2):
        return found
    shares = (float(np.mean([group.share for group in classes])), float(np.mean([group.of_rest for group in classes])))
    return [Group(HELD_OUT_IMAGES, pool.held_out, *shares)]


def exchanged_images(pool: Pool) -> list[int]:
    """Images whose red and blue seem exchanged, likeliest first: exchanged they are far likelier, judged by the others,
    and as usual as most others are. None of data whose colours have no clear direction, as of many kinds of things.
    """
    if pool.colour is None or len(pool) < FEWEST_IMAGES:
        return []
    rows = np.flatnonzero(~without_colour(pool))
    if len(rows) < FEWEST_IMAGES:
        return []
    codes, exchanged = _codes(pool.colour[rows])
    total = _histogram(codes)
    own, other = (np.empty(len(rows)) for _ in range(2))
    for first in range(0, len(rows), BLOCK):
        block = slice(first, first + BLOCK)
        for seen, into in ((codes[block], own), (exchanged[block], other)):
            itself = (seen[:, :, None] == codes[block][:, None]).sum(axis=-1)
            into[block] = np.log(total[seen] - itself + PRIOR).mean(axis=1)
    gain = other - own
    usual = np.searchsorted(np.sort(own), other) / len(own)
    if (np.abs(gain) < UNCLEAR).mean() > MOST_UNCLEAR:
        return []
    found = (gain > GAIN) & (gain > OF_USUAL * -np.median(gain)) & (usual > AS_USUAL)
    if found.mean() > MOST_EXCHANGED:
        return []
    return rows[np.flatnonzero(found)[np.argsort(-gain[found])]].tolist()


def _codes(colour: Float[np.ndarray, "n k k 3"]) -> tuple[Int64[np.ndarray, "n kk"], Int64[np.ndarray, "n kk"]]:
    """The bin (brightness, height, u, v) of every pixel, and that with u and v exchanged; those of u and v are narrow
    where colours are weak.
    """
    uv = np.stack([colour[..., 0] - colour[..., 1], colour[..., 2] - colour[..., 1]])
    u, v = np.floor((np.sign(uv) * np.sqrt(np.abs(uv)) + 1) / 2 * BINS).astype(np.int64).clip(0, BINS - 1)
    bright = np.floor(colour.mean(axis=-1) * LEVELS).astype(np.int64).clip(0, LEVELS - 1)
    side = colour.shape[1]
    place = bright * LEVELS + (np.arange(side) * LEVELS // side)[:, None]
    both = ((place * BINS + u) * BINS + v, (place * BINS + v) * BINS + u)
    return both[0].reshape(len(colour), -1), both[1].reshape(len(colour), -1)


def _histogram(codes: Int64[np.ndarray, "n kk"]) -> Int64[np.ndarray, " bins"]:
    return np.bincount(codes.ravel(), minlength=LEVELS * LEVELS * BINS * BINS)


def colours(pool: Pool) -> list[Finding]:
    """Findings "grey_class" and "swapped"; none of data without colour."""
    if pool.colour is None:
        return []
    exchanged = exchanged_groups(pool)
    single = [] if exchanged else exchanged_images(pool)
    swapped = _exchanged_images(pool, single) if single else _exchanged(pool, exchanged)
    return [_grey(pool, grey_groups(pool)), swapped]


def _grey(pool: Pool, found: list[Group]) -> Finding:
    code = "grey_class"
    if not found:
        return Finding(code, "fine", "no class is grey while the others are coloured")
    says = "; ".join(
        f"{share(group.share)} of {group.name} are grey, and {share(group.of_rest)} of the others" for group in found
    )
    return Finding(
        code,
        "look",
        says,
        f"{_learns(found)}: take images of one kind, or data.channels=1 for all",
        sum(len(group.images) for group in found),
        _shown(pool, found),
    )


def _learns(found: list[Group]) -> str:
    if all(group.name.startswith("class ") for group in found):
        return "the model will learn the class by its lack of colour"
    if any(group.name == HELD_OUT_IMAGES for group in found):
        return "the held-out loss will not tell how well the model does"
    return "the model will draw both kinds"


def _exchanged_images(pool: Pool, found: list[int]) -> Finding:
    shown = tuple(Suspect((pool.place(image),), "colours look exchanged") for image in found[:MOST_SUSPECTS])
    return Finding(
        "swapped",
        "look",
        f"the colours of {many(len(found), 'image')} look exchanged (BGR for RGB), judged by the others: "
        f"{listed([str(one.places[0]) for one in shown])}",
        "look at them; if so exchange the channels",
        len(found),
        shown,
    )


def _exchanged(pool: Pool, found: list[Group]) -> Finding:
    code = "swapped"
    if not found:
        return Finding(code, "fine", "red and blue seem exchanged in no class and no image")
    says = "; ".join(
        f"red and blue seem exchanged in {group.name}: {share(group.share)} of its images, and "
        f"{share(group.of_rest)} of the others, have colours that are likelier the other way round"
        for group in found
    )
    if any(group.name == HELD_OUT_IMAGES for group in found):
        says += "; or in the training images: it is one of the two"
    elif pool.held_out.any() and any(group.name.startswith("class ") for group in found):
        says += " (or in the held-out ones of the class)"
    return Finding(
        code,
        "look",
        says,
        "look at them: a program that saves BGR as RGB does this; if so exchange the channels",
        sum(len(group.images) for group in found),
        _shown(pool, found),
    )


def _shown(pool: Pool, found: list[Group]) -> tuple[Suspect, ...]:
    return tuple(
        Suspect((pool.place(image),), f"of {group.name}")
        for group in found
        for image in group.images[: MOST_SUSPECTS // len(found)].tolist()
    )

"""Copies in words: images that are there twice, and held-out images that are also trained on."""

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from jdiff.doctor.copies import NearPair
from jdiff.doctor.findings import Finding, Place, Suspect
from jdiff.doctor.pool import Pool
from jdiff.doctor.words import MOST_SUSPECTS, listed, many, share

FEW_REPEATS = 0.05  # share of records whose image is there with other masks, that seems meant
MOST_PLAIN = 0.2  # share of images in which hardly anything is seen, beyond which that is the data's way


def copies(pool: Pool, exact: Sequence[Sequence[int]], near: Sequence[NearPair]) -> list[Finding]:
    """Findings "duplicates" and "near_duplicates" within a split, "repeats" where images are there with several masks,
    and with held-out images "leak" and "near_leak".
    """
    held_out = pool.held_out
    groups = [_of_split(group, held_out, split) for group in exact for split in (False, True)]
    repeats = [group for group in groups if len({pool.partners(image) for image in group}) > 1]
    if sum(map(len, repeats)) > FEW_REPEATS * len(pool):
        groups = [part for group in groups for part in _of_one_partner(pool, group)]
    else:
        repeats = []
    duplicates = [group for group in groups if len(group) > 1]
    across = [group for group in exact if len({bool(held_out[image]) for image in group}) == 2]
    within = [pair for pair in near if held_out[pair.one] == held_out[pair.other]]
    leaks = [pair for pair in near if held_out[pair.one] != held_out[pair.other]]
    found = [_duplicates(pool, duplicates), _near(pool, within)]
    if repeats:
        found.append(_repeats(pool, repeats))
    if held_out.any():
        found += [_leak(pool, across), _near_leak(pool, leaks)]
    return found


def plain(pool: Pool, known: Collection[Place]) -> Finding | None:
    """Images in which hardly anything can be seen, which are compared with no others. None where there are none of
    which nothing has been said, or so many that it is the data's way.
    """
    found = [image for image in np.flatnonzero(pool.plain).tolist() if pool.place(image) not in known]
    if not found or len(found) > MOST_PLAIN * len(pool):
        return None
    shown = tuple(Suspect((pool.place(image),), "hardly anything to see") for image in found[:MOST_SUSPECTS])
    return Finding(
        "plain",
        "look",
        f"{many(len(found), 'image')} with hardly anything to see: {listed([str(one.places[0]) for one in shown])}",
        "look whether they belong here; they were not searched for copies saved again",
        len(found),
        shown,
    )


def _of_split(group: Sequence[int], held_out: np.ndarray, split: bool) -> list[int]:
    return [image for image in group if bool(held_out[image]) == split]


def _of_one_partner(pool: Pool, group: Sequence[int]) -> list[list[int]]:
    """The records that are equal in all of their pictures: an image that several people outlined is no copy."""
    parts: dict[bytes, list[int]] = defaultdict(list)
    for image in group:
        parts[pool.partners(image)].append(image)
    return list(parts.values())


def _repeats(pool: Pool, groups: Sequence[Sequence[int]]) -> Finding:
    """The same image with other masks, all over the data."""
    count = sum(map(len, groups))
    return Finding(
        "repeats",
        "fine",
        f"{many(count, 'record')} ({share(count / len(pool))}) hold {many(len(groups), 'image')} with several masks; "
        "so many seem to be meant",
    )


def _duplicates(pool: Pool, groups: Sequence[Sequence[int]]) -> Finding:
    code = "duplicates"
    if not groups:
        return Finding(code, "fine", "no image is there twice")
    groups = sorted(groups, key=lambda group: (not _torn(pool, group), -len(group)))
    count = sum(len(group) - 1 for group in groups)
    shown = [Suspect(tuple(pool.place(image) for image in group), _same(pool, group)) for group in groups]
    torn = sum(_torn(pool, group) for group in groups)
    also = f"; {many(torn, 'image')} under several classes" if torn else ""
    return Finding(
        code,
        "look",
        f"{many(count, 'exact copy', 'exact copies')} of other images ({share(count / len(pool))}){also}: "
        f"{listed([_names(one) for one in shown], 2)}",
        "remove the copies: what is there often is learnt by heart",
        count,
        tuple(shown[:MOST_SUSPECTS]),
    )


def _torn(pool: Pool, group: Sequence[int]) -> bool:
    """Whether the same image is of several classes."""
    return len({pool.class_of(image) for image in group}) > 1


def _same(pool: Pool, group: Sequence[int]) -> str:
    classes = sorted({pool.class_of(image) for image in group})
    return f"the same image, in the classes {', '.join(classes)}" if len(classes) > 1 else "the same image"


def _near(pool: Pool, pairs: Sequence[NearPair]) -> Finding:
    code = "near_duplicates"
    if not pairs:
        return Finding(code, "fine", "no two images are nearly the same")
    shown = [_pair(pool, pair) for pair in pairs]
    return Finding(
        code,
        "look",
        f"{many(len(pairs), 'pair')} of images {'is' if len(pairs) == 1 else 'are'} nearly the same: "
        f"{listed([_names(one) for one in shown], 2)}",
        "look whether they are copies saved again, and remove those",
        len(pairs),
        tuple(shown[:MOST_SUSPECTS]),
    )


def _leak(pool: Pool, groups: Sequence[Sequence[int]]) -> Finding:
    code = "leak"
    held_out = pool.held_out
    if not groups:
        return Finding(code, "fine", "no held-out image is among the training images")
    count = sum(int(held_out[list(group)].sum()) for group in groups)
    shown = [Suspect(tuple(pool.place(image) for image in group), _both_sides(pool, group)) for group in groups]
    torn = sum(_torn(pool, group) for group in groups)
    also = f", {many(torn, 'image')} under another class" if torn else ""
    return Finding(
        code,
        "look",
        f"{many(count, 'held-out image')} ({share(count / held_out.sum())}) {'is' if count == 1 else 'are'} also "
        f"trained on{also}: {listed([_names(one) for one in shown], 2)}",
        "remove them from one side; until then the held-out loss looks better than it is",
        count,
        tuple(shown[:MOST_SUSPECTS]),
    )


def _both_sides(pool: Pool, group: Sequence[int]) -> str:
    """Which classes the image is of on each side, where they differ."""
    held_out = pool.held_out
    sides = [sorted({pool.class_of(image) for image in group if held_out[image] == side}) for side in (False, True)]
    if sides[0] == sides[1]:
        return "trained on and held out"
    return f"trained on as {', '.join(sides[0])}, held out as {', '.join(sides[1])}"


def _near_leak(pool: Pool, pairs: Sequence[NearPair]) -> Finding:
    code = "near_leak"
    if not pairs:
        return Finding(code, "fine", "no held-out image is nearly one of the training images")
    shown = [_pair(pool, pair) for pair in pairs]
    count = len({image for pair in pairs for image in (pair.one, pair.other) if pool.held_out[image]})
    return Finding(
        code,
        "look",
        f"{many(count, 'held-out image')} nearly the same as training images, in {many(len(pairs), 'pair')}: "
        f"{listed([_names(one) for one in shown], 2)}",
        "look whether they are copies saved again or taken of the same thing; keep such on one side",
        count,
        tuple(shown[:MOST_SUSPECTS]),
    )


def _pair(pool: Pool, pair: NearPair) -> Suspect:
    how = {"": "nearly the same", "mirrored": "mirror images of each other"}.get(
        pair.way, f"one is the other {pair.way}"
    )
    classes = sorted({pool.class_of(image) for image in (pair.one, pair.other)})
    how += f", in the classes {' and '.join(classes)}" if len(classes) > 1 else ""
    return Suspect((pool.place(pair.one), pool.place(pair.other)), f"{how} (correlation {pair.correlation:.4f})")


def _names(suspect: Suspect) -> str:
    return " = ".join(str(place) for place in suspect.places[:3])

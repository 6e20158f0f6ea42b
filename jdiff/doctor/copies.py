"""Images beside one another: copies, held-out images that are trained on, outliers.

Let x be the grey thumbnail (16 x 16) less its mean, over its norm. Two images are near copies (saved again, resized,
made brighter, mirrored, turned) where |x - y| = sqrt(2 - 2 correlation) is small, also beside the distances that are
usual in these data. Candidates come from a k-d tree over the first principal components of x, which lose no pair: an
orthogonal projection lengthens no distance.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from scipy.spatial import cKDTree
from sklearn import config_context
from sklearn.neighbors import NearestNeighbors

from jdiff.common.words import many, share
from jdiff.doctor import thresholds as th
from jdiff.doctor.findings import Finding, Place, Suspect, judge
from jdiff.doctor.scan import Scan

TURNS = {
    "": (0, False),
    "mirrored": (0, True),
    "upside down": (2, True),
    "turned": (1, False),
    "turned by 180 degrees": (2, False),
}  # quarter turns, and whether left and right are exchanged after; three quarters are one of the other image
HOW = {"": "nearly the same", "mirrored": "mirror images of each other"}


class NearPair(NamedTuple):
    """Rows `one` < `other`, the correlation of their thumbnails, and how one is turned to be the other (of TURNS)."""

    one: int
    other: int
    correlation: float
    way: str


def exact(scan: Scan) -> list[list[int]]:
    """Groups of images that are equal to the bit."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in np.flatnonzero(scan.readable).tolist():
        groups[scan.image.rows.digest[row].tobytes()].append(row)
    return [group for group in groups.values() if len(group) > 1]


def near(scan: Scan, exact: Sequence[Sequence[int]]) -> list[NearPair]:
    """Pairs of near copies, nearest first. Of exact copies the first alone is compared."""
    chosen = scan.readable & ~scan.plain
    chosen[[row for group in exact for row in group[1:]]] = False
    rows = np.flatnonzero(chosen)
    if len(rows) < 2:
        return []
    grey, colour = scan.grey(rows), scan.colour(rows)
    units = directions(grey)
    limit = tolerance(units)
    axes = np.linalg.eigh(units.T @ units)[1][:, -th.NEAR_AXES :].astype(np.float32)
    tree = cKDTree(units @ axes)
    found: dict[tuple[int, int], NearPair] = {}
    for way in list(TURNS)[: len(TURNS) if len(rows) <= th.MOST_TURNED else 2]:
        turned = directions(turn(grey, way))
        reach = min(th.NEAR_NEIGHBOURS + 1, len(rows))
        _, others = tree.query(turned @ axes, k=reach, distance_upper_bound=limit * 1.001)
        ones, ranks = np.nonzero((others < len(rows)) & (others != np.arange(len(rows))[:, None]))
        twos = others[ones, ranks]
        apart = np.linalg.norm(turned[ones] - units[twos], axis=1)
        in_colour = np.linalg.norm(directions(turn(colour[ones], way)) - directions(colour[twos]), axis=1)
        close = (apart <= limit) & (in_colour <= th.NEAR_COLOUR * limit)
        for one, two, distance in zip(rows[ones[close]], rows[twos[close]], apart[close], strict=True):
            pair = (int(min(one, two)), int(max(one, two)))
            found.setdefault(pair, NearPair(*pair, float(1 - distance**2 / 2), way))
    return sorted(found.values(), key=lambda pair: -pair.correlation)


def directions(thumbnails: Float32[np.ndarray, "n ..."]) -> Float32[np.ndarray, "n d"]:
    """Rows less their means, over their norms."""
    flat = thumbnails.reshape(len(thumbnails), int(np.prod(thumbnails.shape[1:])))
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def turn(images: Float32[np.ndarray, "n k k ..."], way: str) -> Float32[np.ndarray, "n k k ..."]:
    quarters, mirrored = TURNS[way]
    turned = np.rot90(images, quarters, axes=(1, 2))
    return turned[:, :, ::-1] if mirrored else turned


def tolerance(rows: Float32[np.ndarray, "n d"]) -> float:
    """The distance within which two of these rows are near copies."""
    references = rows[np.random.default_rng(0).permutation(len(rows))[: th.NEAR_REFERENCES]]
    rank = min(th.NEAR_RANK, len(references) - 1)  # rank 0 is the image itself
    search = NearestNeighbors(n_neighbors=rank + 1, algorithm="brute").fit(references)
    distances, _ = search.kneighbors(references[: th.NEAR_SAMPLE])
    return min(th.NEAR, th.NEAR_OF_USUAL * float(np.median(distances[:, rank])))


def copies(scan: Scan, exact: Sequence[Sequence[int]], near: Sequence[NearPair]) -> list[Finding]:
    """Findings "duplicates" and "near_duplicates" within a split; with held-out images "leak" and "near_leak"."""
    within = [pair for pair in near if scan.held_out[pair.one] == scan.held_out[pair.other]]
    says = f"{many(len(within), 'pair')} of images {'is' if len(within) == 1 else 'are'} nearly the same"
    do, fine = "look whether they are copies saved again, and remove those", "no two images are nearly the same"
    shown = [_near(scan, pair) for pair in within]
    found = [_duplicates(scan, exact), judge("near_duplicates", shown, fine, "look", says, do)]
    return found + (_leaks(scan, exact, near) if (scan.held_out & scan.readable).any() else [])


def _duplicates(scan: Scan, exact: Sequence[Sequence[int]]) -> Finding:
    """Images that are there twice in a split. Where many are there with several masks, as of several annotators, those
    with the same masks.
    """
    groups = [[row for row in group if scan.held_out[row] == split] for group in exact for split in (False, True)]
    several, count = [one for one in groups if len(_of_one_partner(scan, one)) > 1], int(scan.readable.sum())
    fine = "no image is there twice"
    if sum(map(len, several)) > th.FEW_REPEATS * count:
        groups = [part for group in groups for part in _of_one_partner(scan, group)]
        fine += f" with the same masks, and {many(len(several), 'image')} with several; so many seem to be meant"
    groups = sorted((one for one in groups if len(one) > 1), key=lambda one: (len(_classes(scan, one)) < 2, -len(one)))
    double = sum(len(group) - 1 for group in groups)
    says = f"{many(double, 'exact copy', 'exact copies')} of other images ({share(double / count)})"
    torn = sum(len(_classes(scan, group)) > 1 for group in groups)
    says += f"; {many(torn, 'image')} under several classes" if torn else ""
    do = "remove the copies: what is there often is learnt by heart"
    shown = [_suspect(scan, group, "the same image", ", ") for group in groups]
    return judge("duplicates", shown, fine, "look", says, do, count=double)


def _leaks(scan: Scan, exact: Sequence[Sequence[int]], near: Sequence[NearPair]) -> list[Finding]:
    held_out, of, shown, torn = scan.held_out, int((scan.held_out & scan.readable).sum()), [], 0
    groups = [group for group in exact if len(set(held_out[group].tolist())) == 2]
    for group in groups:
        one, other = (_classes(scan, [row for row in group if held_out[row] == side]) for side in (False, True))
        differ = f"trained on as {', '.join(one)}, held out as {', '.join(other)}"
        shown.append(Suspect(tuple(map(scan.place, group)), "trained on and held out" if one == other else differ))
        torn += one != other
    count = sum(int(held_out[group].sum()) for group in groups)
    says = f"{many(count, 'held-out image')} ({share(count / of)}) {'is' if count == 1 else 'are'} also trained on"
    says += f", {many(torn, 'image')} under another class" if torn else ""
    fine = "no held-out image is among the training images"
    do = "remove them from one side; until then the held-out loss looks better than it is"
    leak = judge("leak", shown, fine, "look", says, do, count=count)

    pairs = [pair for pair in near if held_out[pair.one] != held_out[pair.other]]
    count = len({row for pair in pairs for row in pair[:2] if held_out[row]})
    says = f"{many(count, 'held-out image')} nearly the same as training images, in {many(len(pairs), 'pair')}"
    fine = "no held-out image is nearly one of the training images"
    do = "look whether they are copies saved again or taken of the same thing; keep such on one side"
    shown = [_near(scan, pair) for pair in pairs]
    return [leak, judge("near_leak", shown, fine, "look", says, do, count=count)]


def _of_one_partner(scan: Scan, group: Sequence[int]) -> list[list[int]]:
    """The records that are equal in all of their pictures: an image that several people outlined is no copy."""
    parts: dict[bytes, list[int]] = defaultdict(list)
    for row in group:
        parts[b"".join(kept.rows.digest[row].tobytes() for kept in scan.partners.values())].append(row)
    return list(parts.values())


def _classes(scan: Scan, group: Sequence[int]) -> list[str]:
    return sorted({scan.class_of(row) for row in group})


def _suspect(scan: Scan, group: Sequence[int], why: str, between: str) -> Suspect:
    classes = _classes(scan, group)
    why += f", in the classes {between.join(classes)}" if len(classes) > 1 else ""
    return Suspect(tuple(map(scan.place, group)), why)


def _near(scan: Scan, pair: NearPair) -> Suspect:
    found = _suspect(scan, pair[:2], HOW.get(pair.way, f"one is the other {pair.way}"), " and ")
    return Suspect(found.places, f"{found.why} (correlation {pair.correlation:.4f})")


def times_as_far(scan: Scan) -> dict[int, float]:
    """Row -> distance to its FAR_RANK-th nearest other thumbnail, in units of the median, farthest first; {} of too few
    images, and where most are copies of others.
    """
    rows = np.flatnonzero(scan.readable)
    if len(rows) < th.FAR_FEWEST:
        return {}
    features = scan.colour(rows).reshape(len(rows), -1)
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[: th.FAR_REFERENCES])
    search = NearestNeighbors(n_neighbors=th.FAR_RANK + 1, algorithm="brute").fit(features[chosen])
    with config_context(working_memory=64):  # MiB
        distances, _ = search.kneighbors(features)
    far = np.where(np.isin(np.arange(len(rows)), chosen), distances[:, -1], distances[:, -2])  # itself is the nearest
    usual = float(np.median(far))
    times = np.maximum(far, 1e-6) / max(usual, th.EQUAL)
    return {int(rows[at]): float(times[at]) for at in np.argsort(-times)} if usual > th.EQUAL else {}


def outliers(scan: Scan, times: dict[int, float], known: Collection[Place]) -> Finding:
    """Finding "outliers": log distances beyond the median by FAR_BEYOND times 1.48 the median absolute one. known:
    places of which something worse has been said.
    """
    log = np.log(list(times.values()))
    limit = th.FAR_BEYOND * 1.4826 * float(np.median(np.abs(log)))
    far = [row for row, value in zip(times, log, strict=True) if value > limit and len(log) >= th.FAR_JUDGED]
    rows = [row for row in far if scan.place(row) not in known]
    shown = scan.suspects(rows, lambda row: as_far(times[row]))
    says, do = f"{many(len(rows), 'image')} far from the rest", "look whether they belong here"
    return judge("outliers", shown, "no image is far from the rest", "look", says, do)


def as_far(times: float) -> str:
    return f"{times:.1f} times as far as usual"

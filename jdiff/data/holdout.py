"""Which records are held out: a fixed random share of data without a test split, of each class alike and in whole
groups; and what a split must not do, which is to have one group on both sides.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from jdiff.common.errors import UserError
from jdiff.common.words import many, one_line

SEED = 0
FEWEST_TO_SHARE = 20  # no record is held out of fewer
DRAWS = 100  # orders of the groups that are tried, where they are stratified
MOST_VALUES = 0.5  # of a column that is stratified by: its values to the images


def share_of(
    count: int,
    split: str,
    holdout: float,
    *,
    classes: Sequence[Hashable] = (),
    groups: Sequence[Hashable] = (),
) -> list[int]:
    """The sorted indices of `split` in data without a test split: round(holdout * count) of them are "test" (none if
    count < 20), the others "train".

    classes: a class for each record; each gives its share, to the rounding (stratified). groups: a group for each
    record (a patient, a sequence); a group is held out as a whole, in a random order, while that brings the counts
    nearer to the share, and one at least; with classes, the counts are of each class, and the best of DRAWS orders is
    taken.
    """
    wanted = round(holdout * count) if count >= FEWEST_TO_SHARE else 0
    rng = np.random.default_rng(SEED)
    if groups:
        chosen = _of_groups(groups, classes, wanted, rng)
    elif classes:
        chosen = _of_classes(classes, wanted, rng)
    else:
        chosen = set(rng.permutation(count)[:wanted].tolist())
    return sorted(chosen) if split == "test" else [i for i in range(count) if i not in chosen]


def kept_share(
    names: Sequence[str], split: str, kept: Mapping[str, str], groups: Sequence[Hashable] = ()
) -> list[int] | None:
    """As share_of, by the sides that `kept` tells of earlier names: a new one is held out where others of its group
    are, and trained on else. None where fewer than half of the earlier names are there: these are other data.
    """
    here = sum(name in kept for name in names)
    if not kept or 2 * here < len(kept):
        return None
    apart = {group for name, group in zip(names, groups, strict=bool(groups)) if kept.get(name) == "test"}
    sides = [
        kept.get(name) or ("test" if groups and groups[row] in apart else "train") for row, name in enumerate(names)
    ]
    return [row for row, side in enumerate(sides) if side == split]


def check_groups(train: Mapping[str, str], test: Mapping[str, str]) -> None:
    """Raises UserError where a group of the files `train`, file -> group, is one of `test` too."""
    first = {group: name for name, group in reversed(list(train.items()))}
    if both := [(first[group], name, group) for name, group in test.items() if group in first]:
        one, other, group = both[0]
        count = len({group for *_, group in both})
        raise UserError(
            f"data.group: {one_line(group)} is on both sides of the split: {one_line(one)} is trained on and "
            f"{one_line(other)} held out ({many(count, 'group')} in all): put each group on one side, or leave "
            "data.group out"
        )


def check_values(values: Sequence[Hashable], key: str) -> None:
    """Raises UserError where a column has too many values for each to have its share held out."""
    if len(values) >= FEWEST_TO_SHARE and len(set(values)) > MOST_VALUES * len(values):
        raise UserError(
            f"{key} has {len(set(values)):,} values in {many(len(values), 'image')}, too many for each to give its "
            "share: name a column of few values, or leave data.stratify out"
        )


def _members(names: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    members: dict[Hashable, list[int]] = {}
    for i, name in enumerate(names):
        members.setdefault(name, []).append(i)
    return members


def _of_classes(classes: Sequence[Hashable], wanted: int, rng: np.random.Generator) -> set[int]:
    """The `wanted` records that come first when each class is spread evenly over [0, 1) in a random order."""
    place = np.empty(len(classes))
    for own in _members(classes).values():
        place[own] = (rng.permutation(len(own)) + rng.random()) / len(own)
    return set(np.argsort(place, kind="stable")[:wanted].tolist())


def _of_groups(
    groups: Sequence[Hashable], classes: Sequence[Hashable], wanted: int, rng: np.random.Generator
) -> set[int]:
    """Whole groups: the distance of counts h to those wanted, t, is sum_c (h_c - t_c)^2 / t_c over classes c."""
    members = list(_members(groups).values())
    if not wanted or len(members) == 1:
        return set()
    kinds = list(_members(classes or [0] * len(groups)).values())
    counts = np.zeros((len(members), len(kinds)))
    of_row = np.empty(len(groups), np.int64)
    for kind, rows in enumerate(kinds):
        of_row[rows] = kind
    for group, rows in enumerate(members):
        counts[group] = np.bincount(of_row[rows], minlength=len(kinds))
    target = counts.sum(0) * wanted / len(groups)

    def distance(held: np.ndarray) -> float:
        return float(((held - target) ** 2 / target).sum())

    best, least = [], np.inf
    for _ in range(DRAWS if classes else 1):
        chosen: list[int] = []
        held = np.zeros(len(kinds))
        for group in rng.permutation(len(members)).tolist():
            if not chosen or distance(held + counts[group]) < distance(held):
                chosen.append(group)
                held += counts[group]
        if len(chosen) < len(members) and distance(held) < least:
            best, least = chosen, distance(held)
    return {row for group in best for row in members[group]}

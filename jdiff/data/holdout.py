"""Which records of data without a test split are held out: a fixed random share of them."""

from collections.abc import Hashable, Sequence

import numpy as np

SEED = 0
FEWEST_TO_SHARE = 20  # no record is held out of fewer


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
    record (a patient, a sequence); a group is held out as a whole, in a random order, while that brings the count
    nearer to the share, and one at least.
    """
    wanted = round(holdout * count) if count >= FEWEST_TO_SHARE else 0
    rng = np.random.default_rng(SEED)
    if groups:
        chosen = _of_groups(groups, wanted, rng)
    elif classes:
        chosen = _of_classes(classes, wanted, rng)
    else:
        chosen = set(rng.permutation(count)[:wanted].tolist())
    return sorted(chosen) if split == "test" else [i for i in range(count) if i not in chosen]


def _of_classes(classes: Sequence[Hashable], wanted: int, rng: np.random.Generator) -> set[int]:
    """The `wanted` records that come first when each class is spread evenly over [0, 1) in a random order."""
    members: dict[Hashable, list[int]] = {}
    for i, name in enumerate(classes):
        members.setdefault(name, []).append(i)
    place = np.empty(len(classes))
    for own in members.values():
        place[own] = (rng.permutation(len(own)) + rng.random()) / len(own)
    return set(np.argsort(place, kind="stable")[:wanted].tolist())


def _of_groups(groups: Sequence[Hashable], wanted: int, rng: np.random.Generator) -> set[int]:
    members: dict[Hashable, list[int]] = {}
    for i, name in enumerate(groups):
        members.setdefault(name, []).append(i)
    order = [list(members.values())[k] for k in rng.permutation(len(members))]
    chosen: set[int] = set()
    for own in order if wanted and len(members) > 1 else ():
        if not chosen or abs(len(chosen) + len(own) - wanted) < abs(len(chosen) - wanted):
            chosen |= set(own)
    return chosen if len(chosen) < len(groups) else set()

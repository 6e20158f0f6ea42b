"""The two sides of data without a test split: by a published list, as an earlier start of the run had them, or by a
share.
"""

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType

from jdiff.data import split_lists
from jdiff.data.holdout import check_groups, check_values, kept_share, share_of
from jdiff.data.split_lists import Sides

CLASSES = "class"  # of data.stratify
NONE_KEPT: Mapping[str, str] = MappingProxyType({})


def sides_of(
    names: Sequence[str],
    holdout: float,
    strata: Sequence[Hashable] = (),
    groups: Sequence[Hashable] = (),
    split_list: str = "",
    splits: Sequence[str] = (),
    kept: Mapping[str, str] = NONE_KEPT,
    stratify: str = "",
) -> Sides:
    """The rows of `names` that are trained on and held out. strata, groups: of each, or of none. kept: an earlier
    start's "train" or "test" of names. stratify: the column, or "class", that strata are of.
    """
    if split_list:
        sides = split_lists.sides_of(names, split_list, splits)
        if groups:
            own = [{names[row]: str(groups[row]) for row in rows} for rows in (sides.train, sides.test)]
            check_groups(*own)
        return Sides(sides.train, sides.test, sides.told, (*sides.notes, *unused(stratify, split_list)))
    if stratify:
        check_values(strata, f"data.stratify={stratify!r}")
    rows = [kept_share(names, split, kept, groups) for split in ("train", "test")]
    if rows[0] is None or rows[1] is None:
        rows = [share_of(len(names), split, holdout, classes=strata, groups=groups) for split in ("train", "test")]
    train, test = rows[0] or [], rows[1] or []
    return Sides(train, test, f"{len(test):,} of them{', whole groups' * bool(groups)}" if test else "")


def unused(stratify: str, held_out: str) -> tuple[str, ...]:
    """A note that data.stratify draws nothing, where the data or a list say what is held out."""
    return (f"data.stratify={stratify!r} is not used: held out is what {held_out} says",) if stratify else ()


def no_classes(where: str) -> str:
    """What to say where data that are stratified by class have none."""
    return f"data.stratify={CLASSES!r}: {where} has no classes, or several an image: name a column, or leave it out"


def two_splits(split_list: str, folder: str) -> str:
    """What to say where both a list and a folder say what is held out."""
    return (
        f"data.split_list={split_list!r}: the data have a split of their own, {folder}/, too: name one folder of "
        "images as data.dir, or leave the list out"
    )

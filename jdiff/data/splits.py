"""Which of a data set's named splits is trained on and which is held out: one rule for all that have such names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jdiff.common.errors import UserError
from jdiff.common.names import nearest
from jdiff.common.words import one_line
from jdiff.data.layout import TRAIN_NAMES, split_kind, splits_among
from jdiff.data.parts import read_as


@dataclass(frozen=True)
class Chosen:
    """train: the split that is trained on. test: the one held out; "": a share of train is. unused: the others, with
    why in parentheses where a split would have been held out. only: train is the only split, by any name.
    """

    train: str
    test: str = ""
    unused: tuple[str, ...] = ()
    only: bool = False

    def told(self, where: str, count: int, what: str, held: str) -> str:
        """How the data set was read, in one line.

        where: its name. count: images of the split that is trained on. what: their classes and captions. held: how many
        of them are held out, where no split is.
        """
        split = f"{self.train}{', the only split' * self.only}: {count:,} images, {what}"
        return read_as(where, split, self.test or held, self.unused)


def choose(
    names: Sequence[str],
    wanted: Sequence[str],
    where: str,
    why_not: Callable[[str, str], str],
    key: str = "data.splits",
) -> Chosen:
    """The splits among `names`: those `wanted` (of training, held out), in any case; else train, and the first of test,
    testing, val, valid and validation that suits. A single split is trained on, whatever its name.

    why_not(train, name): what keeps a split from being held out, as "no captions"; "" if nothing does. Raises UserError
    for names that are not there or do not suit, and where none is of training.
    """
    given = f"{key}={tuple(wanted)}"
    there = ", ".join(map(one_line, names))
    if len(wanted) > 2 or len({name.lower() for name in wanted}) < len(wanted):
        raise UserError(f"{given}: one name, of the training split, or two, of it and of the one held out")
    known = {name.lower(): name for name in names}
    for name in wanted:
        if name not in names and name.lower() not in known:
            raise UserError(f"{given}: {where} has no split {name!r}; it has {there}{nearest(name, names)}")
    found = [name if name in names else known[name.lower()] for name in wanted]
    only = len(names) == 1
    if found:
        train, tests, beside = found[0], found[1:], [name for name in names if name not in found]
    elif only:
        train, tests, beside = names[0], [], []
    else:
        among = splits_among(names, {name for name in names if split_kind(name) in TRAIN_NAMES})
        if not among.train:
            raise UserError(
                f"{where} has no split 'train'; it has {there}: name the one to train on, as in "
                f"--config.{key}=\"('{names[0]}',)\""
            )
        train, tests, beside = among.train, list(among.tests), list(among.beside)
    test, unused = "", []
    for name in tests:
        why = "" if test else why_not(train, name)
        if not (test or why):
            test = name
        elif found:
            raise UserError(f"{given}: {name} has {why}; leave it out, and a share of {train} is held out")
        else:
            unused.append(f"{name} ({why})" if why else name)
    return Chosen(train, test, (*unused, *beside), only and split_kind(train) not in TRAIN_NAMES)

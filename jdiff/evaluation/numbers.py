"""What a number is, what it is computed of, and how several are put together.

Each kind is a frozen dataclass (`Metric`) in a file of its family: distances, quality, copying.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from jdiff.common.errors import UserError
from jdiff.evaluation.gather import Gathered
from jdiff.evaluation.statistics import Statistics
from jdiff.metrics.frechet import frechet_distance
from jdiff.metrics.per_class import per_class

LOWER, HIGHER = "lower", "higher"
OVER_IMAGES = "standard error over images"
FEATURES, CLASSES, SPLIT = "features", "classes", "split"


@dataclass(frozen=True, kw_only=True)
class Number:
    """A result. name: in files. title: for people. error: of what kind `spread` says; None where none is known.
    better: "lower", "higher", or "" where neither is. about: what it is, in a line. count, of: how many generated and
    how many reference images it is of. by_chance: what to expect of it where nothing is wrong; None where that has no
    value. note: what a reader must know of this very value.
    """

    name: str
    title: str
    value: float
    better: str
    about: str
    count: int
    of: int = 0
    error: float | None = None
    spread: str = ""
    by_chance: float | None = None
    note: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Sets:
    """What numbers are computed of. training, held_out: features of the data's two splits; None where not known, and
    then `missing` says why. trained_on: how many training images there are. labelled: whether logits are of the data's
    classes. class_names: theirs.
    """

    generated: Gathered
    reference: Statistics
    training: Float[np.ndarray, "m d"] | None = None
    held_out: Float[np.ndarray, "l d"] | None = None
    trained_on: int = 0
    missing: str = "there are no held-out images (data.holdout), which tell copies from chance"
    labelled: bool = False
    class_names: tuple[str, ...] = ()

    def reference_rows(self, most: int) -> Float[np.ndarray, "m d"]:
        """The reference's features, or so many of them at random. Raises UserError where there are none."""
        rows = self.reference.features
        if rows is None:
            raise UserError("the reference holds moments alone, without features; --mode=stats writes both")
        return rows if len(rows) <= most else rows[np.random.default_rng(0).permutation(len(rows))[:most]]

    @cached_property
    def by_class(self) -> tuple[dict[int, float], int]:
        """(the Frechet distance of each class, of how many images of each): of as many of every class and either set,
        as few images make it larger. Raises UserError where classes are not known, or one has too few images.
        """
        x, labels = self.generated.features, self.generated.rows("labels")
        y, theirs = self.reference.features, self.reference.labels
        if labels is None or y is None or theirs is None:
            raise UserError("the classes of the images, or of the reference, are not known")
        count = int(min(np.unique(both, return_counts=True)[1].min() for both in (labels, theirs)))
        if count < 2:
            raise UserError("a class has a single image, and a distance needs 2 of each")
        return per_class(frechet_distance, *_first(x, labels, count), *_first(y, theirs, count)), count


@runtime_checkable
class Metric(Protocol):
    """What a protocol lists. rows: the most images whose features it takes. least: the fewest, of either set. needs:
    what the sets must hold beside moments: FEATURES of the reference, CLASSES, a held-out SPLIT. better: which way is
    better of each number that it may give, by its name.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def rows(self) -> int: ...
    @property
    def least(self) -> int:
        return 2

    @property
    def better(self) -> Mapping[str, str]: ...
    def __call__(self, sets: Sets, /) -> list[Number]: ...


def all_of(metrics: tuple[Metric, ...], sets: Sets, *, strict: bool) -> tuple[list[Number], list[str]]:
    """(the numbers, what is left out and why). strict: raises UserError where any would be left out; else where all."""
    if sets.generated.count < 2:
        raise UserError(f"numbers of a set need at least 2 images; there are {sets.generated.count}")
    numbers: list[Number] = []
    left_out = []
    for metric in metrics:
        try:
            numbers += metric(sets)
        except UserError as error:
            if strict:
                raise
            left_out.append(f"{getattr(metric, 'title', type(metric).__name__)}: {error}")
    if not numbers:
        raise UserError(left_out[0])
    return numbers, left_out


def over_seeds(runs: list[list[Number]], *, lowest: bool) -> list[Number]:
    """Each number over several seeds: the lowest, or the mean; its error is then the deviation over seeds."""
    if len(runs) == 1:
        return runs[0]
    numbers = []
    known = [{one.name: one for one in run} for run in runs]
    for name in known[0]:
        if not all(name in run for run in known):  # left out of a seed
            continue
        same = [run[name] for run in known]
        values = [one.value for one in same]
        choose: Callable[[list[float]], float] = min if lowest and same[0].better == LOWER else _mean
        told = f"{'lowest' if choose is min else 'mean'} of {', '.join(f'{value:.4g}' for value in values)}"
        numbers.append(
            replace(
                same[0],
                value=choose(values),
                error=float(np.std(values, ddof=1)),
                spread=f"standard deviation over {len(values)} seeds",
                note="; ".join([*filter(None, [same[0].note]), told]),
            )
        )
    return numbers


def _first(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], count: int
) -> tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]]:
    """The first so many rows of each class."""
    rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)])
    return features[rows], labels[rows]


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def of_share(share: float, count: int) -> float:
    """The standard error of a share of so many, of Agresti and Coull (1998): two successes and two failures are added,
    so that no share of few is certain.
    """
    middle = (share * count + 2) / (count + 4)
    return float(np.sqrt(middle * (1 - middle) / (count + 4)))

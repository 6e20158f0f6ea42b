"""What a number is, what it is computed of, and how several are put together.

Each kind is a frozen dataclass (`Metric`) in a file of its family: distances, quality, copying.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from jdiff.common.errors import UserError
from jdiff.evaluation.gather import Gathered
from jdiff.evaluation.statistics import Statistics

LOWER, HIGHER = "lower", "higher"
OVER_IMAGES = "standard error over images"


@dataclass(frozen=True, kw_only=True)
class Number:
    """A result. name: in files. title: for people. error: of what kind `spread` says; None where none is known.
    better: "lower", "higher", or "" where neither is. about: what it is, in a line. count, of: how many generated and
    how many reference images it is of. note: what a reader must know of this very value.
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
    note: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Sets:
    """What numbers are computed of. training, held_out: features of the data's two splits; None where not known.
    labelled: whether logits are of the data's classes, which were asked for. class_names: theirs.
    """

    generated: Gathered
    reference: Statistics
    training: Float[np.ndarray, "m d"] | None = None
    held_out: Float[np.ndarray, "l d"] | None = None
    labelled: bool = False
    class_names: tuple[str, ...] = ()

    def reference_rows(self, most: int) -> Float[np.ndarray, "m d"]:
        """The reference's features, at most so many. Raises UserError where there are none."""
        if self.reference.features is None:
            raise UserError("the reference holds moments alone, without features; --mode=stats writes both")
        return self.reference.features[:most]


@runtime_checkable
class Metric(Protocol):
    """What a protocol lists. rows: the most images whose features it takes. better: which way is better of each number
    that it may give, by its name.
    """

    @property
    def rows(self) -> int: ...
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
        numbers.append(
            replace(
                same[0],
                value=choose(values),
                error=float(np.std(values, ddof=1)),
                spread=f"standard deviation over {len(values)} seeds",
                note=f"{'lowest' if choose is min else 'mean'} of {', '.join(f'{value:.4g}' for value in values)}",
            )
        )
    return numbers


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def of_share(share: float, count: int) -> float:
    """The standard error of a share of so many, of Agresti and Coull (1998): two successes and two failures are added,
    so that no share of few is certain.
    """
    middle = (share * count + 2) / (count + 4)
    return float(np.sqrt(middle * (1 - middle) / (count + 4)))

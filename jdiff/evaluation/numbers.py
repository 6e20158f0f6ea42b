"""One number each: a frozen dataclass that says what it is, and computes itself of the sets that were gathered.

Each is (sets) -> Number, or several. Raises UserError where the sets are too small for it, or lack what it needs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from jdiff.common.errors import UserError
from jdiff.evaluation.gather import Gathered
from jdiff.evaluation.statistics import Statistics
from jdiff.metrics.fld import generalisation_gap
from jdiff.metrics.frechet import frechet_distance, frechet_infinity, frechet_of_moments, standard_error
from jdiff.metrics.inception_score import inception_score
from jdiff.metrics.kernel import cmmd, kid
from jdiff.metrics.memorisation import memorisation
from jdiff.metrics.neighbours import prdc
from jdiff.metrics.per_class import per_class
from jdiff.metrics.vendi import vendi_score

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


@dataclass(frozen=True, kw_only=True)
class FrechetDistance:
    """The Frechet distance of all images by their moments."""

    name: str
    title: str
    rows: int = 10_000  # for the error alone

    @property
    def better(self) -> Mapping[str, str]:
        return {self.name: LOWER}

    def __call__(self, sets: Sets) -> list[Number]:
        generated, reference = sets.generated, sets.reference
        if not np.any(reference.covariance):
            raise UserError("the reference images all have the same features: they are constant, or copies")
        found = frechet_of_moments(generated.moments, reference.moments)
        note = (
            f"of covariances of rank {min(found.ranks)} in {found.dimensions} dimensions: far too large for few "
            "images, and comparable at this very number alone"
            if found.rank_deficient and generated.count <= found.dimensions
            else ""
        )
        if not np.any(generated.moments.m2):
            note = "all images have the same features: they are constant, or copies of one"
        return [
            Number(
                name=self.name,
                title=self.title,
                value=found.distance,
                error=standard_error(generated.features, generated.moments, reference.moments),
                spread=OVER_IMAGES,
                better=LOWER,
                about="distance to the data by their features: quality and variety in one",
                count=generated.count,
                of=reference.count,
                note=note,
            )
        ]


@dataclass(frozen=True, kw_only=True)
class FrechetInfinity:
    """The Frechet distance extrapolated to infinitely many images."""

    name: str
    title: str
    rows: int = 10_000

    @property
    def better(self) -> Mapping[str, str]:
        return {self.name: LOWER}

    def __call__(self, sets: Sets) -> list[Number]:
        found = frechet_infinity(sets.generated.features, sets.reference.moments)
        return [
            Number(
                name=self.name,
                title=self.title,
                value=found.limit,
                error=found.standard_error,
                spread="standard error of the fitted line, whose points share images",
                better=LOWER,
                about="the same without the bias of few images",
                count=len(sets.generated.features),
                of=sets.reference.count,
            )
        ]


@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """KID's estimate over random subsets. adapt: fewer images make the subsets smaller."""

    name: str
    title: str
    subsets: int = 100
    size: int = 1000
    adapt: bool = False
    rows: int = 50_000

    @property
    def better(self) -> Mapping[str, str]:
        return {self.name: LOWER}

    def __call__(self, sets: Sets) -> list[Number]:
        x, y = sets.generated.features, sets.reference_rows(self.rows)
        size = min(self.size, len(x), len(y)) if self.adapt else self.size
        found = kid(x, y, self.subsets, size)
        return [
            Number(
                name=self.name,
                title=self.title,
                value=found.mean,
                error=found.std,
                spread=f"standard deviation over {found.subsets} subsets of {found.size:,}",
                better=LOWER,
                about="another distance by the features, by a kernel: no bias of few images",
                count=len(x),
                of=len(y),
            )
        ]


@dataclass(frozen=True, kw_only=True)
class Cmmd:
    """CMMD's distance."""

    name: str = "cmmd"
    title: str = "CMMD"
    rows: int = 30_000

    @property
    def better(self) -> Mapping[str, str]:
        return {self.name: LOWER}

    def __call__(self, sets: Sets) -> list[Number]:
        x, y = sets.generated.features, sets.reference_rows(self.rows)
        about = "distance of CLIP's features by a Gaussian kernel, times 1,000"
        value = cmmd(x, y)
        return [
            Number(name=self.name, title=self.title, value=value, better=LOWER, about=about, count=len(x), of=len(y))
        ]


@dataclass(frozen=True, kw_only=True)
class Score:
    """The Inception Score of the logits."""

    name: str
    title: str
    splits: int = 10
    rows: int = 50_000

    @property
    def better(self) -> Mapping[str, str]:
        return {self.name: HIGHER}

    def __call__(self, sets: Sets) -> list[Number]:
        found = inception_score(_logits(sets), self.splits)
        return [
            Number(
                name=self.name,
                title=self.title,
                value=found.mean,
                error=found.std,
                spread=f"standard deviation over {found.splits} splits",
                better=HIGHER,
                about="how surely each image is of a class, and how many classes there are",
                count=len(sets.generated.features),
            )
        ]


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Precision and recall, and density and coverage where `density`."""

    k: int
    density: bool = True
    rows: int = 10_000

    @property
    def better(self) -> Mapping[str, str]:
        return {
            "precision": HIGHER,
            "recall": HIGHER,
            **({"coverage": HIGHER, "density": HIGHER} if self.density else {}),
        }

    def __call__(self, sets: Sets) -> list[Number]:
        x, y = sets.generated.features[: self.rows], sets.reference_rows(self.rows)
        found = prdc(x, y, self.k)
        shares = [
            ("precision", found.precision, "share of images that look like the data", len(x)),
            ("recall", found.recall, "share of the data that the model could have made", len(y)),
        ]
        if self.density:
            shares.append(("coverage", found.coverage, "share of the data with a generated image near", len(y)))
        numbers = [
            Number(
                name=name,
                title=name.capitalize(),
                value=value,
                error=_of_share(value, among),
                spread=OVER_IMAGES,
                better=HIGHER,
                about=f"{about} (k = {self.k})",
                count=len(x),
                of=len(y),
            )
            for name, value, about, among in shares
        ]
        if self.density:
            about = f"how densely images lie among the data; 1 as these themselves (k = {self.k})"
            density = replace(numbers[0], name="density", title="Density", value=found.density, about=about, error=None)
            numbers.append(replace(density, spread=""))
        return numbers


@dataclass(frozen=True, kw_only=True)
class Vendi:
    """The Vendi score of order 1, and the reference's own."""

    rows: int = 10_000

    @property
    def better(self) -> Mapping[str, str]:
        return {"vendi": HIGHER}

    def __call__(self, sets: Sets) -> list[Number]:
        x = sets.generated.features[: self.rows]
        rows = None if sets.reference.features is None else sets.reference.features[: len(x)]
        own = "" if rows is None or len(rows) < len(x) else f"the data's own: {vendi_score(rows):.2f}"
        about = "how many kinds of images there are, by the features"
        value = vendi_score(x)
        return [
            Number(name="vendi", title="Vendi score", value=value, better=HIGHER, about=about, count=len(x), note=own)
        ]


@dataclass(frozen=True, kw_only=True)
class Memorised:
    """The share of images that lie nearer to a training image than held-out ones do."""

    quantile: float = 0.05
    rows: int = 10_000

    @property
    def better(self) -> Mapping[str, str]:
        return {"memorised": LOWER, "data_copying_z": ""}

    def __call__(self, sets: Sets) -> list[Number]:
        training, held_out = _splits(sets)
        x = sets.generated.features[: self.rows]
        found = memorisation(x, training, held_out, self.quantile)
        share = Number(
            name="memorised",
            title="Near-copies",
            value=found.share,
            error=_of_share(found.share, len(x)),
            spread=OVER_IMAGES,
            better=LOWER,
            about=f"share of images nearer to training images than {1 - self.quantile:.0%} of unseen ones",
            count=len(x),
            of=len(training),
            note=f"chance gives {self.quantile:.0%}",
        )
        copying = Number(
            name="data_copying_z",
            title="Copying z",
            value=found.z,
            better="",
            about="data-copying test: below -3 images lie too near to training images",
            count=len(x),
            of=len(training),
        )
        return [share, copying]


@dataclass(frozen=True, kw_only=True)
class Gap:
    """FLD's generalisation gap."""

    rows: int = 10_000

    @property
    def better(self) -> Mapping[str, str]:
        return {"fld_gap": ""}

    def __call__(self, sets: Sets) -> list[Number]:
        training, held_out = _splits(sets)
        x = sets.generated.features[: self.rows]
        found = generalisation_gap(x, training[: self.rows], held_out[: self.rows])
        return [
            Number(
                name="fld_gap",
                title="FLD's gap",
                value=found.gap,
                better="",
                about="generalisation gap of the feature likelihood: 0 generalises, below it memorises",
                count=len(x),
                of=min(self.rows, len(training)),
            )
        ]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The share of images that the classifier reads as the class that they were asked to be."""

    rows: int = 10_000

    @property
    def better(self) -> Mapping[str, str]:
        return {"accuracy": HIGHER}

    def __call__(self, sets: Sets) -> list[Number]:
        labels = sets.generated.rows("labels")
        if not sets.labelled or labels is None:
            raise UserError("no class was asked of the images, or the features' network does not know classes")
        right = _logits(sets).argmax(axis=1) == labels
        value = float(right.mean())
        return [
            Number(
                name="accuracy",
                title="Accuracy",
                value=value,
                error=_of_share(value, len(right)),
                spread=OVER_IMAGES,
                better=HIGHER,
                about="share of images that are read as the class they were asked to be",
                count=len(right),
            )
        ]


@dataclass(frozen=True, kw_only=True)
class WorstClass:
    """The largest of the classes' Frechet distances."""

    name: str
    title: str
    rows: int = 10_000

    @property
    def better(self) -> Mapping[str, str]:
        return {self.name: LOWER}

    def __call__(self, sets: Sets) -> list[Number]:
        distances, counts = class_distances(sets)
        worst = max(distances, key=lambda label: distances[label])
        return [
            Number(
                name=self.name,
                title=self.title,
                value=distances[worst],
                better=LOWER,
                about="the distance of the worst class by itself",
                count=counts[worst],
                of=int((sets.reference.labels == worst).sum()) if sets.reference.labels is not None else 0,
                note=f"class {sets.class_names[worst] if sets.class_names else worst}",
            )
        ]


def class_distances(sets: Sets) -> tuple[dict[int, float], dict[int, int]]:
    """(Frechet distance, number of generated images) of each class. Raises UserError where classes are not known."""
    x, labels = sets.generated.features, sets.generated.rows("labels")
    y, theirs = sets.reference.features, sets.reference.labels
    if labels is None or y is None or theirs is None:
        raise UserError("the classes of the images, or of the reference, are not known")
    return per_class(frechet_distance, x, labels, y, theirs), dict(zip(*_unique(labels), strict=True))


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
    for same in zip(*runs, strict=True):
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


def _unique(labels: Int[np.ndarray, " n"]) -> tuple[list[int], list[int]]:
    found, counts = np.unique(labels, return_counts=True)
    return found.tolist(), counts.tolist()


def _of_share(share: float, count: int) -> float:
    """The standard error of a share of so many."""
    return float(np.sqrt(share * (1 - share) / count))


def _logits(sets: Sets) -> np.ndarray:
    logits = sets.generated.rows("logits")
    if logits is None:
        raise UserError("the features' network has no classes")
    return logits


def _splits(sets: Sets) -> tuple[np.ndarray, np.ndarray]:
    if sets.training is None or sets.held_out is None:
        raise UserError("copies are told by held-out images, and there are none (data.holdout)")
    return sets.training, sets.held_out

"""Distances between the features of generated images and of the reference."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jdiff.common.errors import UserError
from jdiff.evaluation.numbers import CLASSES, FEATURES, LOWER, OVER_IMAGES, Metric, Number, Sets
from jdiff.metrics.frechet import frechet_infinity, frechet_of_moments, standard_error
from jdiff.metrics.kernel import cmmd, kid


@dataclass(frozen=True, kw_only=True)
class FrechetDistance(Metric):
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
        sets_of = {"generated": generated.count, "reference": reference.count}
        few = [f"{count} {name}" for name, count in sets_of.items() if 0 < count <= found.dimensions]
        note = (
            f"{' and '.join(few)} images are too few for features of {found.dimensions} dimensions (covariance of rank "
            f"{min(found.ranks)}): it is far too large, and compares with others of these very counts alone"
            if found.rank_deficient and few
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
class FrechetInfinity(Metric):
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
                about="the same without the bias of few images; slightly below 0 it means 0",
                count=len(sets.generated.features),
                of=sets.reference.count,
            )
        ]


@dataclass(frozen=True, kw_only=True)
class KernelDistance(Metric):
    """KID's estimate over random subsets. adapt: fewer images make the subsets smaller, at most half of either set:
    those of a whole set are all the same, and their spread would say nothing.
    """

    needs = frozenset({FEATURES})
    name: str
    title: str
    subsets: int = 100
    size: int = 1000
    adapt: bool = False
    rows: int = 50_000

    @property
    def least(self) -> int:
        return 2 if self.adapt else self.size

    @property
    def better(self) -> Mapping[str, str]:
        return {self.name: LOWER}

    def __call__(self, sets: Sets) -> list[Number]:
        x, y = sets.generated.features, sets.reference_rows(self.rows)
        size = max(2, min(self.size, len(x) // 2, len(y) // 2)) if self.adapt else self.size
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
class Cmmd(Metric):
    """CMMD's distance."""

    needs = frozenset({FEATURES})
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
class WorstClass(Metric):
    """The largest of the classes' Frechet distances."""

    needs = frozenset({FEATURES, CLASSES})
    name: str
    title: str
    rows: int = 10_000

    @property
    def better(self) -> Mapping[str, str]:
        return {self.name: LOWER}

    def __call__(self, sets: Sets) -> list[Number]:
        distances, count = sets.by_class
        worst = max(distances, key=lambda label: distances[label])
        return [
            Number(
                name=self.name,
                title=self.title,
                value=distances[worst],
                better=LOWER,
                about="the distance of the worst class by itself",
                count=count,
                of=count,
                note=f"class {sets.class_names[worst] if sets.class_names else worst}; of {count:,} images, and fewer "
                "images make it larger",
            )
        ]

"""Fidelity and diversity one by one: each image's class, neighbours among the data, kinds of images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from jdiff.common.errors import UserError
from jdiff.evaluation.numbers import CLASSES, FEATURES, HIGHER, OVER_IMAGES, Metric, Number, Sets, of_share
from jdiff.metrics.inception_score import inception_score
from jdiff.metrics.neighbours import prdc
from jdiff.metrics.vendi import vendi_score


@dataclass(frozen=True, kw_only=True)
class Score(Metric):
    """The Inception Score of the logits."""

    name: str
    title: str
    splits: int = 10
    rows: int = 50_000

    @property
    def least(self) -> int:
        return 2 * self.splits

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
class Neighbours(Metric):
    """Precision and recall, and density and coverage where `density`. alike: of as many images of either set."""

    needs = frozenset({FEATURES})
    k: int
    density: bool = True
    alike: bool = False
    rows: int = 10_000

    @property
    def least(self) -> int:
        return self.k + 1

    @property
    def better(self) -> Mapping[str, str]:
        return {
            "precision": HIGHER,
            "recall": HIGHER,
            **({"coverage": HIGHER, "density": HIGHER} if self.density else {}),
        }

    def __call__(self, sets: Sets) -> list[Number]:
        x, y = sets.generated.features[: self.rows], sets.reference_rows(self.rows)
        count = min(len(x), len(y)) if self.alike else max(len(x), len(y))
        x, y = x[:count], y[:count]
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
                error=of_share(value, among),
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
class Vendi(Metric):
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
class Accuracy(Metric):
    """The share of images that the classifier reads as the class that they were asked to be."""

    needs = frozenset({CLASSES})
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
                error=of_share(value, len(right)),
                spread=OVER_IMAGES,
                better=HIGHER,
                about="share of images that are read as the class they were asked to be",
                count=len(right),
            )
        ]


def _logits(sets: Sets) -> np.ndarray:
    logits = sets.generated.rows("logits")
    if logits is None:
        raise UserError("the features' network has no classes")
    return logits

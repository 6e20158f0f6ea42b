"""Whether images are copies of training images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jdiff.common.errors import UserError
from jdiff.evaluation.numbers import LOWER, OVER_IMAGES, SPLIT, Metric, Number, Sets, of_share
from jdiff.metrics.fld import generalisation_gap
from jdiff.metrics.memorisation import memorisation


@dataclass(frozen=True, kw_only=True)
class Memorised(Metric):
    """The share of images that lie nearer to a training image than held-out ones do."""

    needs = frozenset({SPLIT})
    quantile: float = 0.05
    rows: int = 10_000

    @property
    def better(self) -> Mapping[str, str]:
        return {"memorised": LOWER, "data_copying_z": ""}

    def __call__(self, sets: Sets) -> list[Number]:
        training, held_out = _splits(sets)
        x = sets.generated.features[: self.rows]
        found = memorisation(x, training, held_out, self.quantile)
        every = sets.trained_on
        among = f"; among {len(training):,} of {every:,} training images" if len(training) < every else ""
        share = Number(
            name="memorised",
            title="Near-copies",
            value=found.share,
            error=of_share(found.share, len(x)),
            spread=OVER_IMAGES,
            better=LOWER,
            about=f"share of images as near to training images as the nearest {self.quantile:.0%} of unseen ones",
            count=len(x),
            of=len(training),
            by_chance=found.by_chance,
            note=f"chance gives {found.by_chance:.1%}{among}",
        )
        copying = Number(
            name="data_copying_z",
            title="Copying z",
            value=found.z,
            better="",
            about="data-copying test: below -3 images lie nearer to training images than unseen ones do, by copying "
            "or, as guidance makes it, by little variety",
            count=len(x),
            of=len(training),
        )
        return [share, copying]


@dataclass(frozen=True, kw_only=True)
class Gap(Metric):
    """FLD's generalisation gap."""

    needs = frozenset({SPLIT})
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


def _splits(sets: Sets) -> tuple[np.ndarray, np.ndarray]:
    if sets.training is None or sets.held_out is None:
        raise UserError(sets.missing)
    return sets.training, sets.held_out

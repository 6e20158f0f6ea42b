"""The modelled picture's standard deviation at the size that it is trained at: shrinking averages much of it out."""

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from jdiff.data.resize import Resize, Rule, by_no_chance
from jdiff.data.sources import Picture

MOST = 2000  # records that are resized


class AtTrainedSize:
    """Collects moments of the picture `name`, in records that `add` is given, brought to size x size by `rule`. Of
    `count` records every n-th is taken, MOST at the most.
    """

    def __init__(self, name: str, picture: Picture, size: int, rule: Rule, count: int):
        masks = frozenset({name} if picture.kind == "mask" else ())
        alpha = frozenset({name} if picture.alpha else ())
        self._name, self._picture = name, picture
        self._resize = Resize(by_no_chance(rule), size, size, masks=masks, alpha=alpha, fill={name: picture.low})
        self._every = -(-count // MOST)
        self._moments = np.zeros(2)
        self._taken = 0

    def add(self, row: int, record: Mapping[str, Any]) -> None:
        array = record.get(self._name)
        if row % self._every or not self._usual(array):
            return
        picture = self._picture
        unit = self._resize({self._name: array})[self._name].astype(np.float64)
        unit = (unit - picture.low) / (picture.high - picture.low)
        self._moments += unit.mean(), (unit**2).mean()
        self._taken += 1

    def _usual(self, array: Any) -> TypeGuard[np.ndarray]:
        """Whether it is what the source declares: what is not has findings of its own."""
        form = (self._picture.channels, self._picture.dtype)
        if not isinstance(array, np.ndarray) or array.ndim != 3 or not array.size:
            return False
        return (array.shape[-1], array.dtype.name) == form and bool(np.isfinite(array).all())

    @property
    def sigma_data(self) -> float | None:
        """In [-1, 1]; None where no record could be taken."""
        if not self._taken:
            return None
        mean, mean_square = self._moments / self._taken
        return 2 * float(np.sqrt(max(mean_square - mean**2, 0)))

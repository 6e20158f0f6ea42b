"""Records at the size that is trained on, so that what is kept in memory or packed is no larger than it need be."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jdiff.common.errors import UserError
from jdiff.data import buckets
from jdiff.data.sources import Picture, Shape, Source
from jdiff.data.sources.in_parts import in_parts
from jdiff.data.sources.wrapped import Wrapped
from jdiff.data.views import View


def prepared(source: Source, view: View) -> Source:
    """`source` with what no chance decides of `view` done to its records; itself, where that is nothing."""
    after = view.shrunk_pictures(source.pictures)
    same = (
        not view.shapes
        and view.resize.rule != "random_crop"
        and all(source.pictures[name] == one for name, one in after.items())
    )
    return source if same else Prepared(source, view)


class Prepared(Wrapped):
    """`source` with each record `view.shrunk`; of several shapes, to the one that its size in the file says: the size
    that it is decoded at may differ by a pixel.
    """

    def __init__(self, source: Source, view: View):
        super().__init__(source)
        self._view = view
        self._pictures = view.shrunk_pictures(source.pictures)
        self._shapes = buckets.nearest(sizes_of(source), view.shapes) if view.shapes else None

    @property
    def pictures(self) -> dict[str, Picture]:
        return self._pictures

    @property
    def sizes(self) -> np.ndarray | None:
        """Not the files' any more: the shapes that records have, where there are several."""
        return None if self._shapes is None else np.array(self._view.shapes, np.int32)[self._shapes]

    @property
    def shape(self) -> Shape:
        return self._pictures[self._view.target].shape

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        parts = in_parts(self._source, indices, self._source.__getitems__)
        return [
            self._view.shrunk(record, self._shape(row))
            for rows, part in parts
            for row, record in zip(rows, part, strict=True)
        ]

    def _shape(self, row: int) -> buckets.Shape | None:
        return None if self._shapes is None else self._view.shapes[self._shapes[row]]


def sizes_of(source: Source) -> np.ndarray:
    """int32 [n, 2], the height and width of each record's image. Raises UserError where the source does not know."""
    sizes = getattr(source, "sizes", None)
    if sizes is not None:
        return sizes
    height, width, _ = source.shape
    if height is None or width is None:
        raise UserError("data.buckets goes by the images' sizes, which these data do not tell: leave it out")
    return np.tile(np.array([height, width], np.int32), (len(source), 1))

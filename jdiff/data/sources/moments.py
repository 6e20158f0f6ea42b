"""Records with what an autoencoder says of their images in place of these."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jdiff.data.pipeline import View
from jdiff.data.sources import Picture, Shape, Source
from jdiff.data.sources.in_parts import in_parts
from jdiff.data.sources.wrapped import Wrapped

MIRRORED = "mirrored"  # the picture beside "image" that is of the image mirrored left and right


class Moments(Wrapped):
    """`source` with encode(images [b, H, W, c]), float16 [b, h, w, f], as its "image", of its images as `view` makes
    them; with `mirrored`, of these mirrored too. Labels, texts and scalars stay; other pictures are left out.
    """

    def __init__(
        self, source: Source, view: View, encode: Callable[[np.ndarray], np.ndarray], shape: Shape, *, mirrored: bool
    ):
        super().__init__(source)
        self._view, self._encode, self._shape, self._mirrored = view, encode, shape, mirrored

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def pictures(self) -> dict[str, Picture]:
        names = ("image", MIRRORED) if self._mirrored else ("image",)
        return {name: Picture(self._shape, "float16", low=-1.0, high=1.0) for name in names}

    @property
    def sizes(self) -> np.ndarray | None:
        return None

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        made = []
        for _, part in in_parts(self._source, indices, self._source.__getitems__):
            images = np.stack([self._view(record, None)["x0"] for record in part])
            moments = {"image": self._encode(images)}
            if self._mirrored:
                moments[MIRRORED] = self._encode(images[:, :, ::-1])
            for row, record in enumerate(part):
                kept = {name: value for name, value in record.items() if name not in self._source.pictures}
                made.append({**kept, **{name: values[row] for name, values in moments.items()}})
        return made

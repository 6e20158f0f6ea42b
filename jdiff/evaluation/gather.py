"""Images -> features, a batch at a time: what stays in memory are moments of all and the features of some."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from jdiff.common.processes import is_first_process
from jdiff.common.ranges import Range
from jdiff.common.shards import Shards
from jdiff.data import pipeline
from jdiff.data.sources import Source
from jdiff.data.views import View
from jdiff.metrics import moments
from jdiff.metrics.moments import Moments
from jdiff.networks.features.space import Extractor
from jdiff.training import sharding

BATCH = 128  # images that features are computed of at a time
Rows = dict[str, np.ndarray]  # "features" [b, d], and perhaps "logits" [b, k] and "labels" [b]
Images = tuple[UInt8[np.ndarray, "b h w c"], Int[np.ndarray, " b"] | None]  # and the class of each


@runtime_checkable
class Read(Protocol):
    """Images -> their features, and their logits where the network has any and they are wanted."""

    def __call__(self, images: UInt8[np.ndarray, "b h w c"], /) -> Rows: ...


def reader(extractor: Extractor, layer: str, logits: str, mesh: Mesh) -> Read:
    """`extractor` compiled for `mesh`, whose devices share a batch. logits: their layer; "": none are read."""

    @jax.jit
    def compute(params: Any, images: Any) -> Any:
        found = extractor.apply(params, extractor.input(images))
        return {"features": found[layer], **({"logits": found[logits]} if logits else {})}

    params, size = sharding.put_replicated(mesh, extractor.params), BATCH + -BATCH % mesh.size

    def read(images: np.ndarray) -> Rows:
        parts = []
        for first in range(0, len(images), size):
            part = images[first : first + size]
            filled = part[np.arange(size) % len(part)]  # one form of batch, compiled once
            found = compute(params, jax.device_put(filled, sharding.of_batch(mesh, size)))
            parts.append({name: sharding.whole(rows)[: len(part)] for name, rows in found.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return read


@dataclass
class Gathered:
    """moments: of all features. kept: the features of the first `keep` images, with their logits and labels."""

    moments: Moments
    keep: int
    kept: list[Rows] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.moments.count

    def add(self, rows: Rows) -> None:
        """Take in a batch. Raises UserError for features that are not finite."""
        room = self.keep - sum(len(part["features"]) for part in self.kept)
        self.moments = moments.merge(self.moments, moments.of(rows["features"], "generated"))
        if room > 0:
            self.kept.append({name: values[:room] for name, values in rows.items()})

    def rows(self, name: str) -> np.ndarray | None:
        """What is kept under a name, or None."""
        if not self.kept or name not in self.kept[0]:
            return None
        return np.concatenate([part[name] for part in self.kept])

    @property
    def features(self) -> Float[np.ndarray, "n d"]:
        """The features that are kept."""
        found = self.rows("features")
        return np.zeros((0, len(self.moments.mean)), np.float32) if found is None else found


def gather(
    images: Callable[[int], Iterator[Images]],
    read: Read,
    dimensions: int,
    keep: int,
    shards: Shards | None = None,
    stop: Callable[[int], bool] = lambda done: False,
) -> Gathered:
    """The features of all images. images: first -> the images from that number on. shards: where each batch is written
    as it comes, and what is there already is read instead of computed. stop: asked after each batch how many there are.
    """
    found = Gathered(moments.empty(dimensions), keep)
    for held in shards.arrays() if shards else ():
        found.add(dict(held))
    for pictures, labels in images(found.count):
        rows = read(pictures) | ({} if labels is None else {"labels": labels})
        if shards and is_first_process():
            shards.write(found.count, rows)
        found.add(rows)
        if stop(found.count):
            break
    return found


@dataclass(frozen=True)
class Pictures:
    """The modelled pictures of some records of a source, as they are on a screen, in order of the rows given."""

    source: Source
    view: View
    rows: Int[np.ndarray, " n"]
    values: Range

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, first: int = 0, size: int = BATCH) -> Iterator[Images]:
        """From number `first` on, `size` at a time, with their classes where each has one."""
        for at in range(first, len(self.rows), size):
            yield self.of(np.arange(at, min(at + size, len(self.rows))))

    def of(self, numbers: Sequence[int] | np.ndarray) -> Images:
        """Those of these numbers."""
        images, labels = self.raw(numbers)
        return self.values.on_screen(images), labels

    def raw(self, numbers: Sequence[int] | np.ndarray) -> tuple[np.ndarray, Int[np.ndarray, " n"] | None]:
        """Those of these numbers in their own dtype and range, with their classes where each has one."""
        batch = pipeline.batch_of(self.source, self.view, self.rows[np.asarray(numbers)])
        labels = batch["cond"].get("label")
        return batch["x0"], labels if labels is not None and labels.ndim == 1 else None


def counted(batches: Iterable[Images], advance: Callable[[int], Any]) -> Iterator[Images]:
    """The batches, each one's images reported once it was taken in."""
    for images, labels in batches:
        yield images, labels
        advance(len(images))

"""The readable images of all splits in one row, for what compares images with one another."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from jdiff.doctor.findings import HELD_OUT, Place
from jdiff.doctor.reading import Scan

FLAT = 0.01  # standard deviation of a thumbnail in [0, 1], below which there is nothing to compare


@dataclass(frozen=True)
class Pool:
    """Image i is row rows[i] of scans[split[i]].

    grey, colour: its thumbnails in [0, 1]; colour is None of images without. label: -1 where there is
    none or there may be several. plain: nothing can be seen in the thumbnail.
    """

    scans: tuple[Scan, ...]
    split: Int64[np.ndarray, " n"]
    rows: Int64[np.ndarray, " n"]
    hashes: np.ndarray
    grey: Float32[np.ndarray, "n d d"]
    colour: Float32[np.ndarray, "n k k 3"] | None
    label: Int32[np.ndarray, " n"]
    plain: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def held_out(self) -> Bool[np.ndarray, " n"]:
        return np.array([scan.split == HELD_OUT for scan in self.scans])[self.split]

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name a label; () where images have none or may have several."""
        return self.scans[0].class_names if self.scans[0].labels.shape[1] == 1 else ()

    @property
    def sizes(self) -> list[str]:
        """ "72 x 72" for every image."""
        shapes = [self.scans[split].pictures["image"] for split in range(len(self.scans))]
        return [
            f"{shapes[k].height[row]} x {shapes[k].width[row]}" for k, row in zip(self.split, self.rows, strict=True)
        ]

    @property
    def folders(self) -> list[str]:
        """The folder that an image's name names, for every image; "" where names are none of files."""
        return [os.path.dirname(self.place(image).name) for image in range(len(self))]

    def place(self, image: int) -> Place:
        return self.scans[self.split[image]].place(int(self.rows[image]))

    def partners(self, image: int) -> bytes:
        """What the record's other pictures hold, as a hash; b"" of none."""
        pictures, row = self.scans[self.split[image]].pictures, self.rows[image]
        return b"".join(kept.hashes[row].tobytes() for name, kept in pictures.items() if name != "image")

    def class_of(self, image: int) -> str:
        label = self.label[image]
        return self.class_names[label] if 0 <= label < len(self.class_names) else ""


def pool(scans: Sequence[Scan]) -> Pool:
    rows = [np.flatnonzero(scan.readable) for scan in scans]
    images = [scan.pictures["image"] for scan in scans]
    labels = [
        scan.labels[own, 0] if scan.labels.shape[1] == 1 else np.full(len(own), -1, np.int32)
        for scan, own in zip(scans, rows, strict=True)
    ]
    grey = np.concatenate([image.grey[own] for image, own in zip(images, rows, strict=True)]).astype(np.float32)
    colour = None
    if all(len(image.colour) for image in images):
        colour = np.concatenate([image.colour[own] for image, own in zip(images, rows, strict=True)]).astype(np.float32)
    spread = grey.std(axis=(1, 2)) if colour is None else np.maximum(grey.std(axis=(1, 2)), colour.std(axis=(1, 2, 3)))
    return Pool(
        scans=tuple(scans),
        split=np.repeat(np.arange(len(scans)), [len(own) for own in rows]),
        rows=np.concatenate(rows),
        hashes=np.concatenate([image.hashes[own] for image, own in zip(images, rows, strict=True)]),
        grey=grey,
        colour=colour,
        label=np.concatenate(labels),
        plain=spread < FLAT,
    )

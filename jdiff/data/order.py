"""The order of training images by index arithmetic: batch k is a function of the seed and k alone.

Every set of images that is drawn from, a class, is an endless stream of epochs, each shuffled anew. Streams of classes
make the stream of a bucket, and batches of buckets make an epoch:

    epoch e of a bucket of L draws holds T(e+1) - T(e) of class c,   T(e) = floor(e L P_c+1) - floor(e L P_c),
    epoch e of the whole holds batches floor(e Q / B) .. floor((e+1) Q / B) - 1 of a bucket,

with P_c the cumulative shares of the classes, Q the bucket's images an epoch, B the batch size; each is then shuffled.
"""

import sys
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

UNIT = 1 << 20  # of shares in whole numbers: sums of floats would drift


class Shuffled:
    """Endless epochs of the numbers 0 .. count - 1, each in an order of its own."""

    def __init__(self, count: int, *seed: int):
        self._count, self._seed = count, seed
        self._recent: tuple[tuple[int, np.ndarray], ...] = ()

    def __getitem__(self, positions: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        epochs, places = np.divmod(positions, self._count)
        numbers = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            own = epochs == epoch
            numbers[own] = self._epoch(epoch)[places[own]]
        return numbers

    def _epoch(self, epoch: int) -> Int[np.ndarray, " count"]:
        """The last two are kept: batches come in order, and threads read a few ahead."""
        for known, order in self._recent:
            if known == epoch:
                return order
        order = np.random.default_rng((*self._seed, epoch)).permutation(self._count)
        self._recent = (*self._recent[-1:], (epoch, order))
        return order

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_recent": ()}


class Stream:
    """Rows of several classes, each drawn as its share says. classes: the rows of each. shares: positive, of sum 1."""

    def __init__(self, classes: Sequence[Int[np.ndarray, " _"]], shares: Float[np.ndarray, " c"], *seed: int):
        # So long an epoch that each class has a draw in each; all images, where that is enough.
        self._length = max(sum(map(len, classes)), int(np.ceil(1 / shares.min() - 1e-9)))
        parts = np.maximum(np.rint(self._length * UNIT * shares).astype(np.int64), UNIT)
        parts[parts.argmax()] += self._length * UNIT - parts.sum()
        self._edges = np.append(0, np.cumsum(parts))
        self._classes = list(classes)
        self._own = [Shuffled(len(rows), *seed, 1, number) for number, rows in enumerate(classes)]
        self._mixed = Shuffled(self._length, *seed, 0)

    def __getitem__(self, positions: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The rows at these positions of the stream."""
        epochs, places = positions // self._length, self._mixed[positions]
        rows = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            first, last = self._drawn(epoch), self._drawn(epoch + 1)
            ends = np.cumsum(last - first)
            here = np.flatnonzero(epochs == epoch)
            of_class = np.searchsorted(ends, places[here], side="right")
            place = places[here] - ends[of_class] + last[of_class]
            for number in np.unique(of_class).tolist():
                own = of_class == number
                rows[here[own]] = self._classes[number][self._own[number][place[own]]]
        return rows

    def _drawn(self, epoch: int) -> Int[np.ndarray, " c"]:
        """How many of each class the epochs before this one hold."""
        whole, part = np.divmod(self._edges, UNIT)
        return np.diff(epoch * whole + epoch * part // UNIT)


class Order:
    """order[k]: the rows int64 [batch_size] of batch k, all of one bucket.

    bucket: of each row; all batches are of one. group: the class of each row; a class of n images is drawn in
    proportion to n^(1 - power), whatever the bucket.
    """

    def __init__(
        self,
        bucket: Int[np.ndarray, " n"],
        group: Shaped[np.ndarray, " n"],
        *,
        power: float = 0.0,
        batch_size: int,
        seed: int,
    ):
        _, bucket = np.unique(bucket, return_inverse=True)
        _, group = np.unique(group, return_inverse=True)
        cell = bucket * (group.max() + 1) + group
        counts = np.bincount(cell, minlength=(bucket.max() + 1) * (group.max() + 1))
        rows = np.split(np.argsort(cell, kind="stable"), np.cumsum(counts)[:-1])
        cells = counts.reshape(bucket.max() + 1, -1)
        sizes = cells.sum(axis=0)
        wanted = sizes ** (1 - power)
        shares = cells / sizes * (wanted / wanted.sum())
        self._batch_size, self._seed = batch_size, seed
        self._quotas = [int(quota) for quota in np.rint(len(bucket) * UNIT * shares.sum(axis=1))]
        self._streams = [
            Stream(
                [rows[number * len(own) + one] for one in np.flatnonzero(own)],
                own[own > 0] / own.sum(),
                *(seed, 1, number),
            )
            for number, own in enumerate(shares)
        ]

    def __len__(self) -> int:
        """Batches never end."""
        return sys.maxsize

    def __getitem__(self, k: int) -> Int[np.ndarray, " b"]:
        whole = sum(self._quotas)
        beyond = (k + len(self._quotas) + 1) * self._batch_size * UNIT // whole + 2
        epoch = bisect_right(range(beyond), k, key=lambda epoch: sum(self._made(epoch))) - 1
        first, last = np.array(self._made(epoch)), np.array(self._made(epoch + 1))
        ends = np.cumsum(last - first)
        place = np.random.default_rng((self._seed, 0, epoch)).permutation(ends[-1])[k - first.sum()]
        number = int(np.searchsorted(ends, place, side="right"))
        batch = int(place - ends[number] + last[number])
        return self._streams[number][batch * self._batch_size + np.arange(self._batch_size)]

    def _made(self, epoch: int) -> list[int]:
        """How many batches of each bucket the epochs before this one hold."""
        return [epoch * quota // (self._batch_size * UNIT) for quota in self._quotas]

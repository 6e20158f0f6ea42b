"""Whether a record's two pictures belong together: does a photo explain its own mask better than it does other masks?

How much of a mask's thumbnail (R^2, in [0, 1]) is a linear function of the colours of the photo's thumbnail and of
their products? What place alone explains, and the mean mask, is taken out of both first: all lesions lie in the
middle. The rank of a record's own R^2 among those of other masks with the same photo is 1/2 on average where masks and
photos have nothing to do with each other; of skin lesions it is 0.98, of facades and their labels 0.96. Other pictures,
such as maps of labels in colours, are judged alike, by all of their channels.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from scipy.optimize import linear_sum_assignment

from jdiff.doctor.reading import FINE, Scan

FEWEST = 20  # pairs that can be judged
REFERENCES = 300  # other pictures, of which the own one's rank is taken
BLOCK = 64  # photos at a time
SHIFTS = (1, -1, 2, -2, 3, -3)  # records by which all partners may be moved on
TURNS = {
    "mirrored left to right": (0, True),
    "upside down": (2, True),
    "turned by 180 degrees": (2, False),
    "turned by 90 degrees": (1, False),
    "turned by 270 degrees": (3, False),
}  # quarter turns, and whether left and right are exchanged
CHANCE = 3.0  # standard errors over 1/2 from which the mean rank is not by chance
HIGH, MOST_HIGH = 0.95, 0.4  # a high rank; the share of such ranks from which single ones say something
LOW, MOST_LOW, FEW_LOW = 0.5, 0.04, 3  # a low rank, the share and number of such that photos in clean data have
SHIFTED, SURE = 0.15, 5.0  # by how much, and by how many standard errors over 1/2, another record's partner fits better
GAIN = 0.1  # gain in -log(1 - R^2) that is one, in units of the median of own ones
SWAP, RING, TURN = 0.25, 0.25, 0.4  # gain of each of two that are exchanged, mean one of a ring, that of one turned
TURNED = 0.6  # share of the partners that fit better in another way round
MOST_MOVED = 1000  # low ranks among which exchanged partners are looked for
RELATIVE = 1e-4  # variance of a direction of colours, beside the largest, below which it is noise


@dataclass(frozen=True)
class Fit:
    """How the partners of a split's images fit. rows: the records judged. rank: of each. shift: by how many records all
    partners seem moved on, 0 for none. way: how all seem turned, "" for none. ways: row -> how it alone seems turned.
    moved: row -> the row whose partner seems to be its own.
    """

    rows: Int64[np.ndarray, " n"]
    rank: Float[np.ndarray, " n"]
    shift: int = 0
    way: str = ""
    ways: dict[int, str] = field(default_factory=dict)
    moved: dict[int, int] = field(default_factory=dict)

    @property
    def by_chance(self) -> bool:
        """Partners fit no better than those of other records."""
        return bool(_errors(self.rank) < CHANCE)

    @property
    def low(self) -> Int64[np.ndarray, " k"]:
        """Rows of low ranks, lowest first, where most are high and more are low than in clean data."""
        low = np.flatnonzero(self.rank < LOW)
        if not _telling(self.rank) or len(low) <= max(FEW_LOW, MOST_LOW * len(self.rank)):
            return low[:0]
        return self.rows[low[np.argsort(self.rank[low])]]


def fit(scan: Scan, name: str) -> Fit | None:
    """Whether the pictures `name` are those of their images; None of too few."""
    image, other = scan.pictures["image"], scan.pictures[name]
    both = scan.readable & other.read & (other.channels == other.picture.shape[-1])
    rows = np.flatnonzero(both & (image.contrast > 0) & (other.contrast > 0))
    if len(rows) < FEWEST:
        return None
    pairs = _Pairs(image.fine[rows], other.fine[rows])
    order = np.arange(len(rows))
    references = order[:: -(-len(rows) // REFERENCES)]
    own = pairs.paired(order)
    less = pairs.matrix(order, references) < own[:, None]
    rank = less.sum(axis=1) / (len(references) - np.isin(order, references))
    return Fit(
        rows=rows,
        rank=rank,
        shift=_shift(pairs, references, rank),
        **_turned(pairs, rows, own, rank),
        moved=_moved(pairs, rows, own, rank),
    )


def _errors(rank: Float[np.ndarray, " n"]) -> float:
    """Standard errors of the mean rank over that of chance."""
    return float((rank.mean() - 0.5) * np.sqrt(12 * len(rank)))


def _telling(rank: Float[np.ndarray, " n"]) -> bool:
    return bool((rank >= HIGH).mean() >= MOST_HIGH)


def _shift(pairs: "_Pairs", references: Int64[np.ndarray, " k"], rank: Float[np.ndarray, " n"]) -> int:
    best, found = max(rank.mean() + SHIFTED, 0.5 + SURE / np.sqrt(12 * len(references))), 0
    if best >= 1:
        return 0
    matrix = pairs.matrix(references, references)
    for shift in SHIFTS:
        moved = pairs.paired(references, (references + shift) % len(rank))
        mean = float((matrix < moved[:, None]).mean())
        if mean > best:
            best, found = mean, shift
    return found


def _turned(pairs: "_Pairs", rows: np.ndarray, own: np.ndarray, rank: np.ndarray) -> dict:
    """The fields `way` and `ways`."""
    order, usual = np.arange(len(rows)), np.median(_log(own))
    gains = {name: (_log(pairs.paired(order, turn=turn)) - _log(own)) / usual for name, turn in TURNS.items()}
    shares = {name: float((gain > GAIN).mean()) for name, gain in gains.items()}
    best = max(shares, key=shares.__getitem__)
    if shares[best] >= TURNED:
        return {"way": best}
    if not _telling(rank):
        return {}
    names, stacked = list(gains), np.stack(list(gains.values()))
    found = np.flatnonzero(stacked.max(axis=0) > TURN).tolist()
    return {"ways": {int(rows[at]): names[int(stacked[:, at].argmax())] for at in found}}


def _moved(pairs: "_Pairs", rows: np.ndarray, own: np.ndarray, rank: np.ndarray) -> dict[int, int]:
    """Exchanged partners: two that each fit the other's photo much better, or a ring in which each fits the next."""
    if not _telling(rank):
        return {}
    low = np.sort(np.argsort(rank)[:MOST_MOVED])
    gain = (_log(pairs.matrix(low, low)) - _log(own[low])[:, None]) / np.median(_log(own))
    _, taken = linear_sum_assignment(-gain)
    found: dict[int, int] = {}
    for ring in _rings(taken):
        gains = gain[ring, taken[ring]]
        if len(ring) > 1 and gains.min() > GAIN and gains.mean() > RING:
            found |= {one: int(taken[one]) for one in ring}
    mutual = np.minimum(gain, gain.T)
    for one, other in np.argwhere(mutual > SWAP).tolist():
        if mutual[one].max() == mutual[one, other] == mutual[other].max():
            found.setdefault(one, other)
    return {int(rows[low[one]]): int(rows[low[other]]) for one, other in found.items()}


def _rings(taken: Int64[np.ndarray, " n"]) -> list[list[int]]:
    """The cycles of a permutation."""
    left, rings = set(range(len(taken))), []
    while left:
        ring, at = [], min(left)
        while at in left:
            left.remove(at)
            ring.append(at)
            at = int(taken[at])
        rings.append(ring)
    return rings


def _log(explained: Float32[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n"]:
    return -np.log(1 - np.clip(explained, 1e-6, 0.999))


class _Pairs:
    """R^2 of partners, explained by photos. Both are kept as thumbnails, and worked on a block at a time."""

    def __init__(self, photos: UInt8[np.ndarray, "n f f c"], partners: UInt8[np.ndarray, "n f f c2"]) -> None:
        self.photos, self.partners = photos, partners
        place = np.linspace(-1, 1, FINE)
        x, y = (axis.ravel() for axis in np.meshgrid(place, place))
        mean = partners.mean(axis=0).reshape(FINE * FINE, -1).T
        known = np.stack([np.ones_like(x), x, y, x * x, y * y, *mean], axis=1)
        self.known = _orthonormal(known[None] / np.linalg.norm(known, axis=0).clip(1e-9))[0].astype(np.float32)

    def paired(
        self,
        ones: Int64[np.ndarray, " k"],
        others: Int64[np.ndarray, " k"] | None = None,
        turn: tuple[int, bool] = (0, False),
    ) -> Float32[np.ndarray, " k"]:
        """R^2 of partner others[i] by photo ones[i]; the partner is turned first."""
        others = ones if others is None else others
        blocks = [slice(first, first + BLOCK) for first in range(0, len(ones), BLOCK)]
        return np.concatenate(
            [_sum(self._colours(ones[block]).transpose(0, 2, 1) @ self._partners(others[block], turn))
             for block in blocks]
        )  # fmt: skip

    def matrix(self, ones: Int64[np.ndarray, " k"], others: Int64[np.ndarray, " l"]) -> Float32[np.ndarray, "k l"]:
        """R^2 of every partner of `others` by every photo of `ones`."""
        partners = self._partners(others)
        columns = partners.transpose(1, 0, 2).reshape(partners.shape[1], -1)
        rows = []
        for first in range(0, len(ones), BLOCK):
            colours = self._colours(ones[first : first + BLOCK])
            flat = np.ascontiguousarray(colours.transpose(0, 2, 1)).reshape(-1, len(columns))
            product = (flat @ columns).reshape(len(colours), -1, len(others), partners.shape[-1])
            rows.append((product**2).sum(axis=(1, 3)))
        return np.concatenate(rows)

    def _colours(self, chosen: np.ndarray) -> Float32[np.ndarray, "k p r"]:
        """An orthonormal basis of a photo's colours and their products, less what is known."""
        photos = self.photos[chosen].reshape(len(chosen), FINE * FINE, -1).astype(np.float32)
        photos -= photos.mean(axis=1, keepdims=True)
        photos /= np.abs(photos).max(axis=(1, 2), keepdims=True).clip(1e-6)
        first, second = np.triu_indices(photos.shape[-1])
        features = self._unknown(np.concatenate([photos, photos[..., first] * photos[..., second]], axis=-1))
        return _orthonormal(features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-6))

    def _partners(self, chosen: np.ndarray, turn: tuple[int, bool] = (0, False)) -> Float32[np.ndarray, "k p c2"]:
        """Partners less what is known, of norm 1."""
        quarters, mirrored = turn
        partners = np.rot90(self.partners[chosen], quarters, axes=(1, 2))
        partners = partners[:, :, ::-1] if mirrored else partners
        rest = self._unknown(partners.reshape(len(chosen), FINE * FINE, -1).astype(np.float32))
        return rest / np.linalg.norm(rest, axis=(1, 2), keepdims=True).clip(1e-3)

    def _unknown(self, flat: Float32[np.ndarray, "k p f"]) -> Float32[np.ndarray, "k p f"]:
        return flat - self.known @ (self.known.T @ flat)


def _sum(product: Float32[np.ndarray, "k r c"]) -> Float32[np.ndarray, " k"]:
    return (product**2).sum(axis=(1, 2))


def _orthonormal(columns: Float[np.ndarray, "k p f"]) -> Float[np.ndarray, "k p f"]:
    """Orthonormal columns that span the same, 0 in place of those that are none."""
    values, vectors = np.linalg.eigh(columns.transpose(0, 2, 1) @ columns)
    use: Bool[np.ndarray, "k f"] = values > RELATIVE * values[:, -1:].clip(1e-9)
    return columns @ (vectors * np.where(use, 1 / np.sqrt(np.where(use, values, 1)), 0)[:, None])

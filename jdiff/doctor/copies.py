"""The same image twice: bit for bit, or nearly so (saved again, resized, made brighter, mirrored,
turned).

Nearly the same: let x be the grey thumbnail (16 x 16) less its mean, over its norm. Two images are near copies where
|x - y| = sqrt(2 - 2 correlation) is at most a limit that is small, and small beside the distances that are usual in
these data. Candidates come from a k-d tree over the first principal components of x: an orthogonal projection lengthens
no distance, so no pair is lost to it, and the cost is about n log n. Of one image at most NEIGHBOURS candidates are
looked at.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from scipy.spatial import cKDTree
from sklearn.neighbors import NearestNeighbors

from jdiff.doctor.pool import Pool
from jdiff.doctor.thumbnails import DETAIL

NEAR = 0.1  # within which images may be copies: what saving again as JPEG changes, and not much more
OF_COLOUR = 2.0  # times as far as that may coloured thumbnails be apart
OF_USUAL = 0.17  # and within this share of the usual distance to the USUAL_RANK-th nearest image
USUAL_RANK = 10
SAMPLE = 256  # images whose neighbours tell what is usual
MOST_REFERENCES = 20_000
COMPONENTS = 24
NEIGHBOURS = 16
TURNS: dict[str, tuple[int, bool]] = {
    "": (0, False),
    "mirrored": (0, True),
    "upside down": (2, True),
    "turned": (1, False),
    "turned by 180 degrees": (2, False),
}  # quarter turns, and whether left and right are exchanged after; three quarters are one of the other image
MOST_TURNED = 20_000  # of more images the first two alone are tried: each costs as much again


@dataclass(frozen=True)
class NearPair:
    """Images `one` < `other` of a pool; correlation: of their thumbnails. way: how one is turned to be the other, as in
    TURNS.
    """

    one: int
    other: int
    correlation: float
    way: str


def exact(pool: Pool) -> list[list[int]]:
    """Groups of images that are equal to the bit."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for image, digest in enumerate(pool.hashes):
        groups[digest.tobytes()].append(image)
    return [group for group in groups.values() if len(group) > 1]


def near(pool: Pool) -> list[NearPair]:
    """Pairs of near copies, nearest first. Of exact copies the first alone is compared, and images in which nothing can
    be seen are not.
    """
    copies = np.zeros(len(pool), bool)
    for group in exact(pool):
        copies[group[1:]] = True
    chosen = np.flatnonzero(~copies & ~pool.plain)
    if len(chosen) < 2:
        return []
    rows = directions(pool.grey[chosen])
    limit = tolerance(rows)
    axes = _principal_axes(rows)
    tree = cKDTree(rows @ axes)
    found: dict[tuple[int, int], NearPair] = {}
    reach = min(NEIGHBOURS + 1, len(chosen))
    for way in list(TURNS)[: len(TURNS) if len(chosen) <= MOST_TURNED else 2]:
        queries = _turned(rows, way) @ axes
        _, others = tree.query(queries, k=reach, distance_upper_bound=limit * 1.001)
        ones, ranks = np.nonzero(others < len(chosen))  # len(chosen) stands for none
        twos = others[ones, ranks]
        different = ones != twos
        ones, twos = ones[different], twos[different]
        apart = np.linalg.norm(_turned(rows[ones], way) - rows[twos], axis=1)
        close = apart <= limit
        if pool.colour is not None:
            colours = (turn(pool.colour[chosen[ones]], way), pool.colour[chosen[twos]])
            close &= np.linalg.norm(directions(colours[0]) - directions(colours[1]), axis=1) <= OF_COLOUR * limit
        for one, two, distance in zip(chosen[ones[close]], chosen[twos[close]], apart[close], strict=True):
            pair = (int(min(one, two)), int(max(one, two)))
            if pair not in found:
                found[pair] = NearPair(*pair, float(1 - distance**2 / 2), way)
    return sorted(found.values(), key=lambda pair: -pair.correlation)


def directions(thumbnails: Float32[np.ndarray, "n ..."]) -> Float32[np.ndarray, "n d"]:
    """Rows less their means, over their norms."""
    flat = thumbnails.reshape(len(thumbnails), math.prod(thumbnails.shape[1:]))
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def turn(images: Float32[np.ndarray, "n k k ..."], way: str) -> Float32[np.ndarray, "n k k ..."]:
    quarters, mirrored = TURNS[way]
    turned = np.rot90(images, quarters, axes=(1, 2))
    return turned[:, :, ::-1] if mirrored else turned


def _turned(rows: Float32[np.ndarray, "n dd"], way: str) -> Float32[np.ndarray, "n dd"]:
    return turn(rows.reshape(-1, DETAIL, DETAIL), way).reshape(rows.shape)


def tolerance(rows: Float32[np.ndarray, "n dd"]) -> float:
    """The distance within which two of these rows are near copies."""
    rng = np.random.default_rng(0)
    references = rows[np.sort(rng.permutation(len(rows))[:MOST_REFERENCES])]
    sample = references[np.sort(rng.permutation(len(references))[:SAMPLE])]
    rank = min(USUAL_RANK, len(references) - 1)
    distances, _ = NearestNeighbors(n_neighbors=rank + 1, algorithm="brute").fit(references).kneighbors(sample)
    return min(NEAR, OF_USUAL * float(np.median(distances[:, rank])))  # rank 0 is the image itself


def _principal_axes(rows: Float32[np.ndarray, "n dd"]) -> Float32[np.ndarray, "dd k"]:
    _, vectors = np.linalg.eigh(rows.T @ rows)
    return vectors[:, -COMPONENTS:].astype(np.float32)

"""Do mirrored images look like the data? Then mirroring them in training costs nothing; of digits or letters it makes
things that the data do not have.

For an image x of a sample let d(x) be the distance to the nearest other image, and d(m(x)) that of its mirror image.
Where mirrored images look like the data, either is the larger one half of the time; else d(m(x)) mostly is.
"""

import numpy as np
from sklearn.metrics import pairwise_distances

from jdiff.doctor.copies import directions, tolerance
from jdiff.doctor.findings import Mirror
from jdiff.doctor.pool import Pool

MOST_QUERIES = 600  # images tried
MOST_REFERENCES = 4000  # images to be near to
MOST_CLASSES = 40
FEWEST = 16  # images of a class
SAME = 1e-3  # distance, of at most 2, below which images are the same but for rounding
MOST_TIMES = 20.0  # as far: what more is says no more


def mirror(pool: Pool) -> Mirror | None:
    """Left and right exchanged. Classes are judged each by itself. None of too few images that are not all the same."""
    seen = np.flatnonzero(~pool.held_out & ~pool.plain)
    if len(seen) < FEWEST:
        return None
    rows = directions(pool.grey[seen])
    turned = directions(pool.grey[seen][:, :, ::-1])
    limit = max(tolerance(rows), SAME)
    rng = np.random.default_rng(0)
    classes = {name: np.flatnonzero(pool.label[seen] == label) for label, name in enumerate(pool.class_names)}
    largest = sorted((name for name in classes if len(classes[name]) >= FEWEST), key=lambda name: -len(classes[name]))
    groups = {name: classes[name] for name in largest[:MOST_CLASSES]} or {"": np.arange(len(seen))}
    total = sum(map(len, groups.values()))
    farther, ratios, of_class = [], [], {}
    for name, own in groups.items():
        part = len(own) / total
        own = np.sort(rng.permutation(own)[: max(FEWEST, round(MOST_REFERENCES * part))])
        queries = own[np.sort(rng.permutation(len(own))[: max(FEWEST, round(MOST_QUERIES * part))])]
        straight, mirrored = (
            _nearest(these[queries], rows[own], queries[:, None] == own, limit) for these in (rows, turned)
        )
        apart = np.isfinite(mirrored) & np.isfinite(straight)
        if not apart.any():
            continue
        ratio = np.minimum(mirrored[apart] / straight[apart], MOST_TIMES)
        larger = np.where(np.isclose(ratio, 1, atol=1e-4), 0.5, ratio > 1)
        farther.append(larger)
        ratios.append(ratio)
        of_class[name] = float(larger.mean())
    if sum(map(len, farther)) < FEWEST:
        return None
    share = np.concatenate(farther)
    return Mirror(
        farther=float(share.mean()),
        ratio=float(np.median(np.concatenate(ratios))),
        images=len(share),
        classes={name: value for name, value in of_class.items() if name},
    )


def _nearest(queries: np.ndarray, references: np.ndarray, same: np.ndarray, limit: float) -> np.ndarray:
    """Distance to the nearest reference that is neither the image itself nor a copy; infinite where there is none."""
    distances = pairwise_distances(queries, references)
    distances[same | (distances <= limit)] = np.inf
    return distances.min(axis=1)

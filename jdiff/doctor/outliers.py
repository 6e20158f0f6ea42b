"""Images far from the rest: their distance to the fifth nearest of the others, on a logarithmic scale, beyond the
median by many times the median deviation. Distances are between thumbnails, so it is colour and layout that count.
"""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float, Float32
from sklearn import config_context
from sklearn.neighbors import NearestNeighbors

from jdiff.doctor.findings import Finding, Place, Suspect
from jdiff.doctor.pool import Pool
from jdiff.doctor.words import MOST_SUSPECTS, listed, many

RANK = 5
MOST_REFERENCES = 4000
BEYOND = 4.5  # median deviations, each 1.48 times the median absolute one (a normal distribution's standard deviation)
FEWEST = 50  # images among which one can be far from the rest
EQUAL = 1e-3  # distance of images that are the same
FARTHEST = 12  # images that are shown in any case


def farthest(pool: Pool, times: Float[np.ndarray, " n"]) -> tuple[Suspect, ...]:
    """The images farthest from the rest, whether that means something or not."""
    return tuple(_suspect(pool, row, times[row]) for row in np.argsort(-times)[:FARTHEST].tolist())


def outliers(pool: Pool, times: Float[np.ndarray, " n"], known: Collection[Place]) -> Finding:
    """Finding "outliers". times: of `times_as_far`. known: records of which something worse has been said."""
    code = "outliers"
    log = np.log(times)
    spread = 1.4826 * float(np.median(np.abs(log)))
    order = np.argsort(-times).tolist()
    rows = [row for row in order if log[row] > BEYOND * spread and pool.place(row) not in known]
    if not rows:
        return Finding(code, "fine", "no image is far from the rest")
    shown = tuple(_suspect(pool, row, times[row]) for row in rows[:MOST_SUSPECTS])
    return Finding(
        code,
        "look",
        f"{many(len(rows), 'image')} far from the rest: {listed([f'{one.places[0]} ({one.why})' for one in shown], 2)}",
        "look whether they belong here",
        len(rows),
        shown,
    )


def _suspect(pool: Pool, row: int, times: float) -> Suspect:
    return Suspect((pool.place(row),), f"{times:.1f} times as far as usual")


def times_as_far(pool: Pool) -> Float[np.ndarray, " n"] | None:
    """Distance of every image to the RANK-th nearest other one, in units of its median; None of too few images, and
    where most are copies of others.
    """
    if len(pool) < FEWEST:
        return None
    rows = _features(pool)
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST_REFERENCES])
    search = NearestNeighbors(n_neighbors=RANK + 1, algorithm="brute").fit(rows[chosen])
    with config_context(working_memory=64):  # MiB
        distances, _ = search.kneighbors(rows)
    far = np.where(np.isin(np.arange(len(rows)), chosen), distances[:, -1], distances[:, -2])  # itself is the nearest
    usual = float(np.median(far))
    return np.maximum(far, 1e-6) / usual if usual > EQUAL else None


def _features(pool: Pool) -> Float32[np.ndarray, "n f"]:
    if pool.colour is not None:
        return pool.colour.reshape(len(pool), -1)
    count, side = pool.grey.shape[:2]
    return pool.grey.reshape(count, side // 2, 2, side // 2, 2).mean(axis=(2, 4)).reshape(count, -1)

"""Pictures beside numbers: some images, and those that lie nearest to a training image beside it."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jdiff.common import pictures
from jdiff.common.processes import is_first_process
from jdiff.evaluation.gather import Gathered
from jdiff.metrics.neighbours import nearest
from jdiff.scoring.judge import Judge, Scored

GRID = 64  # images
PAIRS = 8  # images beside their nearest training image
GRID_FILE, PAIRS_FILE = "grid.png", "nearest.png"


def write(out: Path, images: Scored, judge: Judge, found: Gathered) -> None:
    """Write them into a folder."""
    first, _ = images.of(np.arange(min(GRID, len(images))))
    both = pairs(images, judge, found)
    if not is_first_process():
        return
    pictures.save_png(out / GRID_FILE, pictures.grid(first))
    if both is not None:
        pictures.save_png(out / PAIRS_FILE, pictures.grid(both, PAIRS))


def pairs(images: Scored, judge: Judge, found: Gathered) -> UInt8[np.ndarray, "n h w c"] | None:
    """The images nearest to a training image by their features, and below each the training image; None where training
    images are not compared.
    """
    training, _ = judge.splits
    if training is None or judge.data is None:
        return None
    near = nearest(found.features, training)
    chosen = np.argsort(near.distances, kind="stable")[:PAIRS]
    drawn, _ = images.of(chosen)
    trained, _ = judge.data.train.of(near.indices[chosen])
    return np.concatenate([drawn, trained])

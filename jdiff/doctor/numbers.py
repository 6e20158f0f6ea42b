"""From what was kept of a split's pictures to the numbers that describe them."""

from collections import Counter

import numpy as np

from jdiff.doctor.findings import PictureNumbers
from jdiff.doctor.reading import Scan


def numbers(scan: Scan, name: str, trained_sigma: float | None = None) -> PictureNumbers:
    """Of one picture: with x in [0, 1], mean 2 E x - 1, standard deviation 2 sqrt(E x^2 - (E x)^2), each image counting
    alike; sigma_data is the same over all channels together. trained_sigma: as PictureNumbers has it.
    """
    kept = scan.pictures[name]
    picture, read = kept.picture, kept.read
    count = max(kept.summed, 1)
    first, second = kept.sum / count, kept.sum_squares / count
    low, scale = picture.low, picture.high - picture.low
    ends = [float(end) for end in (kept.lowest[read].min(initial=np.inf), kept.highest[read].max(initial=-np.inf))]
    histogram = kept.histogram / np.maximum(kept.histogram.sum(axis=1, keepdims=True), 1)
    return PictureNumbers(
        name=name,
        kind=picture.kind,
        sizes=dict(Counter(zip(kept.height[read].tolist(), kept.width[read].tolist(), strict=True)).most_common()),
        channels=dict(Counter(kept.channels[read].tolist()).most_common()),
        dtypes=dict(kept.dtypes.most_common()),
        low=low,
        high=picture.high,
        lowest=low + ends[0] * scale if read.any() else low,
        highest=low + ends[1] * scale if read.any() else low,
        at_low=kept.at_low / count,
        at_high=kept.at_high / count,
        mean=tuple((2 * first - 1).tolist()),
        std=tuple((2 * np.sqrt(np.maximum(second - first**2, 0))).tolist()),
        sigma_data=float(2 * np.sqrt(max(second.mean() - first.mean() ** 2, 0))),
        histogram=tuple(tuple(row) for row in histogram.tolist()),
        trained_sigma=trained_sigma,
    )

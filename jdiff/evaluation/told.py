"""What a model says of the pages of a file, one for a photo: masks, maps of how sure it is, and a line of a table."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from jdiff.evaluation.segmentation import entropy

PROBABILITIES, ENTROPY, VARIANCE = "probabilities", "entropy", "variance"
TOUCHING = np.ones((3, 3, 3))  # by a corner too


@dataclass
class Told:
    """masks: of each page, the number of the likeliest class of each pixel. maps: of each page, by (kind, class), 8
    bits of [0, `most`]; entropy and variance are of class 0, that is of all.
    """

    masks: list[UInt8[np.ndarray, "h w"]] = field(default_factory=list)
    maps: dict[tuple[str, int], list[UInt8[np.ndarray, "h w"]]] = field(default_factory=lambda: defaultdict(list))
    sums: Counter[str] = field(default_factory=Counter)
    peak: float = 0.0

    def add(self, probabilities: Float[np.ndarray, "h w classes"], variance: Float[np.ndarray, "h w"]) -> None:
        """Another page. variance: over members, see Segmentation."""
        number, uncertain = probabilities.argmax(axis=-1).astype(np.uint8), entropy(probabilities)
        classes, found, p = probabilities.shape[-1], number > 0, 1 - probabilities[..., 0].astype(np.float64)
        self.masks.append(number)
        maps = {(PROBABILITIES, k): probabilities[..., k] for k in range(1, classes)}
        for key, values in (maps | {(ENTROPY, 0): uncertain, (VARIANCE, 0): variance}).items():
            share = (values / most(key[0], classes)).clip(0, 1)
            self.maps[key].append(np.rint(255 * share).astype(np.uint8))
        self.sums["pixels"] += p.size
        self.sums["p"] += p.sum()
        self.sums["m"] += int(found.sum())
        self.sums["pm"] += p[found].sum()
        self.sums["entropy"] += uncertain.sum(dtype=np.float64)
        self.sums["variance"] += variance.sum(dtype=np.float64)
        self.peak = max(self.peak, float(p.max()))

    def row(self) -> dict[str, Any]:
        """A line of the table. area: pixels of no background. components: how many connected regions they make, through
        the slices of a volume. confidence: the soft Dice 2 sum p m / (sum p + sum m) of the probability p of no
        background with the mask m, which is the Dice to expect of a model that is calibrated; of an empty mask 1 - the
        largest p. entropy, in nats, and variance: means over pixels.
        """
        sums, masks = self.sums, np.stack(self.masks)
        confidence = 2 * sums["pm"] / (sums["p"] + sums["m"]) if sums["m"] else 1 - self.peak
        return {
            "slices": len(masks),
            "height": masks.shape[1],
            "width": masks.shape[2],
            "area": sums["m"],
            "components": int(ndimage.label(masks > 0, TOUCHING)[1]),
            "confidence": round(float(confidence), 4),
            "entropy": round(float(sums["entropy"] / sums["pixels"]), 6),
            "variance": round(float(sums["variance"] / sums["pixels"]), 6),
        }


def most(kind: str, classes: int) -> float:
    """The largest value of a map: probability 1, entropy ln K, variance (1 - 1/K)/2, of K classes."""
    return {PROBABILITIES: 1.0, ENTROPY: math.log(classes), VARIANCE: (1 - 1 / classes) / 2}[kind]

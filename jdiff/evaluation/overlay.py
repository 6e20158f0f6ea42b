"""Masks over the pictures that they are of."""

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from jdiff.common import pictures
from jdiff.metrics.lesions import NEIGHBOURS

COLOURS = ((0, 255, 0), (255, 64, 64), (64, 128, 255), (255, 220, 0), (255, 0, 255), (0, 255, 255))


def overlay(picture: UInt8[np.ndarray, "h w c"], numbers: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with the border of each class in a colour."""
    drawn = pictures.coloured(picture).copy()
    width = max(1, min(numbers.shape) // 200)
    for number in np.unique(numbers[numbers > 0]):
        region = np.pad(numbers == number, 1)
        inner = ndimage.binary_erosion(region, NEIGHBOURS, iterations=width)
        drawn[(region & ~inner)[1:-1, 1:-1]] = COLOURS[(int(number) - 1) % len(COLOURS)]
    return drawn

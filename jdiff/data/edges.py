"""Sketches computed from photos: uint8 [h, w, c] -> uint8 [h, w, 1], dark lines on white paper.

Photos are grey, in colour (ITU-R 601 luma) or in colour with opacity, which are laid on white. Lengths are in pixels,
brightness in [0, 1] from black to white.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from scipy import ndimage

from jdiff.common.errors import UserError
from jdiff.data.sources import Picture

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SOBEL = 8  # Sobel's filters give so many times the slope per pixel


@dataclass(frozen=True)
class Canny:
    """Lines one pixel wide, black on white, where brightness changes fastest (Canny 1986), by scikit-image.

    sigma: blur before looking. low, high: slopes, in brightness a pixel; a line is drawn where the slope is at least
    low, if somewhere along it, it is at least high.

    Raises UserError where scikit-image (extra `edges`) is not installed.
    """

    sigma: float = 1.0
    low: float = 0.02
    high: float = 0.06

    def __call__(self, photo: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 1"]:
        try:
            from skimage.feature import canny
        except ImportError as error:
            raise UserError(f'canny needs the library scikit-image ({error}): pip install "jdiff[edges]"') from error
        lines = canny(brightness(photo), self.sigma, SOBEL * self.low, SOBEL * self.high)
        return np.where(lines, 0, 255).astype(np.uint8)[..., None]

    def made(self, of: Picture) -> Picture:
        return Picture((*of.shape[:2], 1))


@dataclass(frozen=True)
class XDoG:
    """The extended difference of Gaussians (Winnemöller, Kyprianidis & Olsen 2012, Computers & Graphics 36(6)):

        S = (1 + p) G_sigma * I - p G_(k sigma) * I,  paper = 1 where S >= epsilon, else 1 + tanh(phi (S - epsilon)).

    sigma: the lines' breadth. k: the two blurs' ratio. p: how strongly edges stand out; where there are none, S = I.
    epsilon: brightness below which tones are inked too. phi: how suddenly ink begins.
    """

    sigma: float = 0.6
    k: float = 1.6
    p: float = 20.0
    epsilon: float = 0.4
    phi: float = 4.0

    def __call__(self, photo: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 1"]:
        grey = brightness(photo)
        near, far = (ndimage.gaussian_filter(grey, sigma) for sigma in (self.sigma, self.k * self.sigma))
        below = np.minimum((1 + self.p) * near - self.p * far - self.epsilon, 0)
        return np.rint(255 * (1 + np.tanh(self.phi * below))).astype(np.uint8)[..., None]

    def made(self, of: Picture) -> Picture:
        return Picture((*of.shape[:2], 1))


def brightness(photo: UInt8[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w"]:
    """In [0, 1]. Raises ValueError for other than 1, 3 or 4 channels."""
    channels = photo.shape[-1]
    if channels not in (1, 3, 4):
        raise ValueError(f"a sketch is made of a photo of 1, 3 or 4 channels; this has {channels}")
    levels = photo.astype(np.float32) / 255
    if channels == 1:
        return levels[..., 0]
    luma = levels[..., :3] @ LUMA
    return luma if channels == 3 else 1 - levels[..., 3] * (1 - luma)

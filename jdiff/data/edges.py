"""Sketches of photos: uint8 [h, w, c] -> uint8 [h, w, 1], dark lines on white.

A photo is grey, RGB or RGBA (composited on white). Lengths are in pixels, brightness is in [0, 1].
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from jdiff.common.errors import UserError, install
from jdiff.data.sources import Picture

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SOBEL = 8  # the gain of Sobel's filters over the gradient per pixel


@dataclass(frozen=True)
class Canny:
    """Canny's edge detector (Canny 1986) by scikit-image: edges one pixel wide, black on white.

    sigma: of the Gaussian blur. low, high: thresholds of hysteresis on the gradient, in brightness per pixel.
    Raises UserError if scikit-image (extra `edges`) is not installed.
    """

    sigma: float = 1.0
    low: float = 0.02
    high: float = 0.06

    def __call__(self, photo: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 1"]:
        try:
            from skimage.feature import canny
        except ImportError as error:
            raise UserError(f"canny needs the library scikit-image ({error}): {install('edges')}") from error
        lines = canny(brightness(photo), self.sigma, SOBEL * self.low, SOBEL * self.high)
        return np.where(lines, 0, 255).astype(np.uint8)[..., None]

    def made(self, of: Picture) -> Picture:
        """One channel, uint8."""
        return Picture((*of.shape[:2], 1))


@dataclass(frozen=True)
class XDoG:
    """The extended difference of Gaussians (Winnemöller, Kyprianidis & Olsen 2012, Computers & Graphics 36(6)) of the
    brightness I:

        S = (1 + p) G_sigma * I - p G_(k sigma) * I,  sketch = 1 if S >= epsilon, else 1 + tanh(phi (S - epsilon)).

    sigma: standard deviation of the narrow Gaussian, the width of lines. k: ratio of the wide one's to it. p: gain of
    edges; S = I on flat areas. epsilon: threshold of brightness. phi: steepness of the transition from white to black.
    """

    sigma: float = 0.6
    k: float = 1.6
    p: float = 20.0
    epsilon: float = 0.4
    phi: float = 4.0

    def __call__(self, photo: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 1"]:
        from scipy import ndimage  # here: 0.2 s

        grey = brightness(photo)
        near, far = (ndimage.gaussian_filter(grey, sigma) for sigma in (self.sigma, self.k * self.sigma))
        below = np.minimum((1 + self.p) * near - self.p * far - self.epsilon, 0)
        return np.rint(255 * (1 + np.tanh(self.phi * below))).astype(np.uint8)[..., None]

    def made(self, of: Picture) -> Picture:
        """One channel, uint8."""
        return Picture((*of.shape[:2], 1))


def brightness(photo: UInt8[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w"]:
    """ITU-R 601 luma in [0, 1], RGBA composited on white. Raises ValueError unless there are 1, 3 or 4 channels."""
    channels = photo.shape[-1]
    if channels not in (1, 3, 4):
        raise ValueError(f"a sketch needs a photo of 1, 3 or 4 channels; this has {channels}")
    levels = photo.astype(np.float32) / 255
    if channels == 1:
        return levels[..., 0]
    luma = levels[..., :3] @ LUMA
    return luma if channels == 3 else 1 - levels[..., 3] * (1 - luma)

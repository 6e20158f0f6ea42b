"""Scores of an image against its reference: PSNR, SSIM, MS-SSIM.

For windowed means mu, variances s^2 and covariance s_xy under a Gaussian window of 11x11 with sigma 1.5, of both
images, c_i = (K_i L)^2, K = (0.01, 0.03), L the data's range (maximum - minimum):

    cs = (2 s_xy + c_2) / (s_x^2 + s_y^2 + c_2)        ssim = cs (2 mu_x mu_y + c_1) / (mu_x^2 + mu_y^2 + c_1)

SSIM is ssim's mean over the windows that lie within the image, then over channels (Wang et al., IEEE TIP 13, 2004).
MS-SSIM is the product over scales j of mean(cs)^w_j, the coarsest having ssim for cs, each scale being the last one
averaged over 2x2 pixels (Wang, Simoncelli and Bovik, 2003). In float64; arrays [n, h, w, c]; one score an image.
"""

import numpy as np
from jaxtyping import Float, Shaped
from scipy.ndimage import correlate1d

from jdiff.common.errors import UserError

RADIUS = 5
WINDOW = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * 1.5**2))
WINDOW = WINDOW / WINDOW.sum()
WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])  # of the scales, finest first; their sum is 1.0001

Images = Shaped[np.ndarray, "_n _h _w _c"]


def psnr(images: Images, references: Images, data_range: float) -> Float[np.ndarray, " n"]:
    """10 log10(L^2 / MSE) in dB, the mean over pixels and channels; inf for equal images.

    Raises UserError for other shapes or values that are not finite.

    >>> black = np.zeros((1, 2, 2, 1))
    >>> psnr(black + 25.5, black, 255).round(6).tolist()
    [20.0]
    """
    x, y = _pair(images, references, data_range)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(data_range**2 / np.mean((x - y) ** 2, axis=(1, 2, 3)))


def ssim(images: Images, references: Images, data_range: float) -> Float[np.ndarray, " n"]:
    """The structural similarity in [-1, 1]; 1 for equal images.

    Raises UserError for sides below 11, other shapes or values that are not finite.
    """
    x, y = _pair(images, references, data_range)
    side = 2 * RADIUS + 1
    if min(x.shape[1:3]) < side:
        raise UserError(f"SSIM's window is {side}x{side} pixels, larger than images of {x.shape[1]}x{x.shape[2]}")
    return _similarities(x, y, data_range)[0].mean(axis=1)


def ms_ssim(images: Images, references: Images, data_range: float, scales: int = 5) -> Float[np.ndarray, " n"]:
    """The multi-scale structural similarity in [0, 1]; 1 for equal images.

    Fewer scales than 5 take the finest ones, with their weights' sum made 1: another number, to be named as such.
    Negative means of cs count as 0, and odd sides repeat their last row. Raises UserError for sides below
    10 * 2^(scales - 1) + 1, which is 161 for 5 scales, other shapes or values that are not finite.
    """
    if not 1 <= scales <= len(WEIGHTS):
        raise ValueError(f"scales={scales}: from 1 to {len(WEIGHTS)}")
    x, y = _pair(images, references, data_range)
    side = 2 * RADIUS * 2 ** (scales - 1) + 1
    if min(x.shape[1:3]) < side:
        most = max((s for s in range(1, scales) if 2 * RADIUS * 2 ** (s - 1) < min(x.shape[1:3])), default=0)
        remedy = f"ask for scales={most}" if most else "these images are too small for any"
        raise UserError(
            f"MS-SSIM of {scales} scales needs sides of at least {side}; these are {x.shape[1]}x{x.shape[2]}: {remedy}"
        )
    weights = WEIGHTS if scales == len(WEIGHTS) else WEIGHTS[:scales] / WEIGHTS[:scales].sum()
    product = np.ones((len(x), x.shape[3]))
    for scale, weight in enumerate(weights):
        if scale:
            x, y = _halved(x), _halved(y)
        whole, structure = _similarities(x, y, data_range)
        product *= np.maximum(whole if scale == scales - 1 else structure, 0) ** weight
    return product.mean(axis=1)


def _pair(images: np.ndarray, references: np.ndarray, data_range: float) -> tuple[np.ndarray, np.ndarray]:
    if not 0 < data_range < np.inf:
        raise ValueError(f"data_range={data_range}: the data's maximum - minimum, such as 255, is positive and finite")
    x, y = np.asarray(images, np.float64), np.asarray(references, np.float64)
    if x.ndim != 4 or x.shape != y.shape:
        raise UserError(f"images and references must be [n, h, w, c] alike; they are {list(x.shape)}, {list(y.shape)}")
    for name, values in (("images", x), ("references", y)):
        bad = ~np.isfinite(values).all(axis=(1, 2, 3))
        if bad.any():
            raise UserError(f"{int(bad.sum())} of the {name} hold NaN or infinite values, the first is {bad.argmax()}")
    return x, y


def _similarities(x: np.ndarray, y: np.ndarray, data_range: float) -> tuple[np.ndarray, np.ndarray]:
    """Means of ssim and cs, each [n, c]."""
    c_1, c_2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mu_x, mu_y = _windowed(x), _windowed(y)
    square_x, square_y, product = mu_x**2, mu_y**2, mu_x * mu_y
    variances = _windowed(x * x) - square_x + _windowed(y * y) - square_y
    structure = (2 * (_windowed(x * y) - product) + c_2) / (variances + c_2)
    whole = structure * (2 * product + c_1) / (square_x + square_y + c_1)
    return whole.mean(axis=(1, 2)), structure.mean(axis=(1, 2))


def _windowed(x: np.ndarray) -> np.ndarray:
    """Gaussian means over the windows within the image: [n, h, w, c] -> [n, h - 10, w - 10, c]."""
    for axis in (1, 2):
        x = correlate1d(x, WINDOW, axis=axis)
    return x[:, RADIUS:-RADIUS, RADIUS:-RADIUS]


def _halved(x: np.ndarray) -> np.ndarray:
    """Means over 2x2 pixels; an odd side repeats its last row or column."""
    n, h, w, c = x.shape
    x = np.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    return x.reshape(n, (h + 1) // 2, 2, (w + 1) // 2, 2, c).mean(axis=(2, 4))

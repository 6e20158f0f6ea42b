"""Image files -> arrays [h, w, c] of 8 bits, or grey ones of 16. No other module opens image files."""

import os
import stat
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageOps, UnidentifiedImageError

from jdiff.data.sources import HIGHEST, Picture, Shape

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MOST_PIXELS = 128 << 20
MOST_BYTES = 8 * MOST_PIXELS  # of a file: Pillow reads some formats' files whole
NOT_IMAGES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}  # formats that Pillow knows and cannot read

# Pillow warns below our own limit. Its error above 179 million pixels stays on: it covers images embedded in files too.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(path: str | Path, channels: int, bits: int = 8) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w 1"]:
    """The image of a file as an array: `to_array` of `load`. Raises what they raise."""
    return to_array(load(path), channels, bits)


def of_files(shape: Shape, bits: int = 8) -> Picture:
    """The description of `to_array`'s results of shape `shape`."""
    if bits == 16:
        return Picture(shape, "uint16", high=HIGHEST["uint16"])
    return Picture(shape, alpha=shape[-1] == 4)


def load(file: Any) -> Image.Image:
    """The first frame of the image in a file (a path or a binary stream), rotated by its EXIF orientation.

    Raises OSError, ValueError or an error of a Pillow plugin if the file is not a complete image. Raises ValueError,
    before memory is allocated, for more than 2^27 pixels (134 million: a file of kilobytes may claim billions), more
    than 1 GiB, or a path that is not a regular file (a pipe may never end).
    """
    by_name = isinstance(file, (str, Path))
    if by_name:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES >> 30} GiB")
    try:
        # A stream, not a name: Pillow memory-maps named files, and a truncated mapped file kills the process.
        with open(file, "rb") if by_name else nullcontext(file) as stream, Image.open(stream) as image:
            if image.format in NOT_IMAGES:
                raise ValueError(f"it is {image.format}, which is not an image format here")
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
    except UnidentifiedImageError as error:
        raise ValueError("it is not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"it has more than {MOST_PIXELS / 1e6:.0f} million pixels: scale it down or crop it"
        ) from error
    if not all(image.size):
        raise ValueError("it has no pixels")
    return image


def to_array(
    image: Image.Image, channels: int, bits: int = 8
) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w 1"]:
    """A Pillow image of any mode -> uint8 with 1 (grey), 3 (RGB) or 4 (RGBA) channels; bits=16: uint16, grey alone.

    Transparent images are composited on white unless channels is 4. 16-bit values are divided by 257 for 8 bits, 8-bit
    ones multiplied by it for 16; floats in [0, 1] are scaled. Raises ValueError for other floats, and for integers
    outside 0 .. 65535.
    """
    deep = image.mode.startswith(("I", "F"))
    if bits == 16:
        return (_sixteen_bits(image) if deep else to_array(image, 1)[..., 0] * np.uint16(257))[..., None]
    if deep:
        image = Image.fromarray(np.rint(_sixteen_bits(image) / np.float32(257)).astype(np.uint8))
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if transparent and channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    array = np.asarray(image.convert(MODES[channels]))
    return array[..., None] if channels == 1 else array


def _sixteen_bits(image: Image.Image) -> UInt16[np.ndarray, "h w"]:
    values = np.asarray(image)
    highest = 1.0 if image.mode == "F" else HIGHEST["uint16"]
    if not (values.min() >= 0 and values.max() <= highest):
        what, most = ("floats", "1") if image.mode == "F" else ("integers", "65535")
        raise ValueError(
            f"it holds {what} from {values.min():g} to {values.max():g}, and image files must hold 0 to {most}: "
            "data.name=arrays takes any range"
        )
    return np.rint(values * np.float32(65535)).astype(np.uint16) if image.mode == "F" else values.astype(np.uint16)

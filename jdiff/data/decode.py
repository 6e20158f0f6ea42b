"""An image file of any mode -> [h, w, channels] of 8 bits, or of grey ones of 16.

The orientation that a camera wrote is applied, transparent images are laid on white, animated ones give their first
frame. 16-bit files are scaled to 8 bits by 1/257, 8-bit ones to 16 by 257; floats are from 0 to 1. Files are opened
here alone, masks' too.
"""

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
MOST_BYTES = 8 * MOST_PIXELS  # of a file, which some formats' readers read whole
NOT_IMAGES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}  # known to Pillow, not pictures to it

# Pillow warns of fewer pixels than are read here. Its own error, for more than 179 million, stays: it knows of the
# pictures within some formats too.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(path: str | Path, channels: int, bits: int = 8) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w 1"]:
    """As `load` and `to_array`, and raises what these do."""
    return to_array(load(path), channels, bits)


def of_files(shape: Shape, bits: int = 8) -> Picture:
    """What `to_array` gives."""
    if bits == 16:
        return Picture(shape, "uint16", high=HIGHEST["uint16"])
    return Picture(shape, alpha=shape[-1] == 4)


def load(file: Any) -> Image.Image:
    """The image of a path or of a stream of bytes, turned as its camera wrote; of several frames the first.

    More than 2^27 pixels (134 million, such as 11585x11585) are refused before memory is taken for them: a file of some
    kilobytes may claim billions. So are files of more than 1 GiB, and such as are not regular: a pipe may never end.

    Raises OSError or ValueError, or whatever Pillow's plugins do, where the file is not a whole image.
    """
    by_name = isinstance(file, (str, Path))
    if by_name:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        if status.st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES >> 30} GiB")
    try:
        # Of a stream, not of a name: Pillow maps files that have one, and a map whose file is cut short kills us.
        with open(file, "rb") if by_name else nullcontext(file) as stream, Image.open(stream) as image:
            if image.format in NOT_IMAGES:
                raise ValueError(f"it is {image.format}, which is not read as an image")
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
    except UnidentifiedImageError as error:
        raise ValueError("it is no image, or of a format that is not known") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"it has more than {MOST_PIXELS / 1e6:.0f} million pixels: scale it down or cut it") from error
    if not all(image.size):
        raise ValueError("it has no pixels")
    return image


def to_array(
    image: Image.Image, channels: int, bits: int = 8
) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w 1"]:
    """A Pillow image of any mode in 1 (grey), 3 (RGB) or 4 (RGBA) channels, uint8; of 16 bits (grey alone) uint16.

    Raises ValueError for integers that are no 16-bit ones, and floats outside [0, 1].
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
            f"it holds {what} from {values.min():g} to {values.max():g}, and those of files must be from 0 to {most}: "
            "data.name=arrays takes any range"
        )
    return np.rint(values * np.float32(65535)).astype(np.uint16) if image.mode == "F" else values.astype(np.uint16)

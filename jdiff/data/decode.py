"""An image file of any mode -> uint8 [h, w, channels].

The orientation that a camera wrote is applied, transparent images are laid on white, 16-bit ones are scaled to 8 bits
by 1/257, animated ones give their first frame.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def decode(path: str | Path, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Raises OSError or ValueError where the file is not a whole image."""
    with Image.open(path) as file:
        file.load()
        return to_array(ImageOps.exif_transpose(file), channels)


def to_array(image: Image.Image, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """A Pillow image of any mode in 1 (grey), 3 (RGB) or 4 (RGBA) channels."""
    if image.mode.startswith(("I", "F")):
        image = _eight_bit(image)
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if transparent and channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    array = np.asarray(image.convert(MODES[channels]))
    return array[..., None] if channels == 1 else array


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit and 32-bit integers and floats as 8-bit grey: integers over 255 by 1/257, floats within [0, 1] by 255."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
        scale = 255.0 if values.max() <= 1 else 1.0
    else:
        scale = 1 / 257 if image.mode.startswith("I;16") or values.max() > 255 else 1.0
    return Image.fromarray(np.clip(np.round(values * scale), 0, 255).astype(np.uint8))

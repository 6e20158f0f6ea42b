"""Image files -> arrays [h, w, c] of 8 or 16 bits. No other module opens image files but jdiff.data.medical."""

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from jdiff.common.errors import install
from jdiff.data.sources import HIGHEST, Picture, Shape
from jdiff.data.trees import open_file

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MOST_PIXELS = 128 << 20
NOT_IMAGES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}  # formats that Pillow knows and cannot read
PAGED = {"TIFF", "GIF", "PNG", "WEBP", "AVIF"}  # formats whose frames are pages; a phone's MPO holds previews
MARGIN = 2  # a JPEG is decoded at least this much larger than wanted, so that the resize still does the rest
ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
BITS_PER_SAMPLE = 258  # a TIFF tag

# Pillow warns below our own limit. Its error above 179 million pixels stays on: it covers images embedded in files too.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Facts:
    """What one look at a picture file tells.

    height, width: of its first page, turned by its EXIF orientation. pages: how many it holds. bits: of a channel: 8,
    16, or 32 for floats. colour: whether it has colour channels. low, high: the extremes of its values where it has
    more than 8 bits. profile: the name of a colour profile other than sRGB, "" without. window: the two values that
    DICOM shows as black and white, None without. values, binary: of a mask, see jdiff.data.masks.MaskSummary.
    """

    height: int
    width: int
    pages: int = 1
    bits: int = 8
    colour: bool = False
    low: float = 0.0
    high: float = 255.0
    profile: str = ""
    window: Sequence[float] | None = None
    values: Sequence[int] = ()
    binary: bool | None = None

    def __post_init__(self) -> None:  # lists, where they were kept as JSON
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "window", None if self.window is None else tuple(self.window))


@dataclass(frozen=True)
class Reader:
    """Picture files -> uint8 [h, w, channels] or, with bits=16, uint16 [h, w, channels], of 1 (grey), 3 (RGB) or, of
    8 bits, 4 (RGBA) channels.

    near: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size (from its own cosines, in a fraction of the time) where both
    its sides stay at least MARGIN times this many pixels; 0: at its full size.
    """

    channels: int = 3
    bits: int = 8
    near: int = 0

    def __call__(
        self, stream: BufferedIOBase, page: int = 0
    ) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"]:
        """The picture of a binary stream. Raises what `load` and `to_array` raise."""
        if self._keeps_deep_colours and (picture := _deep_colours(stream, page)) is not None:
            return picture
        return to_array(load(stream, page=page, near=self.near), self.channels, self.bits)

    @property
    def finds(self) -> str:
        """What decides of `look` beside the file: nothing but whether 16 bits of colour must be readable."""
        return f"images{', deep colours' * self._keeps_deep_colours}"

    @property
    def _keeps_deep_colours(self) -> bool:
        return self.bits == 16 and self.channels == 3

    def look(self, stream: BufferedIOBase) -> Facts:
        """What there is to know of a file, whose first page is read to its end."""
        with _opened(stream) as image:
            facts = _facts(image)
            paged = image.format in PAGED
            turned = image.format == "JPEG" and image.getexif().get(ORIENTATION) in TURNED
            image = _loaded(image, near=self.near)
        if turned or (image.width, image.height) == (facts.height, facts.width):
            facts = replace(facts, height=facts.width, width=facts.height)
        if paged:
            facts = replace(facts, pages=_pages(stream))
        if facts.bits == 16 and facts.colour and self._keeps_deep_colours:
            stream.seek(0)
            _deep_colours(stream, 0)
        if facts.bits > 8 and not facts.colour:
            values = _sixteen_bits(image)
            facts = replace(facts, low=float(values.min()), high=float(values.max()))
        else:
            to_array(image, self.channels, self.bits)
        return facts


def decode(path: str | Path, channels: int, bits: int = 8) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"]:
    """The image of a file as an array: `to_array` of `load`. Raises what they raise."""
    return to_array(load(path), channels, bits)


def of_files(shape: Shape, bits: int = 8) -> Picture:
    """The description of `to_array`'s results of shape `shape`."""
    if bits == 16:
        return Picture(shape, "uint16", high=HIGHEST["uint16"])
    return Picture(shape, alpha=shape[-1] == 4)


def load(file: Any, *, page: int = 0, near: int = 0) -> Image.Image:
    """A page of the image in a file (a path or a binary stream), turned by its EXIF orientation and with its colours
    in sRGB. near: see Reader.

    Raises OSError, ValueError or an error of a Pillow plugin if the file is not a complete image. Raises ValueError,
    before memory is allocated, for more than 2^27 pixels (134 million: a file of kilobytes may claim billions), more
    than 1 GiB, or a path that is not a regular file (a pipe may never end).
    """
    if isinstance(file, (str, Path)):
        # A stream, not a name: Pillow memory-maps named files, and a truncated mapped file kills the process.
        with open_file(str(file)) as stream:
            return load(stream, page=page, near=near)
    with _opened(file) as image:
        return _loaded(image, page=page, near=near)


def header(stream: BufferedIOBase) -> Facts:
    """What the header of an image file tells; the stream is at its beginning again. Raises what `load` raises."""
    with _opened(stream) as image:
        facts = _facts(image)
    stream.seek(0)
    return facts


@contextmanager
def _opened(stream: BufferedIOBase) -> Iterator[Image.Image]:
    """The image of a stream, its header read. What makes it unreadable is told in words."""
    try:
        with Image.open(cast(IO[bytes], stream)) as image:
            if image.format in NOT_IMAGES:
                raise ValueError(f"it is {image.format}, which is not an image format here")
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except UnidentifiedImageError as error:
        raise ValueError("it is not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"it has more than {MOST_PIXELS / 1e6:.0f} million pixels: scale it down or crop it"
        ) from error


def _loaded(image: Image.Image, *, page: int = 0, near: int = 0) -> Image.Image:
    """The pixels of a page."""
    if page:
        image.seek(page)
        if image.width * image.height > MOST_PIXELS:
            raise Image.DecompressionBombError
    if near and image.format == "JPEG":
        image.draft(None, (MARGIN * near, MARGIN * near))
    image.load()
    if not all(image.size):
        raise ValueError("it has no pixels")
    with suppress(SyntaxError, ValueError, TypeError, KeyError, struct.error):  # a damaged EXIF beside a whole picture
        ImageOps.exif_transpose(image, in_place=True)
    return _in_srgb(image)


def _facts(image: Image.Image) -> Facts:
    """The facts that a header tells."""
    width, height = image.size
    floats, deep = image.mode == "F", image.mode.startswith("I") or _is_deep_colour(image)
    return Facts(
        height,
        width,
        bits=32 if floats else 16 if deep else 8,
        colour=image.mode not in ("1", "L", "LA", "La", "I", "F") and not image.mode.startswith("I;"),
        high=HIGHEST["uint16"] if deep else 255.0,
        profile=_profile(image.info.get("icc_profile") or b"") if image.mode in CONVERTED else "",
    )


def _pages(stream: BufferedIOBase) -> int:
    """The pages of a file whose first one was read; 1 where the others are damaged."""
    stream.seek(0)
    try:
        with _opened(stream) as image:
            return getattr(image, "n_frames", 1)
    except Exception:  # Pillow's plugins have no common base class for errors
        return 1


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether a colour image has 16 bits a channel, of which Pillow keeps the upper 8. Raises ValueError for a TIFF of
    planes of 16 bits, which Pillow takes for 8.
    """
    if not image.mode.startswith("RGB"):
        return False
    deep = any(";16" in str(tile[-1]) for tile in getattr(image, "tile", ()))
    if not deep and image.format == "TIFF" and 16 in (getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE) or ()):
        raise ValueError("it holds a plane of 16 bits for each colour: save it with the colours of a pixel together")
    return deep


def _deep_colours(stream: BufferedIOBase, page: int) -> UInt16[np.ndarray, "h w 3"] | None:
    """A page of a PNG or TIFF of 16 bits a colour channel, transparency on white; None of another file."""
    with _opened(stream) as image:
        if page:
            image.seek(page)
        if not _is_deep_colour(image):
            return None
        png, turned = image.format == "PNG", image.getexif().get(ORIENTATION, 1) != 1
    if turned:
        raise ValueError("it is turned by EXIF, which is not undone for 16 bits of colour: save it upright")
    try:
        import imagecodecs
        import tifffile
    except ImportError as error:
        raise ValueError(f"it has 16 bits of colour, which needs imagecodecs: {install('deep')}") from error
    stream.seek(0)
    content = stream.read()
    values = imagecodecs.png_decode(content) if png else tifffile.imread(BytesIO(content), key=page)
    values = values if values.ndim == 3 and values.shape[-1] in (3, 4) else np.moveaxis(values, 0, -1)
    if values.dtype != np.uint16:
        raise ValueError(f"it holds {values.dtype}, and 16 bits of colour are uint16")
    if values.shape[-1] == 4:
        opacity = values[..., 3:].astype(np.float32) / HIGHEST["uint16"]
        values = np.rint(values[..., :3] * opacity + HIGHEST["uint16"] * (1 - opacity)).astype(np.uint16)
    return values


def _profile(profile: bytes) -> str:
    """The name of a colour profile, "" without, if it is sRGB or damaged."""
    return _described(profile)[0] if profile else ""


@lru_cache(maxsize=64)
def _described(profile: bytes) -> tuple[str, Any]:
    """(the name of a profile other than sRGB or "", the profile)."""
    try:
        opened = ImageCms.getOpenProfile(BytesIO(profile))
        name = ImageCms.getProfileDescription(opened).strip()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "", None  # what a profile lacks, viewers take for sRGB
    return ("", None) if "srgb" in name.lower() else (name or "unnamed", opened)


SRGB = ImageCms.createProfile("sRGB")
OF_PROFILE = {"L": "L", "RGB": "RGB", "CMYK": "RGB"}  # mode -> the mode that its conversion to sRGB gives
CONVERTED = (*OF_PROFILE, "RGBA", "P")


@lru_cache(maxsize=64)
def _to_srgb(profile: bytes, mode: str) -> Any:
    """The conversion of images of this mode and profile to sRGB; None where the profile is of other colours."""
    try:
        return ImageCms.buildTransform(_described(profile)[1], SRGB, mode, OF_PROFILE[mode])
    except ImageCms.PyCMSError:
        return None


def _in_srgb(image: Image.Image) -> Image.Image:
    """The image with its colours in sRGB, where it says that they are not."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in CONVERTED or not _profile(profile):
        return image
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    opacity = image.getchannel("A") if image.mode == "RGBA" else None
    colours = image.convert("RGB") if opacity else image
    transform = _to_srgb(profile, colours.mode)
    if transform is None:
        return image
    converted = ImageCms.applyTransform(colours, transform) or colours
    if opacity:
        converted.putalpha(opacity)
    converted.info |= {name: value for name, value in image.info.items() if name != "icc_profile"}
    return converted


def to_array(
    image: Image.Image, channels: int, bits: int = 8
) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"]:
    """A Pillow image of any mode -> uint8 with 1 (grey), 3 (RGB) or 4 (RGBA) channels; bits=16: uint16, grey or RGB.

    Transparent images are composited on white unless channels is 4. 16-bit values are divided by 257 for 8 bits, 8-bit
    ones multiplied by it for 16; floats in [0, 1] are scaled. Raises ValueError for other floats, and for integers
    outside 0 .. 65535.
    """
    deep = image.mode.startswith(("I", "F"))
    if bits == 16:
        if deep:
            return np.repeat(_sixteen_bits(image)[..., None], channels, axis=-1)
        return to_array(image, channels) * np.uint16(257)
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

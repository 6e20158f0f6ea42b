"""DICOM and NIfTI files -> arrays in the files' units: the only module that reads them."""

import gzip
import hashlib
import importlib.util
import logging
import math
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BufferedIOBase, BytesIO
from itertools import count
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from jdiff.common.errors import UserError, install
from jdiff.data.decode import MOST_PIXELS, Facts
from jdiff.data.sources import Picture
from jdiff.data.trees import MOST_BYTES

ENDINGS = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz")

LOGGERS = {"pydicom": ("pydicom", "openjpeg"), "nibabel": ("nibabel.global",)}
TITLES = {"dicom": ("DICOM", "pydicom"), "nifti": ("NIfTI", "nibabel")}
MOST_PAGES = 1 << 20  # of a file
READ_WHOLE = 16 << 20  # bytes of a DICOM file that is read at once
TOGETHER = 4 << 20  # voxels looked at together
MOST_AFTER = 1 << 20  # bytes after the last voxel
MOST_CACHED = 256 << 20  # bytes of decompressed volumes that a process keeps

PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
UNDEFINED = 0xFFFFFFFF  # the length of pixel data in fragments
ITEM, END = 0xFFFEE000, 0xFFFEE0DD
BARE = (b"\x02\x00", b"\x08\x00")  # files without the 128 bytes and the mark begin with their first group, 2 or 8
DIRECTORY = b"1.2.840.10008.1.3.10"
DEFLATED = b"1.2.840.10008.1.2.1.99"
MOST_ELEMENTS = 100_000  # before the pixels: damaged bytes may read as any number of empty ones
PLUGINS = {
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG of 8 bits
    "1.2.840.10008.1.2.4.51": "imagecodecs",  # JPEG of 12 bits
    "1.2.840.10008.1.2.4.57": "imagecodecs",  # lossless JPEG
    "1.2.840.10008.1.2.4.70": "imagecodecs",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # its high throughput
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
    "1.2.840.10008.1.2.5": "pydicom",  # run lengths
}
GREY = ("MONOCHROME1", "MONOCHROME2")
FRAMES_OF_JPEG = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
STANDALONE = (0x01, *range(0xD0, 0xD9))  # markers of JPEG without a length


def kind_of(name: str) -> str:
    """ "dicom", "nifti" or "", by a file's name: DICOM's may have no ending, or be an identifier such as 1.2.840.5."""
    low = name.lower()
    if low.endswith((".nii", ".nii.gz")):
        return "nifti"
    bare = low.rpartition("/")[2]
    return "dicom" if low.endswith(ENDINGS) or "." not in bare or bare.rpartition(".")[2].isdigit() else ""


def is_dicom(stream: BufferedIOBase) -> bool:
    """Whether a stream begins as DICOM does: 128 bytes, then "DICM". A DICOMDIR, which lists other files, is none."""
    head = stream.read(512)
    return head[128:132] == b"DICM" and DIRECTORY not in head


@dataclass(frozen=True)
class MedicalReader:
    """DICOM or NIfTI files -> float32 [h, w, 1] in the file's units, or uint8 [h, w, 3] RGB of DICOM in colour.

    DICOM: RescaleSlope stored + RescaleIntercept, or the Modality LUT. MONOCHROME1, where large is dark, is turned
    over, and its window with it: v -> v(lowest) + v(highest) - v, of the lowest and highest value that BitsStored can
    hold. Palettes and YBR become RGB. Not applied: VOI LUT sequences, presentation states, overlays.

    NIfTI: scl_slope stored + scl_inter, the slices data[:, :, k] of axis 2 (data[k], data[:, k] of 0, 1), not turned.
    Page k + slices t is slice k of volume t; axes after the fourth follow in Fortran's order.

    kind: "dicom" or "nifti". axis: 0, 1 or 2, of NIfTI. The others are set by `agreed`. low, high: the values of -1 and
    1 of a model. colour: whether the files are in colour. origin: where low and high come from. files, pages: how many.
    """

    kind: str
    axis: int = 2
    low: float | None = None
    high: float | None = None
    colour: bool = False
    origin: str = ""
    files: int = 0
    pages: int = 0

    @property
    def finds(self) -> str:
        """What decides of `look` beside the file."""
        return f"{self.kind}, axis {self.axis}"

    def __call__(
        self, stream: BufferedIOBase, page: int = 0
    ) -> Float32[np.ndarray, "h w 1"] | UInt8[np.ndarray, "h w 3"]:
        """A page. Raises ValueError if it cannot be read."""
        if self.kind == "dicom":
            return _frame(_opened(stream), page)
        values = _slice(stream, self.axis, page)
        _check_finite(values)
        return values[..., None]

    def look(self, stream: BufferedIOBase) -> Facts:
        """What there is to know of a file, which is read to its end. Its window is that of DICOM's attributes:

            LINEAR              (center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)
            LINEAR_EXACT        (center - width / 2, center + width / 2)
            SIGMOID             the same: where the tangent at the center ends

        (PS3.3 C.11.2.1.2 and C.11.2.1.3), the first where there are several; None where frames differ in it, and of a
        VOI LUT sequence alone. Raises ValueError in one line for what cannot be read.
        """
        return _look_at_dicom(stream) if self.kind == "dicom" else _look_at_nifti(stream, self.axis)

    def picture(self, size: tuple[int | None, int | None]) -> Picture:
        """The description of the pages, of height and width `size` (None where they vary)."""
        if self.colour:
            return Picture((*size, 3))
        low, high = (0.0, 1.0) if self.low is None or self.high is None else (self.low, self.high)
        return Picture((*size, 1), "float32", low=low, high=high)

    def note(self) -> str:
        """One line on how the files are read; "" of none."""
        title = TITLES[self.kind][0]
        if self.colour:
            return f"{title}: {self.pages} images in colour, of {self.files} files, read as RGB of 8 bits"
        if self.low is None or self.high is None:
            return ""
        what = f"{self.pages} images of {self.files} files"
        if self.kind == "nifti":
            what = f"{self.pages} slices along axis {self.axis} of {self.files} files"
        return (
            f"{title}: {what}, in the files' units; {self.low:g} and {self.high:g} ({self.origin}) are a model's -1 "
            "and 1, and data.low and data.high choose others"
        )


def reader(kind: str, axis: int) -> MedicalReader:
    """The reader of "dicom" or "nifti" files. Raises UserError where its library is not installed, or for an axis that
    is not 0, 1 or 2.
    """
    title, library = TITLES[kind]
    try:
        _quietly(library)
    except ImportError as error:
        raise UserError(f"{title} files need {library}: {install('medical')}") from error
    if axis not in (0, 1, 2):
        raise UserError(f"axis {axis}: a volume is cut into slices along 0, 1 or 2")
    return MedicalReader(kind, axis)


def agreed(
    facts: Mapping[str, Facts], read: MedicalReader, low: float | None = None, high: float | None = None
) -> tuple[MedicalReader, dict[str, str]]:
    """(the reader with what the files have in common, {name: its fault}).

    Files in colour among more grey ones are faults, and grey ones among more in colour. Without low and high, these are
    the window that all grey files have, else the extremes of all. Raises UserError where low is not below high.
    """
    colour = 2 * sum(one.colour for one in facts.values()) > len(facts)
    kept = {name: one for name, one in facts.items() if one.colour == colour}
    fault = "is grey, and most files are in colour" if colour else "is in colour, and most files are grey"
    faults = {name: fault for name in facts if name not in kept}
    read = replace(read, colour=colour, files=len(kept), pages=sum(one.pages for one in kept.values()))
    if colour or not kept:
        return read, faults
    windows = {one.window for one in kept.values()}
    first = next(iter(windows))
    if len(windows) == 1 and first is not None:
        (bottom, top), origin = first, "the window of all files"
    else:
        bottom, top = min(one.low for one in kept.values()), max(one.high for one in kept.values())
        origin = "the extremes of all files" + (", whose windows differ" if windows != {None} else "")
        top = top if bottom < top else bottom + 1  # one value is no range
    given = " and ".join(key for key, value in (("data.low", low), ("data.high", high)) if value is not None)
    bottom, top = bottom if low is None else float(low), top if high is None else float(high)
    if given:
        origin = given if low is not None and high is not None else f"{given}; {origin}"
    if not bottom < top:
        raise UserError(f"low {bottom:g} is not below high {top:g} ({origin}): give both data.low and data.high")
    return replace(read, low=bottom, high=top, origin=origin), faults


def affine(stream: BufferedIOBase) -> Float64[np.ndarray, "4 4"] | None:
    """The matrix from (row, column, page, 1) of a file's pages along axis 2 to (x, y, z, 1) in mm, x to the right, y to
    the front, z up, as NIfTI has it (DICOM's own x and y change their sign); None of a DICOM file without a place.
    Raises ValueError if the file cannot be read.
    """
    head = stream.read(132)
    if head[128:] == b"DICM" or head.startswith(BARE):
        return _place(_opened(stream))
    return np.asarray(_described(_plain(stream)).affine, np.float64)


@lru_cache
def _quietly(library: str) -> None:
    """Import a library. What it warns and logs of odd files is told here as a file's fault, or is harmless."""
    __import__(library)
    warnings.filterwarnings("ignore", module=library)
    for name in LOGGERS[library]:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Errors of a library become ValueErrors of one line that begins with `what`; those of the system stay."""
    try:
        yield
    except Exception as error:  # the libraries and plugins have no common base class for errors
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{what}: {why}") from error


def _check_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite values: replace them")


def _check_sizes(height: int, width: int, pages: int) -> None:
    if min(height, width, pages) < 1:
        raise ValueError(f"it has no pixels: its size is {height} x {width}, {pages} of them")
    if height * width > MOST_PIXELS:
        raise ValueError(f"it claims {height} x {width} pixels, more than {MOST_PIXELS / 1e6:.0f} million")
    if pages > MOST_PAGES:
        raise ValueError(f"it claims {pages} slices or frames, more than {MOST_PAGES}")


def _size_of(stream: BufferedIOBase) -> int:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size


# DICOM


@dataclass(frozen=True)
class _Dicom:
    """A DICOM file, read up to its pixels. start: where their value begins in the stream. options: of its decoding."""

    header: Any
    stream: BufferedIOBase
    start: int
    syntax: Any
    options: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        return self.options["rows"], self.options["columns"]

    @property
    def pages(self) -> int:
        return self.options["number_of_frames"]


def _opened(stream: BufferedIOBase) -> _Dicom:
    """The file of a stream. Raises ValueError if it is not DICOM, has no pixels, is cut short or claims too much."""
    _quietly("pydicom")
    from pydicom.filereader import read_partial
    from pydicom.pixels import as_pixel_options
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    size = _size_of(stream)
    if size <= READ_WHOLE:  # a length that the file only claims then takes no memory
        stream = BytesIO(stream.read())
    head = stream.read(4096)
    stream.seek(0)
    if head[128:132] != b"DICM" and not head.startswith(BARE):
        raise ValueError("it is not DICOM: it lacks the mark DICM")
    if DEFLATED in head:
        raise ValueError("it is compressed as a whole (Deflated), which is not read: save it uncompressed")
    elements = count()

    def at_pixels(tag: Any, vr: str | None, length: int) -> bool:
        if next(elements) > MOST_ELEMENTS:
            raise ValueError(f"more than {MOST_ELEMENTS} elements")
        return tag in PIXELS

    with _in_words("its header is damaged"):
        header = read_partial(cast(Any, stream), stop_when=at_pixels, force=True)
        implicit, little = header.original_encoding
        unnamed = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        syntax = UID(header.file_meta.get("TransferSyntaxUID") or unnamed)
        options, compressed = as_pixel_options(header), syntax.is_encapsulated
    order: Literal["little", "big"] = "little" if little else "big"
    group, element = stream.read(2), stream.read(2)
    keyword = PIXELS.get(int.from_bytes(group, order) << 16 | int.from_bytes(element, order))
    if keyword is None:
        raise ValueError("it holds no pixel data, or is cut short before them")
    if not implicit:
        options["pixel_vr"] = stream.read(2).decode("latin-1")
        stream.read(2)
    length = int.from_bytes(stream.read(4), order)
    start = stream.tell()
    options |= {"pixel_keyword": keyword, "transfer_syntax_uid": syntax}
    for name in ("rows", "columns", "number_of_frames", "samples_per_pixel", "bits_allocated"):
        if not isinstance(value := options.get(name), int):
            raise ValueError(f"its header is damaged: {name.replace('_', ' ')} is {repr(value)[:40]}")
        options[name] = int(value)
    image = _Dicom(header, stream, start, syntax, options)
    _check_sizes(*image.size, image.pages)
    if compressed != (length == UNDEFINED):
        raise ValueError(f"its header is damaged: its pixels are not as {syntax.name} has them")
    if compressed:
        _check_fragments(stream, start, size)
    else:
        _check_length(image, min(length, size - start))
    return image


def _check_length(image: _Dicom, length: int) -> None:
    """Raises ValueError if uncompressed pixels are fewer than the header tells."""
    options = image.options
    bits = math.prod(image.size) * image.pages * options["samples_per_pixel"] * options["bits_allocated"]
    if options.get("photometric_interpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3
    if length < -(-bits // 8):
        raise ValueError(f"it is cut short: it holds {length} of {-(-bits // 8)} bytes of its pixels")


def _check_fragments(stream: BufferedIOBase, start: int, size: int) -> None:
    """Raises ValueError if compressed pixels do not end within the file."""
    place = start
    while place < size:
        stream.seek(place)
        item = stream.read(8)
        tag = int.from_bytes(item[:2], "little") << 16 | int.from_bytes(item[2:4], "little")
        if tag == END:
            return
        place += 8 + int.from_bytes(item[4:], "little")
        if tag != ITEM or place > size:
            raise ValueError("its compressed pixels are damaged or cut short")
    # Some writers leave the end mark out.


def _decoded(image: _Dicom, page: int) -> tuple[np.ndarray, str]:
    """(the stored values [h, w] or [h, w, 3] of a page, their photometric interpretation)."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder
    from pydicom.uid import ExplicitVRLittleEndian

    syntax, options, plugin = image.syntax, image.options, ""
    source: Any = image.stream
    if syntax.is_encapsulated:
        plugin = _plugin(syntax)
        with _in_words("its pixels cannot be decoded"):
            image.stream.seek(image.start)
            frames, offsets = options["number_of_frames"], options.get("extended_offsets")
            stream = get_frame(image.stream, page, number_of_frames=frames, extended_offsets=offsets)
            claimed = _codestream_size(stream)
            if claimed and claimed != (*image.size, options["samples_per_pixel"]):
                # Decoders trust the stream, and may take memory for billions of pixels.
                raise ValueError(f"they claim {claimed}, and the header {image.size}")
            if plugin == "imagecodecs":
                source, syntax, page = _of_jpeg(stream), ExplicitVRLittleEndian, 0
                options = options | {
                    "transfer_syntax_uid": syntax,
                    "bits_allocated": 8 * source.itemsize,
                    "bits_stored": min(options["bits_stored"], 8 * source.itemsize),
                    "planar_configuration": 0,
                    "number_of_frames": 1,
                    "photometric_interpretation": options["photometric_interpretation"].removesuffix("_422"),
                }
                source, plugin = source.tobytes(), ""
    with _in_words("its pixels cannot be decoded"):
        image.stream.seek(image.start)
        values, told = get_decoder(syntax).as_array(source, index=page, decoding_plugin=plugin, **options)
    return values, str(told["photometric_interpretation"])


def _plugin(syntax: Any) -> str:
    """What decodes a compressed transfer syntax. Raises ValueError if nothing does, or if it is not installed.

    One decoder each, whatever else is installed: GDCM, which pydicom prefers, ends the process on some damaged files.
    """
    from pydicom.pixels import get_decoder

    plugin = PLUGINS.get(str(syntax))
    if plugin is None:
        raise ValueError(f"it is compressed as {syntax.name}, which is not read: save it uncompressed")
    if plugin == "imagecodecs":
        installed = importlib.util.find_spec(plugin) is not None
    else:
        installed = plugin in get_decoder(syntax).available_plugins
    if not installed:
        raise ValueError(f"it is compressed as {syntax.name}, which needs a plugin: {install('medical')}")
    return plugin


def _of_jpeg(stream: bytes) -> np.ndarray:
    """The values of a JPEG stream of 2 to 16 bits, lossless ones too, of the colours that are stored."""
    import imagecodecs

    colours = "YCBCR" if (_codestream_size(stream) or (0,))[-1] == 3 else None  # the same twice: none is converted
    return imagecodecs.jpeg8_decode(stream, colorspace=colours, outcolorspace=colours)


def _codestream_size(stream: bytes) -> tuple[int, int, int] | None:
    """(h, w, channels) that a JPEG, JPEG-LS or JPEG 2000 stream claims; None of another."""

    def number(place: int, size: int) -> int:
        return int.from_bytes(stream[place : place + size], "big")

    if stream[:4] == b"\xff\x4f\xff\x51":
        return number(12, 4) - number(20, 4), number(8, 4) - number(16, 4), number(40, 2)
    if stream[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 10 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker in FRAMES_OF_JPEG:
            return number(place + 5, 2), number(place + 7, 2), number(place + 9, 1)
        place += 1 if marker == 0xFF else 2 if marker in STANDALONE else 2 + number(place + 2, 2)
    return None


def _frame(image: _Dicom, page: int) -> Float32[np.ndarray, "h w 1"] | UInt8[np.ndarray, "h w 3"]:
    """A page in the file's units, or in RGB."""
    from pydicom.pixels import apply_color_lut

    values, photometric = _decoded(image, page)
    if photometric in GREY:
        with _in_words("its values cannot be scaled"), np.errstate(all="ignore"):
            scaled = _scaled(image, page, values)
            if photometric == "MONOCHROME1":
                scaled = _ends(image, page) - scaled
            result = scaled.astype(np.float32)[..., None]
        _check_finite(result)
        return result
    if photometric == "PALETTE COLOR":
        with _in_words("its palette cannot be read"):
            values = apply_color_lut(values, image.header)[..., :3]
            values = np.rint(values / 257).astype(np.uint8) if values.dtype == np.uint16 else values
    elif photometric != "RGB":
        raise ValueError(f"its photometric interpretation is {photometric[:40]!r}, which is not read")
    if values.dtype != np.uint8:
        raise ValueError(f"it holds colours of {8 * values.dtype.itemsize} bits, and only those of 8 are read")
    return values


def _group(image: _Dicom, name: str, page: int) -> Any:
    """Where a page's attributes stand: the functional group `name` of the page or of all, or the file itself."""
    for groups, item in (("PerFrameFunctionalGroupsSequence", page), ("SharedFunctionalGroupsSequence", 0)):
        items = image.header.get(groups) or ()
        if item < len(items) and (found := items[item].get(name)):
            return found[0]
    return image.header


def _scaled(image: _Dicom, page: int, values: np.ndarray) -> np.ndarray:
    """Stored values in the file's units, float64."""
    from pydicom.pixels import apply_modality_lut

    if image.header.get("ModalityLUTSequence"):
        return apply_modality_lut(values, image.header).astype(np.float64)
    group = _group(image, "PixelValueTransformationSequence", page)
    slope, intercept = _number(group.get("RescaleSlope")), _number(group.get("RescaleIntercept"))
    scaled = values.astype(np.float64)
    if slope is not None:
        scaled *= slope
    if intercept is not None:
        scaled += intercept
    return scaled


def _ends(image: _Dicom, page: int) -> float:
    """v(lowest) + v(highest), of the lowest and highest stored value."""
    bits = int(image.options.get("bits_stored") or image.options["bits_allocated"])
    signed = image.options.get("pixel_representation") == 1
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return float(_scaled(image, page, np.array(ends)).sum())


def _number(value: Any) -> float | None:
    """The first finite number of an attribute."""
    if value is not None and not isinstance(value, (str, float, int)) and hasattr(value, "__len__"):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    return number if math.isfinite(number := float(value)) else None


def _window(image: _Dicom, page: int) -> tuple[float, float] | None:
    """The window of a page in the units of its values. See MedicalReader.look."""
    group = _group(image, "FrameVOILUTSequence", page)
    center, width = _number(group.get("WindowCenter")), _number(group.get("WindowWidth"))
    if center is None or width is None:
        return None
    function = str(group.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    low, high = center - width / 2, center + width / 2
    if image.options.get("photometric_interpretation") == "MONOCHROME1":
        ends = _ends(image, page)
        low, high = ends - high, ends - low
    return (low, high) if low < high else None


def _look_at_dicom(stream: BufferedIOBase) -> Facts:
    image = _opened(stream)
    height, width = image.size
    low, high = math.inf, -math.inf
    windows = set()
    kinds = set()
    for page in range(image.pages):
        values = _frame(image, page)
        kinds.add(values.shape[-1])
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        if values.shape[-1] == 1:
            with _in_words("its window cannot be read"):
                windows.add(_window(image, page))
    if kinds == {3}:
        return Facts(height, width, pages=image.pages, colour=True)
    window = windows.pop() if len(windows) == 1 else None
    return Facts(height, width, pages=image.pages, bits=32, low=low, high=high, window=window)


def _place(image: _Dicom) -> Float64[np.ndarray, "4 4"] | None:
    """See `affine`: PS3.3 C.7.6.2.1.1."""
    with _in_words("its place cannot be read"):
        numbers = {
            name: np.array(_group(image, group, 0).get(name) or (), np.float64)
            for group, name in (
                ("PlaneOrientationSequence", "ImageOrientationPatient"),
                ("PlanePositionSequence", "ImagePositionPatient"),
                ("PixelMeasuresSequence", "PixelSpacing"),
            )
        }
        along, first, spacing = numbers.values()
        if (along.size, first.size, spacing.size) != (6, 3, 2):
            return None
        row, column = along[3:] * spacing[0], along[:3] * spacing[1]
        last = np.array(_group(image, "PlanePositionSequence", image.pages - 1).ImagePositionPatient, np.float64)
        if image.pages > 1 and not np.array_equal(first, last):
            step = (last - first) / (image.pages - 1)
        else:
            measures = _group(image, "PixelMeasuresSequence", 0)
            thick = _number(image.header.get("SpacingBetweenSlices")) or _number(measures.get("SliceThickness")) or 1
            step = np.cross(along[:3], along[3:]) * thick
    matrix = np.eye(4)
    matrix[:3] = np.stack([row, column, step, first], axis=1)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


# NIfTI


@dataclass(frozen=True)
class _Nifti:
    """What a NIfTI header tells of the voxels. shape: of at least 3 axes."""

    shape: tuple[int, ...]
    dtype: Any
    offset: int
    slope: float
    intercept: float
    affine: Any

    @property
    def end(self) -> int:
        """Where the voxels end, in bytes."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def pages(self, axis: int) -> int:
        """How many slices there are."""
        return self.shape[axis] * math.prod(self.shape[3:])


def _plain(stream: BufferedIOBase) -> Any:
    """The stream, decompressed where it begins as gzip does."""
    stream.seek(0)
    compressed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    return gzip.GzipFile(fileobj=stream) if compressed else stream


def _described(stream: Any) -> _Nifti:
    """The header at the beginning of an uncompressed stream. Raises ValueError where it is not of NIfTI voxels that fit
    into an image.
    """
    _quietly("nibabel")
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    with _in_words("its gzip data are damaged or cut short"):
        head = stream.read(540)
    if head[344:347] == b"ni1":
        raise ValueError("its voxels lie in another file (.img): save both as one .nii")
    kind, length = (Nifti2Header, 540) if head[4:7] == b"n+2" else (Nifti1Header, 348)
    if len(head) < length or (kind is Nifti1Header and head[344:347] != b"n+1"):
        raise ValueError("it is not NIfTI, or is cut short")
    with _in_words("its header is damaged"):
        header = kind(head[:length], check=False)
        header.check_fix(logging.getLogger("nibabel.global"), error_level=40)
        shape, dtype = tuple(int(side) for side in header.get_data_shape()), header.get_data_dtype()
        slope, intercept = header.get_slope_inter()
        found = _Nifti(
            (*shape, *(1,) * (3 - len(shape))),
            dtype,
            int(header.get_data_offset()),
            1.0 if slope is None else float(slope),
            0.0 if intercept is None else float(intercept),
            header.get_best_affine(),
        )
    if dtype.fields:
        raise ValueError("it holds RGB voxels, and only numbers are read")
    if np.issubdtype(dtype, np.complexfloating):
        raise ValueError("it holds complex numbers: save their magnitude")
    if found.offset < length:
        raise ValueError(f"its header is damaged: its voxels begin at byte {found.offset}")
    if min(found.shape) < 1:
        raise ValueError(f"it has no voxels: its shape is {found.shape}")
    return found


def _checked(stream: Any, axis: int) -> _Nifti:
    """`_described`, of slices along an axis that are neither too large nor too many."""
    found = _described(stream)
    height, width = (found.shape[other] for other in range(3) if other != axis)
    _check_sizes(height, width, found.pages(axis))
    if found.end > MOST_BYTES:
        raise ValueError(
            f"it claims {found.end / 2**30:.3g} GiB of voxels, more than {MOST_BYTES >> 30}: cut it in parts"
        )
    return found


def _look_at_nifti(stream: BufferedIOBase, axis: int) -> Facts:
    from nibabel.volumeutils import apply_read_scaling

    plain = _plain(stream)
    found = _checked(plain, axis)
    if plain is stream and (size := _size_of(stream)) < found.end:
        raise ValueError(f"it is cut short: it holds {size} of {found.end} bytes")
    low, high = math.inf, -math.inf
    each = TOGETHER * found.dtype.itemsize
    with _in_words("its gzip data are damaged or cut short"):
        plain.seek(found.offset)
    for start in range(found.offset, found.end, each):
        wanted = min(each, found.end - start)
        with _in_words("its gzip data are damaged or cut short"):
            content = plain.read(wanted)
        if len(content) < wanted:
            raise ValueError(f"it is cut short: it holds {start + len(content)} of {found.end} bytes")
        with np.errstate(all="ignore"):
            raw = np.frombuffer(content, found.dtype)
            values = apply_read_scaling(raw, np.float64(found.slope), np.float64(found.intercept)).astype(np.float32)
        _check_finite(values)
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if plain is not stream:  # its checksum stands at its end
        with _in_words("its gzip data are damaged or cut short"):
            more = len(plain.read(MOST_AFTER))
        if more == MOST_AFTER:
            raise ValueError("it holds more than its header tells")
    height, width = (found.shape[other] for other in range(3) if other != axis)
    return Facts(height, width, pages=found.pages(axis), bits=32, low=low, high=high)


def _slice(stream: BufferedIOBase, axis: int, page: int) -> Float32[np.ndarray, "h w"]:
    """Slice k of volume t, page = k + slices t."""
    _quietly("nibabel")
    from nibabel.arrayproxy import ArrayProxy

    voxels: Any = _plain(stream)
    if voxels is not stream:
        voxels = BytesIO(_decompressed(stream, axis))
    found = _checked(voxels, axis)
    if not 0 <= page < found.pages(axis):
        raise ValueError(f"it holds {found.pages(axis)} slices, and not one of number {page + 1}")
    further, k = divmod(page, found.shape[axis])
    index = [slice(None), slice(None), slice(None), *np.unravel_index(further, found.shape[3:] or (1,), order="F")]
    index[axis] = k
    with _in_words("its voxels cannot be read"), np.errstate(all="ignore"):
        spec = (found.shape, found.dtype, found.offset, found.slope, found.intercept)
        values = ArrayProxy(voxels, spec, mmap=False)[tuple(index[: len(found.shape)])]
        return np.asarray(values).astype(np.float32)


_volumes: OrderedDict[bytes, bytes] = OrderedDict()  # the last volumes that were decompressed: header and voxels
_lock = threading.Lock()


def _decompressed(stream: BufferedIOBase, axis: int) -> bytes:
    """A compressed file's header and voxels, which are kept for the next slice: up to MOST_CACHED bytes of the volumes
    that were used last, and always the last.
    """
    key = _mark(stream)
    with _lock:
        if key in _volumes:
            _volumes.move_to_end(key)
            return _volumes[key]
    plain = _plain(stream)
    end = _checked(plain, axis).end
    with _in_words("its gzip data are damaged or cut short"):
        plain.seek(0)
        content = plain.read(end)
    if len(content) < end:
        raise ValueError(f"it is cut short: it holds {len(content)} of {end} bytes")
    with _lock:
        _volumes[key] = content
        while len(_volumes) > 1 and sum(map(len, _volumes.values())) > MOST_CACHED:
            _volumes.popitem(last=False)
    return content


def _mark(stream: BufferedIOBase) -> bytes:
    """What tells compressed contents apart without reading all: the size, both ends (the last holds the checksum of the
    contents) and 64 places between.
    """
    size = _size_of(stream)
    mark = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
    for place in (0, *(size * k // 65 for k in range(1, 65))):
        stream.seek(place)
        mark.update(stream.read(64))
    stream.seek(max(0, size - 1024))
    mark.update(stream.read(1024))
    return mark.digest()

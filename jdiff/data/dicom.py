"""DICOM files through pydicom: their pixels in the file's units, their window and their place."""

import importlib.util
import math
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO
from itertools import count
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from jdiff.common.errors import install
from jdiff.data.decode import Facts
from jdiff.data.volumes import check_finite, check_sizes, in_words, quietly, size_of

READ_WHOLE = 16 << 20  # bytes of a DICOM file that is read at once
PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
UNDEFINED = 0xFFFFFFFF  # the length of pixel data in fragments
ITEM, END = 0xFFFEE000, 0xFFFEE0DD
BARE = (b"\x02\x00", b"\x08\x00")  # files without the 128 bytes and the mark begin with their first group, 2 or 8
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


def opened(stream: BufferedIOBase) -> _Dicom:
    """The file of a stream. Raises ValueError if it is not DICOM, has no pixels, is cut short or claims too much."""
    quietly("pydicom")
    from pydicom.filereader import read_partial
    from pydicom.pixels import as_pixel_options
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    size = size_of(stream)
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

    with in_words("its header is damaged"):
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
    check_sizes(*image.size, image.pages)
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
        with in_words("its pixels cannot be decoded"):
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
    with in_words("its pixels cannot be decoded"):
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


def frame(image: _Dicom, page: int) -> Float32[np.ndarray, "h w 1"] | UInt8[np.ndarray, "h w 3"]:
    """A page in the file's units, or in RGB."""
    from pydicom.pixels import apply_color_lut

    values, photometric = _decoded(image, page)
    if photometric in GREY:
        with in_words("its values cannot be scaled"), np.errstate(all="ignore"):
            scaled = _scaled(image, page, values)
            if photometric == "MONOCHROME1":
                scaled = _ends(image, page) - scaled
            result = scaled.astype(np.float32)[..., None]
        check_finite(result)
        return result
    if photometric == "PALETTE COLOR":
        with in_words("its palette cannot be read"):
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


def look(stream: BufferedIOBase) -> Facts:
    image = opened(stream)
    height, width = image.size
    low, high = math.inf, -math.inf
    windows = set()
    kinds = set()
    for page in range(image.pages):
        values = frame(image, page)
        kinds.add(values.shape[-1])
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        if values.shape[-1] == 1:
            with in_words("its window cannot be read"):
                windows.add(_window(image, page))
    if kinds == {3}:
        return Facts(height, width, pages=image.pages, colour=True)
    window = windows.pop() if len(windows) == 1 else None
    return Facts(height, width, pages=image.pages, bits=32, low=low, high=high, window=window)


def place(image: _Dicom) -> Float64[np.ndarray, "4 4"] | None:
    """See `affine`: PS3.3 C.7.6.2.1.1."""
    with in_words("its place cannot be read"):
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

"""DICOM and NIfTI files, against the arrays of pydicom and nibabel and against windows and slopes by hand."""

import gzip
import importlib.util
import json
import pickle
import random
import sys
import time
import tracemalloc
import zipfile
from dataclasses import asdict
from io import BytesIO

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
nib = pytest.importorskip("nibabel")
imagecodecs = pytest.importorskip("imagecodecs")

from PIL import Image  # noqa: E402
from pydicom import uid  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut  # noqa: E402

from jdiff.common.errors import UserError  # noqa: E402
from jdiff.data import dicom, medical, volumes  # noqa: E402
from jdiff.data import nifti as reader_of_nifti  # noqa: E402
from jdiff.data.decode import Facts  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:::pydicom")  # of harmed files: jdiff tells what is wrong itself

RNG = np.random.default_rng(0)
DICOM, NIFTI = medical.reader("dicom", 2), medical.reader("nifti", 2)


def dataset(stored, *, syntax=uid.ExplicitVRLittleEndian, bits=None, **attributes):
    """A DICOM data set of stored values [h, w], [frames, h, w] or, with photometric interpretations of three channels,
    [h, w, 3].
    """
    stored = np.asarray(stored)
    colours = stored.ndim == 3 and stored.shape[-1] == 3
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    if stored.ndim == 3 and not colours:
        made.NumberOfFrames = len(stored)
    made.Rows, made.Columns = stored.shape[:2] if colours else stored.shape[-2:]
    made.SamplesPerPixel = 3 if colours else 1
    made.PhotometricInterpretation = "RGB" if colours else "MONOCHROME2"
    if colours:
        made.PlanarConfiguration = 0
    made.BitsAllocated = 8 * stored.dtype.itemsize
    made.BitsStored = bits or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(stored.dtype.kind == "i")
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    content = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    made.PixelData = content + b"\0" * (len(content) % 2)
    made["PixelData"].VR = "OW" if made.BitsAllocated > 8 else "OB"
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def saved(made, **options) -> bytes:
    stream = BytesIO()
    pydicom.dcmwrite(stream, made, **({"enforce_file_format": True} | options))
    return stream.getvalue()


def look(content, read=DICOM):
    return read.look(BytesIO(content))


def pages(content, read=DICOM):
    return [read(BytesIO(content), page) for page in range(look(content, read).pages)]


def in_units(made):
    """What pydicom itself makes of all frames, [frames, h, w] of float32."""
    values = apply_modality_lut(made.pixel_array, made)
    return values.astype(np.float32).reshape(-1, made.Rows, made.Columns)


def assert_same_as_pydicom(made, content):
    expected = in_units(made)
    got = pages(content)
    assert len(got) == len(expected)
    for page, values in zip(got, expected, strict=True):
        assert page.dtype == np.float32
        np.testing.assert_array_equal(page[..., 0], values)
    facts = look(content)
    assert (facts.height, facts.width, facts.bits, facts.colour) == (made.Rows, made.Columns, 32, False)
    assert (facts.low, facts.high) == (expected.min(), expected.max())


STORED = {
    "unsigned": (RNG.integers(0, 65536, (7, 5), np.uint16), {}),
    "signed_12_bits": (RNG.integers(-2048, 2048, (6, 8), np.int16), {"bits": 12}),
    "8_bits": (RNG.integers(0, 256, (5, 5), np.uint8), {}),
    "ct": (
        RNG.integers(0, 4096, (6, 8), np.uint16),
        {"bits": 12, "RescaleSlope": "1.5", "RescaleIntercept": "-1024"},
    ),
    "frames": (RNG.integers(0, 4096, (4, 6, 8), np.uint16), {"bits": 12, "RescaleSlope": 1, "RescaleIntercept": -5}),
}


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("name", STORED)
def test_values_are_those_of_pydicom(name, syntax):
    stored, attributes = STORED[name]
    made = dataset(stored, syntax=syntax, **attributes)
    assert_same_as_pydicom(made, saved(made))


def packed(made, stream, syntax):
    """The file of a data set whose one frame is a compressed stream."""
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = encapsulate([stream])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    return saved(made)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
@pytest.mark.parametrize("name", STORED)
def test_compressed_values_are_the_uncompressed_ones(name, syntax):
    stored, attributes = STORED[name]
    stored = np.tile(stored, (8, 8))  # JPEG 2000 halves it five times
    made = dataset(stored, **attributes)
    expected = pages(saved(made))
    made.compress(syntax, generate_instance_uid=False)
    content = saved(made)
    for page, values in zip(pages(content), expected, strict=True):
        np.testing.assert_array_equal(page, values)
    for cut in (40, 9):
        with pytest.raises(ValueError, match="cut short"):
            look(content[:-cut])


@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1])
@pytest.mark.parametrize("name", ["unsigned", "signed_12_bits", "8_bits", "ct"])
def test_lossless_jpeg(name, syntax):
    stored, attributes = STORED[name]
    made = dataset(stored, **attributes)
    expected = pages(saved(made))
    unsigned = stored.view(f"u{stored.itemsize}") & np.array(2**made.BitsStored - 1, f"u{stored.itemsize}")
    stream = imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=1, bitspersample=made.BitsStored)
    np.testing.assert_array_equal(pages(packed(made, stream, syntax)), expected)


def test_jpeg_of_12_bits_and_lossless_jpeg_in_colour():
    ramp = np.add.outer(np.arange(40) * 40, np.arange(36) * 60).astype(np.uint16)
    stream = imagecodecs.jpeg8_encode(ramp, level=95, bitspersample=12)
    (values,) = pages(packed(dataset(ramp, bits=12), stream, uid.JPEGExtended12Bit))
    assert np.abs(values[..., 0] - ramp).max() < 4
    colours = RNG.integers(0, 256, (20, 16, 3), np.uint8)
    stream = imagecodecs.jpeg8_encode(colours, lossless=True, predictor=1, colorspace="RGB", outcolorspace="RGB")
    np.testing.assert_array_equal(pages(packed(dataset(colours), stream, uid.JPEGLosslessSV1))[0], colours)


@pytest.mark.parametrize("syntax", [None, uid.RLELossless, uid.JPEGLSLossless])
def test_a_frame_of_a_large_file_is_read_alone(syntax, tmp_path, monkeypatch):
    content = of_frames(syntax)
    expected = pages(content)
    (tmp_path / "frames.dcm").write_bytes(content)
    monkeypatch.setattr(dicom, "READ_WHOLE", 0)
    with open(tmp_path / "frames.dcm", "rb") as file:
        facts = DICOM.look(file)
        assert (facts.pages, facts.window) == (3, (-160, 239))
        for k in (2, 0, 1):
            file.seek(5)
            np.testing.assert_array_equal(DICOM(file, k), expected[k])


def test_slope_intercept_and_window_by_hand():
    made = dataset(
        np.array([[0, 1024], [864, 1263]], np.uint16),
        bits=12,
        RescaleSlope=2,
        RescaleIntercept=-1024,
        WindowCenter=[40, 300],
        WindowWidth=[400, 1500],
    )
    content = saved(made)
    assert pages(content)[0][..., 0].tolist() == [[-1024, 1024], [704, 1502]]
    assert look(content).window == (-160, 239)  # 40 - 0.5 - 399 / 2, 40 - 0.5 + 399 / 2
    made.VOILUTFunction = "LINEAR_EXACT"
    assert look(saved(made)).window == (-160, 240)
    made.VOILUTFunction = "SIGMOID"
    assert look(saved(made)).window == (-160, 240)
    for center, width in ((None, None), (40, None), (40, 1), (40, 0)):
        made.VOILUTFunction, made.WindowCenter, made.WindowWidth = "LINEAR", center, width
        assert look(saved(made)).window is None, (center, width)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT"])
def test_a_window_shows_what_pydicom_shows(function):
    made = dataset(
        RNG.integers(0, 4096, (16, 16), np.uint16),
        bits=12,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=50,
        WindowWidth=350,
        VOILUTFunction=function,
    )
    content = saved(made)
    shown = apply_voi_lut(apply_modality_lut(made.pixel_array, made), made)
    shown = (shown + 1024) / 4095  # of pydicom's full range, -1024 to 3071
    low, high = look(content).window
    ours = np.clip((pages(content)[0][..., 0] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(ours, shown, atol=1e-6)


def test_monochrome1_is_turned_over_with_its_window():
    stored = np.array([[0, 100], [4000, 4095]], np.uint16)
    made = dataset(stored, bits=12, PhotometricInterpretation="MONOCHROME1", RescaleSlope=2, RescaleIntercept=-10)
    made.WindowCenter, made.WindowWidth, made.VOILUTFunction = 1000, 500, "LINEAR_EXACT"
    content = saved(made)
    # v = 2 stored - 10 lies in [-10, 8180], so v -> 8170 - v.
    assert pages(content)[0][..., 0].tolist() == [[8180, 7980], [180, -10]]
    facts = look(content)
    assert (facts.low, facts.high, facts.window) == (-10, 8180, (6920, 7420))
    signed = dataset(np.array([[-2048, 2047]], np.int16), bits=12, PhotometricInterpretation="MONOCHROME1")
    assert pages(saved(signed))[0][..., 0].tolist() == [[2047, -2048]]


def test_a_modality_lut_is_that_of_pydicom():
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [16, 2, 16], "US"
    table.LUTData = [int(i) ** 2 for i in range(16)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    made = dataset(np.arange(20, dtype=np.uint16).reshape(4, 5), ModalityLUTSequence=[table])
    assert_same_as_pydicom(made, saved(made))
    assert pages(saved(made))[0].max() == 225


def test_frames_with_slopes_and_windows_of_their_own():
    def frame(slope, center):
        item, values, window = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, -1, "US"
        window.WindowCenter, window.WindowWidth = center, 101
        item.PixelValueTransformationSequence, item.FrameVOILUTSequence = [values], [window]
        return item

    stored = RNG.integers(0, 200, (2, 3, 4), np.uint16)
    made = dataset(stored, PerFrameFunctionalGroupsSequence=[frame(1, 60), frame(3, 60)])
    one, two = pages(saved(made))
    np.testing.assert_array_equal(one[..., 0], stored[0] - 1.0)
    np.testing.assert_array_equal(two[..., 0], 3.0 * stored[1] - 1)
    assert look(saved(made)).window == (9.5, 109.5)
    made.PerFrameFunctionalGroupsSequence[1].FrameVOILUTSequence[0].WindowCenter = 70
    assert look(saved(made)).window is None
    del made.PerFrameFunctionalGroupsSequence
    made.SharedFunctionalGroupsSequence = [frame(5, 60)]
    np.testing.assert_array_equal(pages(saved(made))[1][..., 0], 5.0 * stored[1] - 1)


def test_colours():
    stored = RNG.integers(0, 256, (6, 4, 3), np.uint8)
    rgb = dataset(stored)
    planes = dataset(stored, PlanarConfiguration=1, PixelData=stored.transpose(2, 0, 1).tobytes())
    for made in (rgb, planes):
        (picture,) = pages(saved(made))
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, stored)
    assert look(saved(rgb)) == Facts(6, 4, colour=True)
    ybr = dataset(stored, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_array_equal(pages(saved(ybr))[0], ybr.pixel_array)
    assert np.any(pages(saved(ybr))[0] != stored)


def test_palettes_and_jpeg_become_rgb():
    indices = RNG.integers(0, 8, (4, 4), np.uint8)
    made = dataset(indices, PhotometricInterpretation="PALETTE COLOR")
    for k, name in enumerate(("Red", "Green", "Blue")):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [8, 0, 16])
        made[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        table = (RNG.integers(0, 256, 8) * 257).astype("<u2")
        setattr(made, f"{name}PaletteColorLookupTableData", table.tobytes())
        assert k < 3
    (picture,) = pages(saved(made))
    np.testing.assert_array_equal(picture, apply_color_lut(made.pixel_array, made) // 257)

    stream = BytesIO()
    ramp = np.stack(np.broadcast_arrays(np.arange(64)[:, None] * 4, np.arange(48) * 5, 99), -1).astype(np.uint8)
    Image.fromarray(ramp).save(stream, "JPEG", quality=95)
    photo = dataset(ramp, PhotometricInterpretation="YBR_FULL_422")
    (picture,) = pages(packed(photo, stream.getvalue(), uid.JPEGBaseline8Bit))
    assert np.abs(picture.astype(int) - ramp).max() < 12


def test_a_file_without_the_128_bytes_or_without_an_ending():
    stored, attributes = STORED["ct"]
    made = dataset(stored, **attributes)
    expected = pages(saved(made))[0]
    del made.file_meta
    for implicit in (True, False):
        content = saved(made, enforce_file_format=False, implicit_vr=implicit, little_endian=True)
        assert content[:2] == b"\x08\x00"
        np.testing.assert_array_equal(pages(content)[0], expected)


def test_kinds_of_files():
    names = {"dicom": ("a/IM0001", "1.dcm", "a.b/1.IMA", "a/1.2.840.5"), "nifti": ("x.nii.gz", "x.NII")}
    names[""] = ("x.png", "x.gz", "a/b.txt")
    for kind, some in names.items():
        assert {medical.kind_of(name) for name in some} == {kind}
    made = dataset(np.zeros((2, 2), np.uint16))
    assert medical.is_dicom(BytesIO(saved(made)))
    assert not medical.is_dicom(BytesIO(b"\x89PNG" + bytes(300)))
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    assert not medical.is_dicom(BytesIO(saved(made)))


def test_a_file_deflated_as_a_whole_is_named():
    made = dataset(STORED["ct"][0], bits=12, syntax=uid.DeflatedExplicitVRLittleEndian)
    with pytest.raises(ValueError, match="compressed as a whole"):
        look(saved(made))


def floats(values):
    made = dataset(np.zeros((2, 2), np.uint16))
    del made.PixelData, made.BitsStored, made.HighBit, made.PixelRepresentation
    made.BitsAllocated = 32
    made.FloatPixelData = np.asarray(values, np.float32).tobytes()
    return made


def test_floats():
    assert pages(saved(floats([[0, 0.25], [-3, 7]])))[0][..., 0].tolist() == [[0, 0.25], [-3, 7]]


def faults_of_dicom():
    stored, attributes = STORED["ct"]
    made = dataset(stored, **attributes)
    whole = saved(made)
    yield whole[: len(whole) - 10], "cut short: it holds 86 of 96 bytes"
    yield whole[:200], "no pixel data, or is cut short"
    yield b"", "not DICOM"
    yield b"\x89PNG\r\n\x1a\n" + bytes(500), "not DICOM"
    yield saved(floats([[0, np.nan], [0, 0]])), "NaN or infinite"
    yield saved(floats([[0, np.inf], [0, 0]])), "NaN or infinite"
    bare = dataset(stored, **attributes)
    del bare.PixelData
    yield saved(bare), "no pixel data"
    for rows, columns, why in ((0, 8, "no pixels"), (65535, 65535, "65535 x 65535 pixels, more than 134 million")):
        yield saved(dataset(stored, **attributes, Rows=rows, Columns=columns)), why
    yield saved(dataset(stored, **attributes, NumberOfFrames=2_000_000)), "2000000 slices or frames"
    yield saved(dataset(stored, **attributes, NumberOfFrames=3)), "cut short"
    deep = dataset(RNG.integers(0, 65536, (4, 4, 3), np.uint16))
    yield saved(deep), "colours of 16 bits"
    yield whole.replace(uid.ExplicitVRLittleEndian.encode(), uid.RLELossless.encode()), "pixels are not as RLE Lossless"
    yield packed(dataset(stored), bytes(8), uid.MPEG2MPML), "compressed as MPEG2 .*, which is not read"
    lying = dataset(np.zeros((4, 4, 3), np.uint8), PhotometricInterpretation="YBR_FULL_422")
    stream = BytesIO()
    Image.new("RGB", (3000, 2000)).save(stream, "JPEG")
    yield (
        packed(lying, stream.getvalue(), uid.JPEGBaseline8Bit),
        r"they claim \(2000, 3000, 3\), and the header \(4, 4\)",
    )


@pytest.mark.parametrize(("content", "why"), faults_of_dicom())
def test_what_cannot_be_read_is_told_in_one_line(content, why):
    with pytest.raises(ValueError, match=why) as error:
        look(content)
    assert "\n" not in str(error.value)


def test_a_missing_plugin_is_named_with_its_remedy(monkeypatch):
    made = dataset(np.tile(STORED["ct"][0], (8, 8)), bits=12)
    made.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    monkeypatch.setattr(pydicom.pixels.get_decoder(uid.JPEG2000Lossless), "_available", {})
    lossless = packed(dataset(STORED["ct"][0], bits=12), bytes(8), uid.JPEGLosslessSV1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for content, name in ((saved(made), "JPEG 2000"), (lossless, "JPEG Lossless")):
        with pytest.raises(ValueError, match=rf'{name}.*needs a plugin: pip install "jdiff-diffusion\[medical\]"'):
            look(content)


@pytest.mark.parametrize(("kind", "library"), [("dicom", "pydicom"), ("nifti", "nibabel")])
def test_a_missing_library_is_named_with_its_remedy(kind, library, monkeypatch):
    volumes.quietly.cache_clear()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf'{library}: pip install "jdiff-diffusion\[medical\]"'):
        medical.reader(kind, 2)


# NIfTI


def nifti(values, *, slope=None, intercept=0.0, kind=nib.Nifti1Image, compress=False, matrix=None, order="<"):
    header = (nib.Nifti2Header if kind is nib.Nifti2Image else nib.Nifti1Header)(endianness=order)
    header.set_data_dtype(np.asarray(values).dtype)
    made = kind(values, np.eye(4) if matrix is None else matrix, header)
    if slope is not None:
        made.header.set_slope_inter(slope, intercept)
    content = made.to_bytes()
    if slope is not None:  # nibabel scales what it writes: the stored values are meant here
        field = np.array([slope, intercept], order + ("f8" if kind is nib.Nifti2Image else "f4")).tobytes()
        place = 176 if kind is nib.Nifti2Image else 112
        raw = np.asarray(values).astype(np.asarray(values).dtype.newbyteorder(order)).tobytes(order="F")
        start = int(made.header.get_data_offset()) or (544 if kind is nib.Nifti2Image else 352)
        content = content[:place] + field + content[place + len(field) : start] + raw
    return gzip.compress(content, 1) if compress else content


def of_nibabel(content, kind=nib.Nifti1Image):
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return kind.from_bytes(plain).get_fdata().astype(np.float32)


VOLUMES = {
    "int16_scaled": (RNG.integers(-1000, 1000, (5, 6, 7), np.int16), {"slope": 0.37, "intercept": -12.5}),
    "float32": (RNG.normal(size=(5, 6, 7)).astype(np.float32), {}),
    "float64_big_endian": (RNG.normal(size=(4, 3, 2)), {"order": ">"}),
    "uint8": (RNG.integers(0, 255, (5, 6, 7), np.uint8), {}),
    "nifti2": (RNG.integers(-9, 9, (5, 6, 7), np.int32), {"slope": 2.0, "kind": nib.Nifti2Image}),
    "flat": (RNG.integers(0, 99, (5, 6), np.int16), {}),
    "series": (RNG.integers(0, 99, (5, 6, 3, 4), np.int16), {"slope": 1.5}),
    "vectors": (RNG.integers(0, 99, (5, 4, 3, 2, 3), np.int16), {}),
}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", VOLUMES)
def test_slices_are_those_of_nibabel(name, axis, compress):
    values, options = VOLUMES[name]
    content = nifti(values, **options, compress=compress)
    expected = of_nibabel(content, options.get("kind", nib.Nifti1Image))
    expected = expected.reshape(*expected.shape, *[1] * (3 - expected.ndim))
    if "slope" in options:
        stored = options["slope"] * values.astype(float) + options.get("intercept", 0)
        np.testing.assert_allclose(expected, stored, rtol=1e-5, atol=1e-5)
    expected = np.moveaxis(expected, axis, 2)
    expected = expected.reshape(*expected.shape[:2], -1, order="F")
    read = medical.reader("nifti", axis)
    got = pages(content, read)
    assert len(got) == expected.shape[2]
    for k in RNG.permutation(len(got)):
        assert got[k].dtype == np.float32
        np.testing.assert_array_equal(got[k][..., 0], expected[..., k])
    facts = look(content, read)
    assert (facts.low, facts.high, facts.bits) == (expected.min(), expected.max(), 32)
    assert (facts.height, facts.width) == expected.shape[:2]


def test_a_volume_is_decompressed_once_for_its_slices(monkeypatch):
    contents = [nifti(RNG.integers(0, 999, (40, 40, 30), np.int16), compress=True) for _ in range(2)]
    size = len(gzip.decompress(contents[0]))
    read = []
    original = gzip.GzipFile.read

    def counted(self, wanted=-1):
        read.append(len(got := original(self, wanted)))
        return got

    monkeypatch.setattr(reader_of_nifti, "_volumes", type(reader_of_nifti._volumes)())
    order = [(k, page) for k in range(2) for page in range(30)]
    random.Random(0).shuffle(order)
    volumes = [of_nibabel(content) for content in contents]
    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    for k, page in order:
        expected = volumes[k][:, :, page]
        np.testing.assert_array_equal(NIFTI(BytesIO(contents[k]), page)[..., 0], expected)
    assert 2 * size <= sum(read) < 2.5 * size
    monkeypatch.setattr(reader_of_nifti, "MOST_CACHED", size)
    other = nifti(RNG.integers(0, 999, (40, 40, 30), np.int16), compress=True)
    NIFTI(BytesIO(other), 0)
    assert len(reader_of_nifti._volumes) == 1


def faults_of_nifti():
    whole = nifti(RNG.integers(0, 99, (6, 6, 6), np.int16))
    packed = gzip.compress(whole)
    yield whole[:-7], "cut short: it holds 777 of 784 bytes"
    yield whole[:100], "not NIfTI"
    yield bytes(1000), "not NIfTI"
    yield packed[:-12], "gzip data are damaged or cut short"
    yield packed[:-8] + b"\0\0\0\0" + packed[-4:], "gzip data are damaged"
    yield gzip.compress(whole[:-7]), "cut short"
    yield b"\x1f\x8b" + bytes(100), "gzip data are damaged"
    yield nifti(np.ones((2, 2, 2), np.complex64)), "complex"
    yield nifti(np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])), "RGB voxels"
    for bad in (np.nan, np.inf):
        yield nifti(np.full((2, 2, 2), bad, np.float32)), "NaN or infinite values: replace them"
    yield nifti(np.full((2, 2, 2), 1e300)), "NaN or infinite"
    yield whole[:42] + b"\xff\x7f" * 3 + whole[48:], "32767 x 32767 pixels"
    huge = whole[:40] + np.array([7, 1000, 1000, 1000, 30000, 1, 1, 1], "<i2").tobytes() + whole[56:]
    yield huge, "slices or frames"
    large = whole[:40] + np.array([3, 2000, 2000, 2000, 1, 1, 1, 1], "<i2").tobytes() + whole[56:]
    yield large, "GiB of voxels"
    yield gzip.compress(large), "GiB of voxels"
    yield whole[:344] + b"ni1\0" + whole[348:], r"\.img"
    yield whole[:42] + b"\0\0" + whole[44:], "no voxels|damaged"
    yield gzip.compress(whole + bytes(17 << 20)), "more than its header tells"


@pytest.mark.parametrize(("content", "why"), faults_of_nifti())
def test_what_cannot_be_read_of_nifti_is_told_in_one_line(content, why):
    with pytest.raises(ValueError, match=why) as error:
        look(content, NIFTI)
    assert "\n" not in str(error.value)


# Both


def harmed(content, seed):
    """The content cut, with bits flipped, with a run of one byte, or with bytes taken out."""
    generator = random.Random(seed)
    harm = bytearray(content)
    place = generator.choice([generator.randrange(len(harm)), generator.randrange(min(400, len(harm)))])
    match seed % 4:
        case 0:
            del harm[place:]
        case 1:
            for _ in range(generator.choice([1, 8, 64])):
                harm[generator.randrange(len(harm))] ^= 1 << generator.randrange(8)
        case 2:
            harm[place : place + 8] = bytes([generator.choice([0, 255, 127])]) * 8
        case 3:
            del harm[place : place + generator.choice([1, 2, 40])]
    return bytes(harm)


def of_series(compress):
    values = np.add.outer(np.arange(24), np.arange(20))[..., None] + 40 * np.arange(6)
    return nifti(values.astype(np.int16), slope=0.5, compress=compress)


def of_frames(syntax):
    made = dataset(np.sort(RNG.integers(0, 4096, (3, 40, 36), np.uint16)), bits=12, RescaleSlope=2, RescaleIntercept=-9)
    made.WindowCenter, made.WindowWidth = 40, 400
    if syntax:
        made.compress(syntax, generate_instance_uid=False)
    return saved(made)


def of_jpeg(lossless):
    stored = np.add.outer(np.arange(40) * 40, np.arange(36) * 60).astype(np.uint16)
    if lossless:
        stream = imagecodecs.jpeg8_encode(stored, lossless=True, predictor=1, bitspersample=12)
        return packed(dataset(stored, bits=12), stream, uid.JPEGLosslessSV1)
    stored = (stored // 16).astype(np.uint8)
    return packed(dataset(stored), imagecodecs.jpeg8_encode(stored, level=90), uid.JPEGBaseline8Bit)


@pytest.mark.parametrize(
    ("read", "make"),
    [
        pytest.param(DICOM, lambda: of_frames(None), id="dicom"),
        pytest.param(DICOM, lambda: of_frames(uid.RLELossless), id="rle"),
        pytest.param(DICOM, lambda: of_frames(uid.JPEGLSLossless), id="jpeg-ls"),
        pytest.param(DICOM, lambda: of_frames(uid.JPEG2000Lossless), id="jpeg2000"),
        pytest.param(DICOM, lambda: of_jpeg(lossless=True), id="lossless jpeg"),
        pytest.param(DICOM, lambda: of_jpeg(lossless=False), id="jpeg"),
        pytest.param(NIFTI, lambda: of_series(False), id="nii"),
        pytest.param(NIFTI, lambda: of_series(True), id="nii.gz"),
    ],
)
def test_harmed_files_are_read_or_refused_in_one_line(read, make):
    content = make()
    told = []
    look(content, read)
    tracemalloc.start()
    began = time.monotonic()
    for seed in range(40):
        harm = harmed(content, seed)
        try:
            facts = look(harm, read)
        except ValueError as error:
            told.append(str(error))
            continue
        assert np.isfinite([facts.low, facts.high]).all()
        for page in range(min(facts.pages, 3)):
            values = read(BytesIO(harm), page)
            assert values.shape[:2] == (facts.height, facts.width)
            assert np.isfinite(values).all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(told) >= 5
    assert all(0 < len(line) < 400 and "\n" not in line for line in told)
    assert peak < 64 << 20
    assert time.monotonic() - began < 30


def test_a_small_file_that_decompresses_to_much_takes_little_memory():
    head = np.array([3, 512, 512, 600, 1, 1, 1, 1], "<i2").tobytes()
    plain = nifti(np.zeros((2, 2, 2), np.uint8))
    bomb = gzip.compress(plain[:40] + head + plain[56:352] + bytes(512 * 512 * 600), 1)
    tracemalloc.start()
    assert look(bomb, NIFTI).pages == 600
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 120 << 20  # of 157 million voxels


def test_readers_survive_pickling_and_say_what_they_look_at():
    read, _ = medical.agreed({"a": Facts(2, 2, bits=32, low=-3.0, high=5.0)}, medical.reader("nifti", 1))
    assert pickle.loads(pickle.dumps(read)) == read
    assert repr(medical.reader("nifti", 1)) != repr(medical.reader("nifti", 0)) != repr(DICOM)
    with pytest.raises(UserError, match="axis 3"):
        medical.reader("nifti", 3)


def grey(low=0.0, high=1.0, window=None, count=1):
    return Facts(4, 4, pages=count, bits=32, low=low, high=high, window=window)


def test_files_agree_on_a_window():
    facts = {"a": grey(-1000, 2000, (-160, 240), 2), "b": grey(-900, 1500, (-160, 240))}
    read, faults = medical.agreed(facts, DICOM)
    assert (read.low, read.high, faults) == (-160, 240, {})
    picture = read.picture((None, 4))
    assert (picture.shape, picture.dtype, picture.low, picture.high) == ((None, 4, 1), "float32", -160, 240)
    assert "3 images of 2 files" in read.note()
    assert "-160 and 240 (the window of all files)" in read.note()

    facts["c"] = grey(-1100, 100, (0, 80))
    read, _ = medical.agreed(facts, DICOM)
    assert (read.low, read.high) == (-1100, 2000)
    assert "whose windows differ" in read.note()
    read, _ = medical.agreed(facts, DICOM, low=-100, high=200)
    assert (read.low, read.high) == (-100, 200)
    assert "(data.low and data.high)" in read.note()
    assert medical.agreed(facts, DICOM, low=-100)[0].high == 2000
    with pytest.raises(UserError, match=r"low 3000 is not below high 2000 \(data.low; .*give both"):
        medical.agreed(facts, DICOM, low=3000)

    read, _ = medical.agreed({"a": grey(7, 7)}, NIFTI)
    assert read.low < read.high
    assert "1 slices along axis 2 of 1 files" in read.note()
    assert medical.agreed({}, DICOM) == (DICOM, {})


def test_the_fewer_of_colour_and_grey_are_faults():
    colour = Facts(4, 4, colour=True)
    read, faults = medical.agreed({"a": colour, "b": grey(5, 6), "c": grey(1, 2)}, DICOM)
    assert faults == {"a": "is in colour, and most files are grey"}
    assert (read.low, read.high, read.colour) == (1, 6, False)
    read, faults = medical.agreed({"a": colour, "b": colour, "c": grey(1, 2)}, DICOM)
    assert faults == {"c": "is grey, and most files are in colour"}
    assert (read.picture((4, 4)).shape, read.picture((4, 4)).dtype) == ((4, 4, 3), "uint8")
    assert "2 images in colour" in read.note()


def test_facts_with_a_window_survive_json():
    facts = grey(window=(-160.0, 240.0))
    assert Facts(**json.loads(json.dumps(asdict(facts)))) == facts
    assert {facts, Facts(**json.loads(json.dumps(asdict(facts))))} == {facts}


def test_where_voxels_lie():
    matrix = np.array([[2.0, 0, 0, -10], [0, 3, 0, 20], [0, 0, 4, 5], [0, 0, 0, 1]])
    for compress in (False, True):
        content = nifti(np.zeros((3, 4, 5), np.int16), matrix=matrix, compress=compress)
        np.testing.assert_array_equal(medical.affine(BytesIO(content)), matrix)
    made = dataset(np.zeros((4, 6), np.uint16))
    assert medical.affine(BytesIO(saved(made))) is None
    made.ImageOrientationPatient, made.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-100, -50, 30]
    made.PixelSpacing, made.SliceThickness = [0.5, 0.25], 3
    found = medical.affine(BytesIO(saved(made)))
    # Row 2, column 4: x = -100 + 4 * 0.25, y = -50 + 2 * 0.5 of the patient, to the left and the back.
    np.testing.assert_allclose(found @ [2, 4, 1, 1], [99, 49, 33, 1])


def test_folders_and_zip_archives(tmp_path):
    folder = pytest.importorskip("jdiff.data.sources.folder")
    scans, volumes = tmp_path / "scans", tmp_path / "volumes"
    scans.mkdir()
    volumes.mkdir()
    stored = RNG.integers(0, 4096, (3, 6, 8), np.uint16)
    window = {"bits": 12, "RescaleIntercept": -1024, "RescaleSlope": 1, "WindowCenter": 40, "WindowWidth": 401}
    for k in range(3):
        (scans / f"IM{k}").write_bytes(saved(dataset(stored[k], **window)))
    voxels = RNG.normal(size=(6, 8, 5)).astype(np.float32)
    (volumes / "a.nii.gz").write_bytes(nifti(voxels, compress=True))
    (volumes / "b.nii").write_bytes(nifti(voxels + 1))
    for root, images, dtype in (
        (scans, stored.astype(np.float32) - 1024, "float32"),
        (volumes, np.concatenate([voxels, voxels + 1], 2).transpose(2, 0, 1), "float32"),
    ):
        archive = tmp_path / f"{root.name}.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            for file in sorted(root.iterdir()):
                packed.write(file, file.name)
        for place in (root, archive, root):  # the second time by what is remembered of the files
            source = folder.Folder(str(place), "train", channels=1)
            assert len(source) == len(images)
            for record, expected in zip(source, images, strict=True):
                assert record["image"].dtype == dtype
                np.testing.assert_array_equal(record["image"][..., 0], expected)
            picture = source.pictures["image"]
            expected = (-160.5, 239.5) if root == scans else (voxels.min(), (voxels + 1).max())
            assert (picture.shape, picture.low, picture.high) == ((6, 8, 1), *expected)

"""Damaged and odd files, hundreds of them: each is read right or refused by name, within bounds of time and memory."""

import contextlib
import io
import itertools
import json
import multiprocessing
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import jdiff.data.decode
from jdiff.common.errors import UserError
from jdiff.common.words import one_line
from jdiff.data.decode import MOST_PIXELS, Reader
from jdiff.data.pipeline import train_batches
from jdiff.data.resize import Resize
from jdiff.data.sources import Picture
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.pairs import Pairs
from jdiff.data.views import View

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of what is damaged

HEIGHT, WIDTH = 20, 28
SECONDS_A_FILE = 5
MOST_GROWTH = 256 << 20  # of memory, while one file after another is read
MOST_ADDRESSES = 3 << 30


@dataclass(frozen=True)
class Case:
    """A file's bytes, or what makes it; "read": its pixels are `pixels` (up to a mean error), "refused", "cut": one of
    the two, "either": refused or any picture.
    """

    content: bytes
    becomes: Literal["read", "refused", "cut", "either"] = "refused"
    pixels: np.ndarray | None = None
    error: float = 0.0


def smooth(height=HEIGHT, width=WIDTH):
    rows, columns = np.indices((height, width)) / np.array([max(height - 1, 1), max(width - 1, 1)])[:, None, None]
    return np.round(255 * np.stack([rows, columns, (1 - rows) * columns], axis=-1)).astype(np.uint8)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colours():
    """(a palette picture, its pixels)."""
    indices = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 64
    entries = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    image = Image.frombytes("P", (WIDTH, HEIGHT), indices.tobytes())
    image.putpalette(entries.tobytes())
    return image, entries[indices]


def whole():
    """Pictures that are damaged below, by format: (ending, whole file)."""
    plain, image = smooth(), Image.fromarray(smooth())
    palette, entries = colours()
    return {
        "png": ("png", Case(encoded(image, "PNG"), "read", plain)),
        "palette": ("png", Case(encoded(palette, "PNG"), "read", entries)),
        "jpeg": ("jpg", Case(encoded(image, "JPEG", quality=95, subsampling=0), "read", plain, 3)),
        "progressive": ("jpeg", Case(encoded(image, "JPEG", quality=95, progressive=True), "read", plain, 6)),
        "webp": ("webp", Case(encoded(image, "WEBP", lossless=True), "read", plain)),
        "lossy": ("webp", Case(encoded(image, "WEBP", quality=95), "read", plain, 8)),
        "gif": ("gif", Case(encoded(palette, "GIF"), "read", entries)),
        "bmp": ("bmp", Case(encoded(image, "BMP"), "read", plain)),
        "tiff": ("tif", Case(encoded(image, "TIFF"), "read", plain)),
        "deflate": ("tiff", Case(encoded(image, "TIFF", compression="tiff_deflate"), "read", plain)),
        "ppm": ("ppm", Case(encoded(image, "PPM"), "read", plain)),
        "jp2": ("jp2", Case(encoded(image, "JPEG2000"), "read", plain)),
        "tga": ("tga", Case(encoded(image, "TGA"), "read", plain)),
        "pcx": ("pcx", Case(encoded(image, "PCX"), "read", plain)),
        "sgi": ("rgb", Case(encoded(image, "SGI"), "read", plain)),
    }


def damaged():
    rng = np.random.default_rng(0)
    for kind, (ending, case) in whole().items():
        content, size = case.content, len(case.content)
        yield f"{kind}.{ending}", case
        cuts = {0, 1, 2, 8, 30, size // 2, size - 2, size - 1, *rng.integers(3, size - 3, 5).tolist()}
        for cut in sorted(cuts):
            becomes = "cut" if cut > 2 else "refused"
            yield f"{kind}_cut_{cut}.{ending}", Case(content[:cut], becomes, case.pixels, case.error)
        for number in range(12):
            harmed = bytearray(content)
            first = 64 if number % 2 else size  # every other time only in its head
            for place in rng.integers(0, min(first, size), 1 + number // 2):
                harmed[place] ^= 1 << rng.integers(8)
            yield f"{kind}_flip_{number}.{ending}", Case(bytes(harmed), "either")
        for number, place in enumerate(rng.integers(0, size, 4).tolist()):
            length = int(rng.integers(1, 40))
            other = [bytes(length), content[:length], b""][number % 3]  # zeros, doubled, lost
            harmed = content[:place] + other + content[place + length :]
            yield f"{kind}_span_{number}.{ending}", Case(harmed, "either")


def turned(number):
    """What a picture with an orientation of EXIF must look like: TIFF 6.0, tag 274."""
    a = smooth()
    return {
        1: a,
        2: a[:, ::-1],
        3: a[::-1, ::-1],
        4: a[::-1],
        5: a.transpose(1, 0, 2),
        6: np.rot90(a, -1),
        7: a[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(a),
    }[number]


def odd():
    """Whole files that are unlike most."""
    plain, image = smooth(), Image.fromarray(smooth())
    palette, entries = colours()
    grey = plain[..., 1]
    wide = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    narrow = np.round(wide / 257).astype(np.uint8)[..., None].repeat(3, -1)
    floats = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    bits = np.indices((HEIGHT, WIDTH)).sum(0) % 3 == 0

    def exact(pixels, image, kind, **options):
        pixels = pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, -1)
        return Case(encoded(image, kind, **options), "read", pixels)

    files = whole()
    for name, ending in (
        ("png", "jpg"),
        ("jpeg", "png"),
        ("webp", "bmp"),
        ("gif", "tif"),
        ("tiff", "webp"),
        ("ppm", "PNG"),
    ):
        yield f"{name}_called.{ending}", files[name][1]
    for height, width in ((1, 1), (1, 3000), (3000, 1), (2, 1), (4096, 3)):
        yield f"size_{height}_{width}.png", exact(smooth(height, width), Image.fromarray(smooth(height, width)), "PNG")
    large = Image.new("1", (2048, 2048), 1)
    yield "large.png", exact(np.full((2048, 2048), 255, np.uint8), large, "PNG")
    inks = np.dstack([255 - plain, np.zeros_like(grey)])
    cmyk = Image.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes())
    yield "cmyk.tif", exact(plain, cmyk, "TIFF")
    yield "cmyk.jpg", Case(encoded(cmyk, "JPEG", quality=95), "read", plain, 8)
    yield "grey.png", exact(grey, Image.fromarray(grey), "PNG")
    yield "grey.jpg", Case(encoded(Image.fromarray(grey), "JPEG", quality=95), "read", grey[..., None].repeat(3, -1), 2)
    yield "bits.png", exact(bits * np.uint8(255), Image.fromarray(bits), "PNG")
    yield "bits.bmp", exact(bits * np.uint8(255), Image.fromarray(bits), "BMP")
    yield "bits.tif", exact(bits * np.uint8(255), Image.fromarray(bits), "TIFF", compression="group4")
    yield "bits.pbm", exact(bits * np.uint8(255), Image.fromarray(bits), "PPM")
    for kind, ending in (("PNG", "png"), ("TIFF", "tif"), ("PPM", "pgm")):
        yield f"16bit.{ending}", exact(narrow, Image.fromarray(wide), kind)
    yield "32bit.tif", exact(narrow, Image.fromarray(wide.astype(np.int32)), "TIFF")
    yield (
        "float.tif",
        exact(np.round(floats.astype(np.float64) * 255).astype(np.uint8), Image.fromarray(floats), "TIFF"),
    )
    yield "nan.tif", Case(encoded(Image.fromarray(np.where(bits, floats, np.float32("nan"))), "TIFF"))
    yield "infinite.tif", Case(encoded(Image.fromarray(np.where(bits, floats, np.float32("inf"))), "TIFF"))
    alpha = np.where(bits, 255, 0).astype(np.uint8)
    behind = np.where(bits[..., None], plain, 255).astype(np.uint8)
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        see_through = Image.fromarray(np.dstack([plain, alpha]))
        yield f"transparent.{kind.lower()}", exact(behind, see_through, kind, **options)
    pale = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    yield "transparent_grey.png", exact(np.where(bits, grey, 255).astype(np.uint8), pale, "PNG")
    clear = np.where((np.asarray(palette) == 3)[..., None], 255, entries).astype(np.uint8)
    yield "transparent_palette.png", exact(clear, palette, "PNG", transparency=3)
    yield "transparent_palette.gif", exact(clear, palette, "GIF", transparency=3)
    others = [Image.fromarray(np.roll(plain, k, axis=0)) for k in range(1, 60)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        yield f"frames.{kind.lower()}", exact(plain, image, kind, save_all=True, append_images=others, **options)
    later = [Image.fromarray(255 - grey)] * 2
    yield "frames.gif", exact(grey, Image.fromarray(grey), "GIF", save_all=True, append_images=later, duration=20)
    for number in range(1, 9):
        exif = Image.Exif()
        exif[274] = number
        for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
            name = f"turned_{number}.{kind.lower()}"
            yield name, exact(turned(number), image, kind, exif=exif, **options)
        jpeg = encoded(image, "JPEG", exif=exif, quality=95, subsampling=0)
        yield f"turned_{number}.jpg", Case(jpeg, "read", turned(number), 3)
    yield "bad_exif.jpg", Case(encoded(image, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(9)), "either")
    yield "bad_exif.png", Case(encoded(image, "PNG", exif=b"no EXIF"), "either")
    for name in (
        "übung 漢字 🐈.png",
        "u\u0308 a\u0301.png",
        "-rf.png",
        "{braces} %s %(x)d.png",
        "quotes '\".png",
        "line\nbreak.png",
        "\x1b[31mred\t.png",
        os.fsdecode(b"latin1 \xe9.png"),
        "x" * 251 + ".png",
        "many.dots.in.PNG",
        " .png",
        "CON.png",
    ):
        yield name, files["png"][1]
        yield "bad " + name[-240:], Case(b"this is no image")


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def patched(content, place, values):
    return content[:place] + values + content[place + len(values) :]


def refused():
    """Files that nobody can read, and such as would take all memory or all time."""
    for ending in ("png", "jpg", "gif", "tiff", "webp", "bmp", "ppm", "ico", "tga", "jp2", "psd", "dds", "avif"):
        yield f"empty.{ending}", Case(b"")
    rng = np.random.default_rng(1)
    for number, size in enumerate((1, 2, 7, 16, 100, 1000, 5000)):
        yield f"noise_{number}.png", Case(rng.bytes(size))
    yield "page.jpg", Case(b"<!DOCTYPE html><html><body>404 Not Found</body></html>")
    yield "lfs.png", Case(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n")
    yield "archive.png", Case(b"PK\x03\x04" + bytes(100))
    yield "eps.png", Case(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\n")
    yield "pdf.png", Case(b"%PDF-1.7\n%%EOF\n")
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "0" * (20 << 20), zip=True)
    yield "text_bomb.png", Case(encoded(Image.new("L", (4, 4)), "PNG", pnginfo=text), "either")


@cache
def bombs():
    """Files of some kilobytes that claim billions of pixels, or hold more than are read."""
    small = Image.new("L", (8, 8))
    side = struct.pack(">I", 60_000)
    head = side + side + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(1 << 20))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    tiff = encoded(small, "TIFF")
    width = tiff.index(struct.pack("<HHI", 256, 4, 1))
    claimed = patched(tiff, width + 8, struct.pack("<I", 60_000))
    webp = encoded(small.convert("RGB"), "WEBP", lossless=True)
    jpeg = encoded(small, "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    return {
        "claims.png": png,
        "claims.gif": patched(encoded(small, "GIF"), 6, struct.pack("<HH", 60_000, 60_000)),
        "claims.tif": patched(claimed, width + 20, struct.pack("<I", 60_000)),
        "claims.bmp": patched(encoded(small, "BMP"), 18, struct.pack("<ii", 60_000, 60_000)),
        "claims.ppm": b"P6 60000 60000 255\n" + bytes(1000),
        "claims.webp": patched(webp, 21, struct.pack("<I", (1 << 14) - 1 | ((1 << 14) - 1) << 14)),
        "claims.jpg": patched(jpeg, frame + 5, struct.pack(">HH", 60_000, 60_000)),
        "holds.png": encoded(Image.new("1", (13_000, 12_000)), "PNG"),  # whole, and under Pillow's own limit
        "holds.gif": encoded(Image.new("P", (13_000, 12_000)), "GIF"),
    }


LINKS = {"loop.png": "loop.png", "there.png": "back.png", "back.png": "there.png", "lost.jpg": "nowhere.jpg"}
DEVICES = {"endless.png": "/dev/zero", "nothing.png": "/dev/null", "terminal.jpg": "/dev/tty"}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """(a folder, file name -> Case)."""
    top = tmp_path_factory.mktemp("zoo")
    found = {}
    for name, case in (*damaged(), *odd(), *refused(), *((name, Case(bomb)) for name, bomb in bombs().items())):
        assert name not in found
        found[name] = case
        (top / name).write_bytes(case.content)
    for name, target in (LINKS | DEVICES).items():
        (top / name).symlink_to(target)
        found[name] = Case(b"")
    (top / "sparse.webp").write_bytes(found["webp.webp"].content)
    os.truncate(top / "sparse.webp", 2 << 30)
    os.mkfifo(top / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(top):
        server.bind("socket.png")
    found |= {name: Case(b"") for name in ("sparse.webp", "pipe.png", "socket.png")}
    (top / "linked.png").symlink_to("png.png")
    found["linked.png"] = found["png.png"]
    return top, found


READER = """
import json, os, re, resource, sys, time
from pathlib import Path
from jdiff.data.decode import decode

top, most = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
before, told = peak(), {}
for name in sorted(os.listdir(top)):
    began = time.monotonic()
    try:
        shape, why = decode(os.path.join(top, name), 3).shape, ""
    except Exception as error:
        shape, why = None, str(error) or type(error).__name__
    told[name] = shape, why, time.monotonic() - began
print(json.dumps([told, peak() - before]))
"""


@pytest.fixture(scope="module")
def outcomes(cases):
    """file name -> (shape or None, why it is refused, seconds), and how much memory that took: read in a process of its
    own, which ends if a file makes it wait.
    """
    command = [sys.executable, "-c", READER, str(cases[0]), str(MOST_ADDRESSES)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_there_are_hundreds_of_files(cases):
    _, found = cases
    assert len(found) >= 400
    assert sum(case.becomes != "read" for case in found.values()) >= 300


def test_each_file_takes_little_time_and_memory(cases, outcomes):
    told, growth = outcomes
    assert set(told) == set(cases[1])
    slow = {name: seconds for name, (_, _, seconds) in told.items() if seconds > SECONDS_A_FILE}
    assert not slow
    assert growth < MOST_GROWTH


def test_bombs_are_refused_for_their_size_before_memory_is_taken(outcomes):
    told, _ = outcomes
    for name, content in bombs().items():
        assert len(content) < 200_000
        shape, why, seconds = told[name]
        assert shape is None, name
        assert f"more than {MOST_PIXELS / 1e6:.0f} million pixels" in why, (name, why)
        assert seconds < 1, name


def test_files_of_gigabytes_are_not_read(outcomes):
    assert "larger than 1 GiB" in outcomes[0]["sparse.webp"][1]


def test_pipes_sockets_and_devices_are_not_opened(outcomes):
    for name in ("pipe.png", "socket.png", *DEVICES):
        assert "not a regular file" in outcomes[0][name][1] or name == "terminal.jpg"


def test_files_are_read_or_refused_as_they_must(cases, outcomes):
    _, found = cases
    told, _ = outcomes
    assert not [name for name, case in found.items() if case.becomes == "read" and told[name][0] is None]
    assert not [name for name, case in found.items() if case.becomes == "refused" and told[name][0] is not None]


def test_a_folder_of_them_skips_and_counts_those_refused(cases, outcomes):
    top, found = cases
    bad = sorted(name for name, (shape, _, _) in outcomes[0].items() if shape is None)
    source = Folder(str(top), "train", on_bad_file="skip", holdout=0)
    names = [os.path.basename(path) for path in source.names]
    assert names == sorted(set(found) - set(bad))
    assert f"skipped {len(bad)} unreadable of {len(found)} train images" in " ".join(source.notes)
    assert {file for file, _ in source.left_out} == {one_line(top / name) for name in bad}
    assert source.notes[0].isprintable()
    for name, record in zip(names, source, strict=True):
        case, image = found[name], record["image"]
        assert (image.dtype, image.shape[2], image.ndim) == (np.uint8, 3, 3), name
        assert 0 < image.size <= 3 * MOST_PIXELS, name
        if case.becomes != "either":
            assert image.shape == case.pixels.shape, name
            error = np.abs(image.astype(int) - case.pixels).mean()
            assert error <= case.error, (name, error)
    with pytest.raises(UserError) as caught:
        Folder(str(top), "train", holdout=0)
    message = str(caught.value)
    assert one_line(bad[0]) in message
    assert f"({len(bad) - 1} more like it)" in message


def test_each_is_refused_by_its_name_in_one_line(cases, outcomes, tmp_path):
    top, _ = cases
    bad = sorted(name for name, (shape, _, _) in outcomes[0].items() if shape is None)
    for number, name in enumerate(bad):
        alone = tmp_path / str(number)
        alone.mkdir()
        (alone / name).symlink_to(top / name)
        with pytest.raises(UserError) as caught:
            Folder(str(alone), "train")
        message = str(caught.value)
        assert message.startswith(f"{alone}/{one_line(name)} cannot be read: "), name
        assert message.endswith("; mend or remove it, or set data.on_bad_file=skip"), name
        assert message.isprintable(), name


def test_an_error_without_words_is_an_error(tmp_path, monkeypatch):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    Image.new("L", (4, 4)).save(tmp_path / "b.png")

    load = jdiff.data.decode.load

    def without_memory(stream, **options):
        if stream.name.endswith("b.png"):
            raise MemoryError
        return load(stream, **options)

    look = Reader.look
    monkeypatch.setattr(Reader, "look", lambda self, stream: without_memory(stream) and look(self, stream))
    with pytest.raises(UserError, match=r"b\.png cannot be read: MemoryError"):
        Folder(str(tmp_path), "train")
    assert len(Folder(str(tmp_path), "train", on_bad_file="skip")) == 1
    monkeypatch.undo()
    assert len(Folder(str(tmp_path), "train")) == 2  # what may pass is not remembered


# Pairs


def mask(high=255, size=(WIDTH, HEIGHT)):
    values = np.zeros(size[::-1], np.uint8)
    values[3:9, 4:12] = high
    return values


def harmed_pairs():
    """name -> ((image file's name, its bytes) or None, the mask's likewise, what a message must hold)."""
    photo, truth = encoded(Image.fromarray(smooth()), "PNG"), encoded(Image.fromarray(mask()), "PNG")

    def of(array, kind="PNG"):
        return encoded(Image.fromarray(array), kind)

    def strays(*values):
        array = mask()
        array[0, : len(values)] = values
        return of(array)

    half = np.dstack([mask()] * 3 + [np.where(mask(), 128, 255).astype(np.uint8)])
    masks = {
        "strays": (strays(1, 254), "holds 1, 254 where masks hold 0, 255"),
        "all_strays": (strays(*range(1, 25)), r"holds 1, 2, 3, 4, 5, 6, 7, 8, ... where"),
        "colour": (of(smooth()), "its colours are not class numbers"),
        "half": (of(half), "it is partly transparent"),
        "fraction": (of((mask(1) * 0.5).astype(np.float32), "TIFF"), "it holds 0.5"),
        "negative": (of(mask(1).astype(np.int32) * -7, "TIFF"), "it holds -7"),
        "nan": (of(np.where(mask(), np.float32("nan"), 0), "TIFF"), "and a mask holds whole numbers"),
        "deep": (of(mask(1).astype(np.uint16) * 300), "it holds 300"),
        "tall": (of(mask(size=(WIDTH, 2 * HEIGHT))), "differ in aspect ratio"),
        "cut": (truth[:50], "cannot be read"),
        "empty": (b"", "cannot be read"),
        "text": (b"no mask", "it is not an image"),
        "bomb": (bombs()["claims.png"], "million pixels"),
        "line\nbreak": (truth[:50], r"line\nbreak.png cannot be read"),
    }
    for name, (content, words) in masks.items():
        yield name, ((f"{name}.png", photo), (f"{name}.png", content), words)
    for name, content in (("cut_photo", photo[:60]), ("empty_photo", b""), ("bomb_photo", bombs()["claims.gif"])):
        yield name, ((f"{name}.png", content), (f"{name}.png", truth), f"images/{name}.png cannot be read")
    yield "lone", (("lone.png", photo), None, "has no partner in")
    yield "astray", (None, ("astray.png", truth), "has no partner in")


def pair_folder(top, pairs):
    photo, truth = encoded(Image.fromarray(smooth()), "PNG"), encoded(Image.fromarray(mask()), "PNG")
    for name in ("images", "masks"):
        (top / name).mkdir(parents=True)
    for number in range(4):
        (top / "images" / f"{number}.png").write_bytes(photo)
        (top / "masks" / f"{number}.png").write_bytes(truth)
    for image, truth, _ in pairs:
        for folder, file in (("images", image), ("masks", truth)):
            if file:
                (top / folder / file[0]).write_bytes(file[1])
    return str(top)


def test_harmed_pairs_are_skipped_and_counted(tmp_path):
    pairs = dict(harmed_pairs())
    source = Pairs(pair_folder(tmp_path, pairs.values()), "train", on_bad_file="skip", holdout=0)
    assert len(source) == 4
    for record in source:
        np.testing.assert_array_equal(record["image"], smooth())
        np.testing.assert_array_equal(record["mask"][..., 0], mask())
    both = len(pairs) - 2
    assert "skipped 2 pictures without a partner" in source.notes[1]
    assert f"skipped {both} of {both + 4} train pairs" in source.notes[-1]
    assert all(note.isprintable() for note in source.notes)


@pytest.mark.parametrize("name", dict(harmed_pairs()))
def test_harmed_pairs_are_refused_by_name(tmp_path, name):
    pair = dict(harmed_pairs())[name]
    with pytest.raises(UserError) as caught:
        Pairs(pair_folder(tmp_path, [pair]), "train")
    message = str(caught.value)
    assert pair[2] in message
    assert one_line(name) + "." in message
    assert message.isprintable()


# Metadata


LINES = [{"file_name": f"{number}.png", "text": f"the number {number}", "age": number} for number in range(6)]


def metadata_folder(top, name, content):
    top.mkdir()
    for line in LINES:
        Image.new("L", (4, 4)).save(top / line["file_name"])
    (top / name).write_bytes(content)
    return str(top)


def as_json():
    return "\n".join(map(json.dumps, LINES)).encode()


def as_csv():
    return b"file_name,text,age\n" + b"".join(b'%d.png,"the number %d",%d\n' % (n, n, n) for n in range(6))


NAMED = '{"file_name": "2.png", "text": "two", "age": %s}'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not JSON"),
        ('{"file_name": "2.png", "text": "two', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1, 2]", "is not a JSON object"),
        ("null", "is not a JSON object"),
        ("{}", "has no 'file_name'"),
        ('{"file_name": null, "text": "two", "age": 2}', "has no 'file_name'"),
        ('{"file_name": "2.png", "age": 2}', "has no 'text'"),
        ('{"file_name": "2.png", "text": [2], "age": 2}', "has no 'text'"),
        ('{"file_name": "2.png", "text": "\\ud800", "age": 2}', "not valid Unicode"),
        ('{"file_name": "1.png", "text": "two", "age": 2}', "names 1.png again, after line 2"),
        ('{"file_name": "../2.png", "text": "two", "age": 2}', "which is not an image there"),
        ('{"file_name": "2\\u0000.png", "text": "two", "age": 2}', r"names 2\x00.png, which is not an image there"),
        ('{"file_name": "2\\n.png", "text": "two", "age": 2}', r"names 2\n.png, which is not an image there"),
        ('{"file_name": "%s.png", "text": "two", "age": 2}' % ("2" * 5000), "which is not an image there"),
        (NAMED % "null", "has no 'age'"),
        (NAMED % '"two"', "has no 'age'"),
        (NAMED % "[2]", "has no 'age'"),
        (NAMED % "NaN", "has no 'age'"),
        (NAMED % "1e999", "has no 'age'"),
        (NAMED % "1e39", "has no 'age'"),  # no float32
        (NAMED % ("9" * 400), "has no 'age'"),  # no float64 either
        (NAMED % ("9" * 5000), "line 3"),
    ],
    ids=range(23),
)
def test_a_bad_line_is_named_or_skipped(tmp_path, line, words):
    lines = as_json().split(b"\n")
    lines[2] = line.encode()
    root = metadata_folder(tmp_path / "a", "metadata.jsonl", b"\n".join(lines))
    with pytest.raises(UserError) as caught:
        Folder(root, "train", scalars=("age",))
    message = str(caught.value)
    assert "metadata.jsonl line 3 " in message
    assert words in message
    assert message.isprintable()
    source = Folder(root, "train", scalars=("age",), on_bad_file="skip")
    assert source.captions == tuple(LINES[k]["text"] for k in (0, 1, 3, 4, 5))
    assert [record["age"] for record in source] == [0, 1, 3, 4, 5]
    assert "skipped 1 images without metadata and 1 lines of metadata" in source.notes[1]
    assert all(note.isprintable() for note in source.notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (as_csv().replace(b'"the number 2"', b'"the number 2'), "metadata.csv"),
        (as_csv().replace(b'"the number 2"', b"two, or not"), "metadata.csv line 4 has a comma too many"),
        (as_csv().replace(b"file_name", b"name"), "none file_name"),
        (as_csv().replace(b"2.png", b"\xff.png"), "metadata.csv line 4 names ÿ.png"),
        (as_csv().replace(b"2.png", b"\xff\x01.png"), "metadata.csv cannot be read"),
        (as_csv().replace(b"number 2", b"2" * 200_000), "metadata.csv line 4 is not CSV"),
        (b"", "0.png has no line in"),
        (b"file_name,text,age\n", "0.png has no line in"),
    ],
    ids=range(8),
)
def test_bad_csv_is_named(tmp_path, content, words):
    with pytest.raises(UserError) as caught:
        Folder(metadata_folder(tmp_path / "a", "metadata.csv", content), "train", scalars=("age",))
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("name", "whole"), [("metadata.jsonl", as_json()), ("metadata.csv", as_csv())])
def test_metadata_with_random_faults_are_read_or_refused(tmp_path, name, whole):
    rng = np.random.default_rng(0)
    root = metadata_folder(tmp_path / "a", name, whole)
    messages = []
    for number in range(60):
        harmed = bytearray(whole)
        for place in rng.integers(0, len(whole), 1 + number % 4):
            harmed[place] ^= 1 << rng.integers(8)
        harmed = harmed[: rng.integers(1, len(whole))] if number % 3 == 0 else harmed
        Path(root, name).write_bytes(harmed)
        for scalars in ((), ("age",)):
            try:
                source = Folder(root, "train", scalars=scalars, on_bad_file="skip")
                assert not source.captions or len(source.captions) == len(source)
                Folder(root, "train", scalars=scalars)
            except UserError as error:
                messages.append(str(error))
    assert len(messages) > 60
    assert all(message.isprintable() for message in messages)


def test_names_in_metadata_may_be_composed_otherwise(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "u\u0308.png")  # as macOS writes it
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "ü.png", "text": "an umlaut"}))
    assert Folder(str(tmp_path), "train").captions == ("an umlaut",)


# What may not be read


@contextlib.contextmanager
def without_rights():
    """Of no use to root otherwise, who may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def locked():
    """A folder in which anyone may do anything."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with without_rights():
            if not os.path.isdir(folder):
                pytest.skip(f"{folder} lies where nobody may go")
        for name in ("images", "masks"):
            (Path(folder) / name).mkdir()
            for number in range(3):
                Image.fromarray(mask()).save(Path(folder, name, f"{number}.png"))
        yield Path(folder)
        for name in ("images", "masks"):
            os.chmod(Path(folder, name), 0o755)


def test_files_without_permission_are_named_or_skipped(locked):
    os.chmod(locked / "images" / "1.png", 0)
    pairs, folder = str(locked), str(locked / "images")
    with without_rights():
        for source, root in ((Pairs, pairs), (Folder, folder)):
            with pytest.raises(UserError, match=r"images/1\.png cannot be read: .*Permission denied"):
                source(root, "train")
            assert len(source(root, "train", on_bad_file="skip")) == 2


@pytest.mark.parametrize("rights", [0o000, 0o444, 0o111])
def test_folders_without_permission_are_named(locked, rights):
    (locked / "images" / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "nothing"}')
    os.chmod(locked / "images", rights)
    with without_rights():
        for source, root in ((Pairs, locked), (Folder, locked), (Folder, locked / "images")):
            with pytest.raises(UserError, match="images") as caught:
                source(str(root), "train")
            assert str(caught.value).isprintable()


def test_metadata_without_permission_are_named(locked):
    file = locked / "images" / "metadata.jsonl"
    file.write_text('{"file_name": "0.png", "text": "nothing"}')
    os.chmod(file, 0)
    with without_rights(), pytest.raises(UserError, match=r"metadata\.jsonl cannot be read: .*Permission denied"):
        Folder(str(locked / "images"), "train")


# After the start


@contextlib.contextmanager
def within(seconds):
    def late(*_):
        raise TimeoutError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def remove(file):
    file.unlink()


def cut_short(file):
    file.write_bytes(file.read_bytes()[:60])


def make_pipe(file):
    file.unlink()
    os.mkfifo(file)


def photos(top, count=8):
    for number in range(count):
        Image.fromarray(smooth()).save(top / f"{number}.png")
    view = View(picture=Picture((None, None, 3)), resize=Resize("centre", 8, 8))
    return Folder(str(top), "train"), view


@pytest.mark.parametrize(("harm", "workers"), [(remove, 1), (cut_short, 1), (make_pipe, 1), (make_pipe, 0)])
def test_a_file_that_is_harmed_during_training_is_named(tmp_path, harm, workers):
    source, view = photos(tmp_path)
    batches = train_batches(source, view, batch_size=4, seed=0, workers=workers, threads=1, prefetch=1)
    with within(60):
        assert next(batches)["x0"].shape == (4, 8, 8, 3)
        harm(tmp_path / "5.png")
        with pytest.raises(UserError, match=r"5\.png could be read at the start and cannot now") as caught:
            list(itertools.islice(batches, 20))
    assert str(caught.value).isprintable()


def test_a_worker_that_is_killed_is_no_silence(tmp_path):
    source, view = photos(tmp_path)
    before = set(multiprocessing.active_children())
    batches = train_batches(source, view, batch_size=4, seed=0, workers=1, threads=1, prefetch=1)
    with within(60):
        next(batches)
        (worker,) = set(multiprocessing.active_children()) - before
        worker.kill()
        with pytest.raises(UserError, match=r"a process that reads data was killed, .* memory"):
            list(itertools.islice(batches, 20))

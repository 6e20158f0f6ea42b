"""Archives and captions that are damaged: read rightly or refused by name, in little time and memory."""

import io
import json
import tarfile
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.pairs import Pairs

COUNT = 8
HARMED = 60  # of each kind


def picture(number):
    values = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return values, stream.getvalue()


def members():
    """Name -> bytes: two classes of images, a caption beside each."""
    found = {}
    for i in range(COUNT):
        found[f"{'ab'[i % 2]}/{i}.png"] = picture(i)[1]
        found[f"{'ab'[i % 2]}/{i}.txt"] = f"number {i}".encode()
    return found


def as_zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members().items():
            archive.writestr(name, content)
    return stream.getvalue()


def as_tar():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members().items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def harmed(whole, number):
    """Bits flipped, bytes overwritten, a part lost, or the end."""
    rng = np.random.default_rng(number)
    content = bytearray(whole)
    first, length = int(rng.integers(len(content))), int(rng.integers(1, 200))
    match number % 4:
        case 0:
            for place in rng.integers(0, len(content), 1 + number % 5):
                content[place] ^= 1 << int(rng.integers(8))
        case 1:
            content[first : first + length] = rng.bytes(length)
        case 2:
            del content[first : first + length]
        case 3:
            del content[first:]
    return bytes(content)


@pytest.mark.parametrize("number", range(HARMED))
@pytest.mark.parametrize(("ending", "make"), [("zip", as_zip), ("tar", as_tar)])
def test_harmed_archives(tmp_path, ending, make, number):
    file = tmp_path / f"x.{ending}"
    file.write_bytes(harmed(make(), number))
    began, refusals = time.monotonic(), []
    for on_bad_file in ("skip", "error"):
        try:
            source = Folder(str(file), "train", on_bad_file=on_bad_file)
            records = list(source)
        except UserError as error:
            refusals.append(str(error))
            continue
        assert 0 < len(records) == len(source) <= COUNT
        for name, record in zip(source.names, records, strict=True):
            assert record["image"].shape[2] == 3
            stem = name.rpartition("/")[2].removesuffix(".png")
            if ending == "zip" and stem.isdigit() and int(stem) < COUNT:  # a checksum guards each file
                np.testing.assert_array_equal(record["image"], picture(int(stem))[0])
        assert all(note.isprintable() for note in source.notes)
    assert time.monotonic() - began < 5
    assert all(refusal.isprintable() and str(file) in refusal for refusal in refusals)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("number", range(HARMED))
def test_harmed_captions_beside_images(tmp_path, number):
    rng = np.random.default_rng(number)
    for i in range(COUNT):
        (tmp_path / f"{i}.png").write_bytes(picture(i)[1])
        content = "\n".join(["a caption, ünï", f"another {i}"]).encode(("utf-8", "cp1252", "utf-16")[number % 3])
        (tmp_path / f"{i}.txt").write_bytes(harmed(content, number) if rng.random() < 0.5 else content)
    source = Folder(str(tmp_path), "train")
    assert len(source) == COUNT
    assert all(note.isprintable() for note in source.notes)
    for caption in source.captions:
        caption.encode("utf-8")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", "is not read"),
        (b'{"labels": 3}', "is not read"),
        (b'{"labels": [["a.png"]]}', "is not read"),
        (b'{"labels": [["0.png", [0.5, 1]]]}', "not whole numbers"),
        (b"\xff\xfe", "is not read"),
        (b"[" * 100_000, "is not read"),
        (json.dumps({"labels": None}).encode(), ""),
    ],
    ids=range(7),
)
def test_harmed_dataset_json(tmp_path, content, words):
    for i in range(COUNT):
        (tmp_path / f"{i}.png").write_bytes(picture(i)[1])
    (tmp_path / "dataset.json").write_bytes(content)
    source = Folder(str(tmp_path), "train")
    assert source.class_names == ()
    assert words in " ".join(source.notes)


def test_a_missing_label_is_named(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(picture(i)[1])
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["0.png", 0], ["2.png", 1]]}))
    with pytest.raises(UserError, match=r"1\.png has no label in .*dataset\.json.*on_bad_file=skip"):
        Folder(str(tmp_path), "train")
    assert [record["label"] for record in Folder(str(tmp_path), "train", on_bad_file="skip")] == [0, 1]


def test_an_archive_of_gigabytes_in_kilobytes_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", picture(0)[1])
        with archive.open("bomb.png", "w", force_zip64=True) as stream:
            for _ in range(1100):
                stream.write(bytes(1 << 20))
    began = time.monotonic()
    source = Folder(str(tmp_path / "x.zip"), "train", on_bad_file="skip")
    assert len(source) == 1
    assert "larger than 1 GiB" in source.left_out[0][1]
    assert time.monotonic() - began < 2


def test_pairs_in_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for i in range(4):
            archive.writestr(f"images/{i}.png", picture(i)[1])
            stream = io.BytesIO()
            Image.fromarray(np.uint8(255) * (picture(i)[0][..., 0] > 128)).save(stream, "PNG")
            archive.writestr(f"masks/{i}.png", stream.getvalue())
    source = Pairs(str(tmp_path / "x.zip"), "train")
    assert len(source) == 4
    np.testing.assert_array_equal(source[2]["image"], picture(2)[0])

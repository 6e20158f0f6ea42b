"""What is done once and kept: looks at files, pictures at the size that is trained on; and what is drawn anew."""

import json
import os
import pickle
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from jdiff.common.errors import UserError
from jdiff.conditions.label import Label
from jdiff.conditions.text import Text
from jdiff.data.augment import Turn
from jdiff.data.decode import Reader, decode, load
from jdiff.data.holdout import share_of
from jdiff.data.pipeline import train_batches
from jdiff.data.resize import Resize
from jdiff.data.sources import Picture
from jdiff.data.sources.captioned import Tags, encode
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.packed import Packed, pack
from jdiff.data.sources.prepared import prepared
from jdiff.data.views import View
from tests.conftest import config, run_here
from tests.records import assert_same, assert_source


def photo(size, number=0):
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    """JPEG files of several sizes, one of them turned by EXIF."""
    for i, size in enumerate(((640, 512), (512, 640), (300, 200), (64, 64), (1024, 704), (90, 70))):
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 4 else 1
        photo(size, i).save(tmp_path / f"{i}.jpg", quality=95, exif=exif)
    return tmp_path


def view(side=32, rule="centre", **changes):
    return View(
        picture=Picture((None, None, 3)), resize=Resize(rule, side, side), turn=Turn(horizontal=True), **changes
    )


# Large JPEG, decoded near the size that is trained on


@pytest.mark.parametrize("rule", ["centre", "adm", "pad", "squash"])
def test_a_jpeg_decoded_near_its_size_is_nearly_the_same(photos, rule):
    whole, near = (Folder(str(photos), "train", near=size) for size in (0, 32))
    assert [tuple(size) for size in near.sizes] == [tuple(size) for size in whole.sizes]
    assert tuple(whole.sizes[4]) == (1024, 704)  # turned
    resize = Resize(rule, 32, 32)
    for i, (ours, theirs) in enumerate(zip(near, whole, strict=True)):
        ratio = max(theirs["image"].shape) / max(ours["image"].shape)
        assert ratio == pytest.approx(8 if i in (0, 1, 4) else 2 if i == 2 else 1, rel=0.02), i
        difference = resize({"x": ours["image"]})["x"].astype(int) - resize({"x": theirs["image"]})["x"]
        assert np.abs(difference).mean() < 1.5, (i, np.abs(difference).mean())


def test_shapes_that_drafts_change_are_not_promised(tmp_path):
    for i in range(3):
        photo((512, 256), i).save(tmp_path / f"{i}.jpg")
    assert Folder(str(tmp_path), "train").shape == (256, 512, 3)
    source = Folder(str(tmp_path), "train", near=32)
    assert source.shape == (None, None, 3)
    assert_source(source)


# At size, once


@pytest.mark.parametrize("rule", ["centre", "adm", "pad", "squash", "random_crop"])
def test_examples_are_those_of_the_whole_pictures(photos, rule):
    source, one = Folder(str(photos), "train"), view(rule=rule)
    small = prepared(source, one)
    assert_source(small)
    for _ in range(3):
        for i in range(len(source)):
            examples = [one(record, np.random.default_rng(i)) for record in (source[i], small[i])]
            np.testing.assert_array_equal(*(example["x0"] for example in examples))
    most = max(record["image"].size for record in small)
    assert most <= 4 * (32 / 0.8) ** 2 * 3 * 1024 / 704 + 1000
    assert pickle.loads(pickle.dumps(small))[0]["image"].shape == small[0]["image"].shape


def test_pictures_of_the_size_already_are_left_alone(tmp_path):
    for i in range(3):
        photo((32, 32), i).save(tmp_path / f"{i}.png")
    source = Folder(str(tmp_path), "train")
    assert prepared(source, view()) is source


def test_packed_at_size_they_give_the_same_batches(photos, tmp_path_factory):
    source, one = Folder(str(photos), "train", near=32), view()
    small, out = prepared(source, one), tmp_path_factory.mktemp("out") / "packed"
    pack({"train": small}, out)
    packed = Packed(str(out), "train")
    first, second = (next(train_batches(each, one, batch_size=6, seed=0)) for each in (small, packed))
    np.testing.assert_array_equal(first["x0"], second["x0"])
    size = sum(file.stat().st_size for file in out.iterdir())
    assert size < 1.2 * len(source) * 32 * 32 * 3 + (1 << 17)  # and a file's own blocks


def test_prepare_says_how_large_and_packs_at_size(photos, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("cwd")
    options = (config("folder"), f"--config.data.dir={photos}", "--config.log.progress=false")
    result = run_here("--mode=prepare", *options, "--config.data.image_size=16", "--out=a", cwd=cwd)
    assert result.status == 0, result.err
    assert "packing 6 train images, 16x16, 0.0 MB, into a; --config.data.image_size=0 packs them whole" in result.out
    assert Packed(str(cwd / "a"), "train").shape == (16, 16, 3)
    result = run_here("--mode=prepare", *options, "--config.data.image_size=0", "--out=b", cwd=cwd)
    assert "packing 6 train images, as they are, 4.3 MB, into b" in result.out
    for ours, theirs in zip(Packed(str(cwd / "b"), "train"), Folder(str(photos), "train"), strict=True):
        assert_same({"image": ours["image"]}, {"image": theirs["image"]})


# Looked at once


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("JDIFF_CACHE", str(folder))
    return folder


def test_no_file_is_looked_at_twice(photos, cache, monkeypatch):
    looks = []
    look = Reader.look
    monkeypatch.setattr(Reader, "look", lambda self, stream: looks.append(stream.name) or look(self, stream))
    (photos / "bad.jpg").write_bytes(b"no image")

    def start(**options):
        looks.clear()
        source = Folder(str(photos), "train", on_bad_file="skip", **options)
        return sorted(os.path.basename(name) for name in looks), source

    every = [*(f"{i}.jpg" for i in range(6)), "bad.jpg"]
    seen, first = start()
    assert seen == every
    seen, again = start()
    assert seen == ["bad.jpg"]  # a library that reads it may have come
    assert (again.notes, again.left_out, again.names) == (first.notes, first.left_out, first.names)
    np.testing.assert_array_equal(again.sizes, first.sizes)
    photo((50, 40), 9).save(photos / "2.jpg")
    (photos / "3.jpg").unlink()
    photo((50, 40), 8).save(photos / "new.jpg")
    seen, later = start()
    assert seen == ["2.jpg", "bad.jpg", "new.jpg"]
    assert tuple(later.sizes[2]) == (40, 50)
    assert start(bits=16, channels=1, near=32)[0] == ["bad.jpg"]  # the same is found, whatever is read of them
    assert start(bits=16)[0] == ["0.jpg", "1.jpg", "2.jpg", "4.jpg", "5.jpg", "bad.jpg", "new.jpg"]


def test_a_torn_or_locked_cache_is_only_slower(photos, cache):
    first = Folder(str(photos), "train")
    (file,) = (cache / "verdicts").iterdir()
    for content in (b"", b"{", json.dumps({"findings": [1], "names": ["0.jpg"]}).encode(), b"\xff"):
        file.write_bytes(content)
        assert Folder(str(photos), "train").names == first.names
    os.environ["JDIFF_CACHE"] = str(photos / "0.jpg")  # no folder
    assert Folder(str(photos), "train").names == first.names


# Colours and depth


PRIMARIES = np.array([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]])  # Adobe RGB, D50
SRGB = np.array([[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])


def profile(name, gamma=2.2):
    """An ICC profile of three primaries (ICC.1:2001-04): XYZ = PRIMARIES linear, linear = v^gamma."""

    def number(value):
        return struct.pack(">i", round(value * 65536))

    text = name.encode() + b"\0"
    desc = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    tags = {b"desc": desc, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": b"XYZ " + bytes(4)}
    tags[b"wtpt"] += b"".join(map(number, (0.9642, 1.0, 0.8249)))
    for k, colour in enumerate("rgb"):
        tags[f"{colour}XYZ".encode()] = b"XYZ " + bytes(4) + b"".join(map(number, PRIMARIES[:, k]))
        tags[f"{colour}TRC".encode()] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytes(8) + struct.pack(">I", 0x02100000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    head += b"".join(map(number, (0.9642, 1.0, 0.8249))) + bytes(48)
    whole = head + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def test_colours_of_another_profile_become_srgb(tmp_path):
    """Against the formula: v^2.2 through the profile's primaries to XYZ, from there through sRGB's."""
    values = np.random.default_rng(0).integers(60, 200, (8, 8, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=profile("Wide colours"))
    linear = (values / 255) ** 2.2 @ PRIMARIES.T @ np.linalg.inv(SRGB).T
    linear = linear.clip(0, 1)
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    found = decode(tmp_path / "a.png", 3)
    assert np.abs(found - expected).max() < 2.5
    assert np.abs(found.astype(int) - values).max() > 10
    notes = " ".join(Folder(str(tmp_path), "train").notes)
    assert "a colour profile (Wide colours) in 1 file: colours are converted to sRGB" in notes


def test_images_in_srgb_stay_to_the_bit(tmp_path):
    plain = photo((16, 16))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, content in (("srgb", srgb), ("broken", b"no profile")):
        plain.save(tmp_path / f"{name}.png", icc_profile=content)
        np.testing.assert_array_equal(decode(tmp_path / f"{name}.png", 3), plain)
    assert "profile" not in " ".join(Folder(str(tmp_path), "train").notes)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_of_colour_are_kept(tmp_path, ending):
    imagecodecs, tifffile = pytest.importorskip("imagecodecs"), pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), np.uint16)
    if ending == "png":
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(values))
    else:
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    photo((7, 5)).save(tmp_path / "b.png")
    source = Folder(str(tmp_path), "train", channels=3, bits=16)
    assert_source(source)
    np.testing.assert_array_equal(source[0]["image"], values)
    np.testing.assert_array_equal(source[1]["image"], np.asarray(photo((7, 5)), np.uint16) * 257)
    assert "8 bits a channel in 1 of 2 files" in " ".join(source.notes)
    assert "16 bits a channel in 1 of 2 files, read as 8" in " ".join(Folder(str(tmp_path), "train").notes)


def test_pages_are_records(tmp_path):
    pages = [Image.fromarray(np.full((4, 4), 50 * k, np.uint8)) for k in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    pages[3].save(tmp_path / "b.png")
    first, every = (Folder(str(tmp_path), "train", channels=1, pages=pages) for pages in ("first", "all"))
    assert [int(record["image"][0, 0, 0]) for record in first] == [0, 150]
    assert [int(record["image"][0, 0, 0]) for record in every] == [0, 50, 100, 150, 150]
    assert [os.path.basename(name) for name in every.names] == ["a.tif#1", "a.tif#2", "a.tif#3", "a.tif#4", "b.png"]
    assert_source(every)
    assert load(tmp_path / "a.tif", page=2).getpixel((0, 0)) == 100


# Several captions, and tags


def lengths(texts):
    return np.array([[len(text)] for text in texts], np.int32)


def test_each_epoch_draws_one_of_several_captions(tmp_path):
    for i in range(4):
        photo((8, 8), i).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("\n".join("x" * (10 * i + k + 1) for k in range(1 + i)))
    (source,) = encode([Folder(str(tmp_path), "train")], lengths)
    text = Text(length=1)
    one = view(8, conditions=(text,), texts_vary=True)
    drawn = {i: {int(one(source[i], np.random.default_rng(k))["cond"]["text"][0]) for k in range(40)} for i in range(4)}
    assert drawn == {i: {10 * i + k + 1 for k in range(1 + i)} for i in range(4)}
    fixed = view(8, conditions=(text,))
    assert [int(fixed(record, None)["cond"]["text"][0]) for record in source] == [1, 11, 21, 31]


def test_tags_are_shuffled_and_left_out(tmp_path):
    photo((8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a, b, c, d")
    seen = []

    def told(texts):
        seen.extend(texts)
        return lengths(texts)

    (source,) = encode([Folder(str(tmp_path), "train")], told, Tags(told, shuffle=True, drop=0.25))
    one = view(8, conditions=(Text(length=1),), texts_vary=True)
    seen.clear()
    for k in range(400):
        one(source[0], np.random.default_rng(k))
    tags = [text.split(", ") if text else [] for text in seen]
    assert len({tuple(each) for each in tags if len(each) == 4}) > 20  # of 24 orders
    assert np.mean([len(each) for each in tags]) == pytest.approx(3, abs=0.15)
    assert all(set(each) <= set("abcd") for each in tags)
    one(source[0], None)
    assert seen[-1] == "a, b, c, d"


# Labels


def test_a_number_that_is_another_classs_name_is_asked_about():
    label = Label(class_names=("1", "2", "3"))
    with pytest.raises(
        UserError, match="labels holds 2, and class number 2 is '3', while the class named '2' is number 1"
    ):
        label.of_caller([2])
    with pytest.raises(UserError, match=r"holds 3, and there is no such number, .*as in labels=\['3'\]"):
        label.of_caller([3])
    assert label.of_caller(["3", 0, "1"]).tolist() == [2, 0, 0]
    assert label.every_class().tolist() == [0, 1, 2]


def test_classes_without_an_image_are_not_drawn_in_turn():
    assert Label(class_names=("0", "1", "2"), class_counts=(0, 4, 1)).every_class().tolist() == [1, 2]


# Shares


@pytest.mark.parametrize("holdout", [0.05, 0.1, 0.33])
def test_a_share_is_of_each_class_and_of_whole_groups(holdout):
    classes = ["a"] * 200 + ["b"] * 50 + ["c"] * 3
    test = share_of(len(classes), "test", holdout, classes=classes)
    train = share_of(len(classes), "train", holdout, classes=classes)
    assert sorted(test + train) == list(range(len(classes)))
    assert len(test) == round(holdout * len(classes))
    for name in "abc":
        share = sum(classes[i] == name for i in test)
        assert abs(share - holdout * classes.count(name)) <= 1
    groups = [i // 10 for i in range(250)]
    test = share_of(250, "test", holdout, groups=groups)
    assert len(test) % 10 == 0
    assert abs(len(test) - holdout * 250) <= 10
    assert not {groups[i] for i in test} & {groups[i] for i in share_of(250, "train", holdout, groups=groups)}

"""Pairs of pictures, and masks as files have them."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.decode import load
from jdiff.data.masks import to_mask
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.pairs import Pairs
from tests.records import assert_same, assert_source

SIDE = 16


def photo(number, size=(SIDE, SIDE)):
    values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def disc(radius, high=255, size=(SIDE, SIDE)):
    rows, columns = np.indices((size[1], size[0])) - np.array([size[1], size[0]])[:, None, None] / 2
    return Image.fromarray(((rows**2 + columns**2 < radius**2) * high).astype(np.uint8))


def save(image, *parts):
    path = os.path.join(*map(str, parts))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image.save(path)


def fill(folder, count, first="images", second="masks", start=0):
    for i in range(start, start + count):
        save(photo(i), folder, first, f"{i:03d}.png")
        save(disc(2 + i % 5), folder, second, f"{i:03d}.png")


def test_parallel_folders_match_by_base_name(tmp_path):
    save(photo(0), tmp_path, "images", "b.bmp")
    save(photo(1), tmp_path, "images", "deep", "a.PNG")
    save(photo(2), tmp_path, "images", "ä.x.png")
    save(disc(3), tmp_path, "masks", "b.gif")
    save(disc(4), tmp_path, "masks", "deep", "a.tif")
    save(disc(5), tmp_path, "masks", "a\u0308.x.png")  # the same name to a person
    source = Pairs(str(tmp_path), "train")
    assert_source(source)
    assert len(source) == 3
    for record, (number, radius) in zip(source, ((0, 3), (1, 4), (2, 5)), strict=True):
        np.testing.assert_array_equal(record["image"], photo(number))
        np.testing.assert_array_equal(record["mask"][..., 0], disc(radius))
    assert source.pictures["mask"].kind == "mask"
    assert source.pictures["mask"].shape == (*source.shape[:2], 1) == (SIDE, SIDE, 1)
    assert source.notes == (f"{tmp_path}: training on 3 pairs of images and masks; held out: none",)


@pytest.mark.parametrize("form", ["{split}/{folder}", "{folder}/{split}"])
def test_splits_of_their_own(tmp_path, form):
    for split, start, count in (("train", 0, 4), ("val", 10, 2), ("test", 20, 3)):
        names = [form.format(split=split, folder=folder) for folder in ("images", "masks")]
        fill(tmp_path, count, *names, start=start)
    root = str(tmp_path)
    assert [len(Pairs(root, split)) for split in ("train", "test")] == [4, 3]
    np.testing.assert_array_equal(Pairs(root, "test")[0]["image"], photo(20))
    for path in list(tmp_path.rglob("test/**/*.png")):
        path.unlink()
    np.testing.assert_array_equal(Pairs(root, "test")[1]["image"], photo(11))  # validation pairs, where no test is


@pytest.mark.parametrize("form", ["{split}/{folder}", "{folder}/{split}"])
def test_a_test_split_without_pictures_is_named(tmp_path, form):
    fill(tmp_path, 20, *(form.format(split="train", folder=folder) for folder in ("images", "masks")))
    for folder in ("images", "masks"):
        (tmp_path / form.format(split="test", folder=folder)).mkdir(parents=True)
    first = tmp_path / form.format(split="test", folder="images")
    for splits in ((), ("train", "test")):
        with pytest.raises(UserError, match=f"{first} holds no pictures: put those of this split there, or remove"):
            Pairs(str(tmp_path), "train", splits=splits)
    fill(tmp_path, 2, *(form.format(split="val", folder=folder) for folder in ("images", "masks")), start=20)
    assert len(Pairs(str(tmp_path), "test")) == 2  # the one that is filled
    for split in ("val", "test"):
        for folder in ("images", "masks"):
            shutil.rmtree(tmp_path / form.format(split=split, folder=folder))
    assert len(Pairs(str(tmp_path), "test", holdout=0.1)) == 2


def test_the_same_pairs_are_held_out_as_images_of_a_folder(tmp_path):
    fill(tmp_path, 40)
    for split, count in (("train", 36), ("test", 4)):
        pairs, folder = Pairs(str(tmp_path), split, holdout=0.1), Folder(str(tmp_path / "images"), split, holdout=0.1)
        assert len(pairs) == len(folder) == count
        for pair, record in zip(pairs, folder, strict=True):
            np.testing.assert_array_equal(pair["image"], record["image"])


def test_names_folders_and_kinds_are_free(tmp_path):
    for i in range(3):
        save(photo(i), tmp_path, "photos", f"{i}.png")
        save(photo(i + 10), tmp_path, "drawings", f"{i}.png")
    source = Pairs(str(tmp_path), "train", folders=("drawings", "photos"), names=("sketch", "image"))
    assert_source(source)
    assert {name: picture.kind for name, picture in source.pictures.items()} == {"sketch": "image", "image": "image"}
    np.testing.assert_array_equal(source[1]["image"], photo(1))
    np.testing.assert_array_equal(source[1]["sketch"], photo(11))
    with pytest.raises(UserError, match="one of them must be 'image'"):
        Pairs(str(tmp_path), "train", names=("photo", "mask"))


@pytest.mark.parametrize("folders", [("a", "b"), ("", "")])
def test_base_names_may_end_differently(tmp_path, folders):
    for i in range(3):
        save(photo(i), tmp_path, folders[0], f"{i}.png")
        save(disc(i + 2), tmp_path, folders[1], f"{i}_segmentation.png")
    source = Pairs(str(tmp_path), "train", folders=folders, suffixes=("", "_segmentation"))
    assert len(source) == 3
    np.testing.assert_array_equal(source[2]["mask"][..., 0], disc(4))
    if folders[0]:
        save(photo(9), tmp_path, "a", "9.png")
        save(disc(5), tmp_path, "b", "9.png")  # without its suffix, as copies of a data set may be
        assert len(Pairs(str(tmp_path), "train", folders=folders, suffixes=("", "_segmentation"))) == 4
    with pytest.raises(UserError, match=r"no pairs of pictures|has no partner"):
        Pairs(str(tmp_path), "train", folders=("a", "b") if folders[0] else (".", "."), suffixes=("", "_other"))


@pytest.mark.parametrize(("halves", "axis"), [("left,right", 1), ("top,bottom", 0)])
def test_halves_of_one_picture(tmp_path, halves, axis):
    for i in range(3):
        mask = np.repeat(np.asarray(disc(3 + i))[..., None], 3, axis=-1)
        whole = np.concatenate([np.asarray(photo(i)), mask], axis=axis)
        save(Image.fromarray(whole), tmp_path, f"{i}.png")
    source = Pairs(str(tmp_path), "train", halves=halves)
    assert_source(source)
    assert source.shape == (SIDE, SIDE, 3)
    np.testing.assert_array_equal(source[1]["image"], photo(1))
    np.testing.assert_array_equal(source[1]["mask"][..., 0], disc(4))
    pictures = Pairs(str(tmp_path), "train", halves=halves, names=("image", "label"))
    np.testing.assert_array_equal(pictures[2]["label"][..., 1], disc(5))
    save(photo(0, (17, 17)), tmp_path, "odd.png")
    with pytest.raises(UserError, match=r"odd\.png cannot be read: it is 17 pixels"):
        Pairs(str(tmp_path), "train", halves=halves)
    with pytest.raises(UserError, match=r"data\.halves='both'"):
        Pairs(str(tmp_path), "train", halves="both")


def test_pictures_without_a_partner_are_named_or_counted(tmp_path):
    fill(tmp_path, 3)
    save(photo(9), tmp_path, "images", "lone.png")
    with pytest.raises(UserError, match=r"images/lone\.png has no partner in .*masks; .*data\.on_bad_file=skip"):
        Pairs(str(tmp_path), "train")
    save(disc(9), tmp_path, "masks", "astray.png")
    source = Pairs(str(tmp_path), "train", on_bad_file="skip")
    assert len(source) == 3
    assert "skipped 2 pictures without a partner (first: " in source.notes[1]
    save(photo(9), tmp_path, "images", "000.jpg")
    with pytest.raises(UserError, match=r"000\.png has the same base name as .*000\.jpg"):
        Pairs(str(tmp_path), "train")


def test_bad_files_of_a_pair_are_named_or_counted(tmp_path):
    fill(tmp_path, 4)
    whole = (tmp_path / "masks" / "001.png").read_bytes()
    (tmp_path / "masks" / "001.png").write_bytes(whole[:40])
    save(disc(3, size=(SIDE, 2 * SIDE)), tmp_path, "masks", "002.png")
    with pytest.raises(UserError, match=r"masks/001\.png cannot be read: .*1 more like it"):
        Pairs(str(tmp_path), "train")
    source = Pairs(str(tmp_path), "train", on_bad_file="skip")
    assert len(source) == 2
    assert "skipped 2 of 4 train pairs" in source.notes[1]
    (tmp_path / "masks" / "001.png").write_bytes(whole)
    with pytest.raises(UserError, match=r"002\.png \(16x16\) and .*002\.png \(16x32\) differ in aspect ratio"):
        Pairs(str(tmp_path), "train")


def test_a_mask_may_be_smaller_in_proportion(tmp_path):
    save(photo(0, (101, 67)), tmp_path, "images", "a.png")
    save(disc(5, size=(34, 22)), tmp_path, "masks", "a.png")  # a third, rounded
    record = Pairs(str(tmp_path), "train")[0]
    assert (record["image"].shape, record["mask"].shape) == ((67, 101, 3), (22, 34, 1))


def test_folders_that_are_no_pairs(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        Pairs(str(tmp_path / "nowhere"), "train")
    save(photo(0), tmp_path, "Original", "a.png")
    with pytest.raises(UserError, match=r"no folders 'images' and 'masks'.*it holds Original.*data\.folders"):
        Pairs(str(tmp_path), "train")
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match="no pairs of pictures in"):
        Pairs(str(tmp_path), "train", folders=("Original", "masks"))


def test_folders_that_cannot_be_listed_are_named(tmp_path, monkeypatch):
    fill(tmp_path, 2)
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("masks"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(UserError, match="masks cannot be read: Permission denied"):
        Pairs(str(tmp_path), "train")


def test_a_file_that_is_lost_later_is_named(tmp_path):
    fill(tmp_path, 2)
    source = Pairs(str(tmp_path), "train")
    (tmp_path / "masks" / "001.png").unlink()
    source[0]
    with pytest.raises(UserError, match=r"masks/001\.png cannot be read.*could be at the start"):
        source[1]


# Masks


def palette(indices, colours):
    image = Image.fromarray(np.asarray(indices, np.uint8)).convert("P")
    image.putdata(np.asarray(indices, np.uint8).ravel().tolist())
    image.putpalette(list(np.ravel(colours)))
    return image


PATTERN = np.arange(16).reshape(4, 4) % 2
BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)


@pytest.mark.parametrize(
    ("image", "values"),
    [
        (Image.fromarray(PATTERN.astype(bool)), PATTERN * 255),
        (Image.fromarray((PATTERN * 7).astype(np.uint8)), PATTERN * 7),
        (Image.fromarray((PATTERN * 65535).astype(np.uint16)), PATTERN * 255),
        (Image.fromarray((PATTERN * 9).astype(np.uint16)), PATTERN * 9),
        (palette(PATTERN * 2, [BLACK, RED, (0, 128, 128)]), PATTERN * 2),
        (palette(PATTERN, [BLACK, WHITE]), PATTERN * 255),
        (palette(PATTERN, [WHITE, BLACK]), 255 - PATTERN * 255),
        (Image.fromarray(np.repeat((PATTERN * 3).astype(np.uint8)[..., None], 3, -1)), PATTERN * 3),
        (Image.fromarray(np.dstack([PATTERN * 5] * 3 + [PATTERN * 0 + 255]).astype(np.uint8)), PATTERN * 5),
    ],
    ids=["bits", "grey", "16-bit-0-65535", "16-bit-classes", "palette", "palette-bw", "palette-wb", "rgb", "rgba"],
)
def test_masks_of_any_mode_keep_their_values(tmp_path, image, values):
    image.save(tmp_path / "mask.png")
    mask = to_mask(load(tmp_path / "mask.png"))
    assert (mask.dtype, mask.shape) == (np.uint8, (4, 4, 1))
    np.testing.assert_array_equal(mask[..., 0], values)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.dstack([PATTERN * 255, PATTERN * 0, PATTERN * 0]).astype(np.uint8), "colours are not class numbers"),
        (np.dstack([PATTERN * 0] * 3 + [PATTERN * 255]).astype(np.uint8), "partly transparent"),
        ((PATTERN * 300).astype(np.uint16), "holds 300, and a mask holds whole numbers from 0 to 255"),
        ((PATTERN * 0.5).astype(np.float32), r"holds 0\.5, and a mask holds whole numbers"),
    ],
)
def test_pictures_that_are_no_masks(array, words):
    with pytest.raises(ValueError, match=words):
        to_mask(Image.fromarray(array))


def masks_in(folder, *masks):
    for i, mask in enumerate(masks):
        save(photo(i, mask.size), folder, "images", f"{i}.png")
        save(mask, folder, "masks", f"{i}.png")
    return str(folder)


def test_strays_in_a_mask_of_0_and_255_are_refused_snapped_or_allowed(tmp_path):
    stray = np.array(disc(4))
    stray[0, :3] = 3, 251, 120
    root = masks_in(tmp_path, disc(3), disc(4), disc(5), Image.fromarray(stray))
    with pytest.raises(UserError, match=r"masks/3\.png holds 3, 120, 251 where masks hold 0, 255 .*mask_snap"):
        Pairs(root, "train")
    skipped = Pairs(root, "train", on_bad_file="skip")
    assert (len(skipped), skipped.pictures["mask"].high) == (3, 255)
    snapped = Pairs(root, "train", mask_snap=True)
    assert snapped[3]["mask"][0, :3, 0].tolist() == [0, 255, 0]
    assert "stray values of 1 masks became the nearest allowed (first: " in snapped.notes[1]
    assert_source(snapped)
    allowed = Pairs(root, "train", mask_values=(0, 3, 120, 251, 255))
    assert allowed[3]["mask"][0, :3, 0].tolist() == [3, 251, 120]


def test_classes_are_kept_and_both_splits_agree_on_them(tmp_path):
    classes = np.zeros((8, 8), np.uint8)
    classes[2:, 2:], classes[5:, 5:], classes[7, 7] = 1, 4, 255  # 255: the border of VOC's masks
    masks_in(tmp_path / "train", Image.fromarray(classes), disc(2, 4, (8, 8)))
    masks_in(tmp_path / "test", disc(2, 1, (8, 8)))
    train, test = (Pairs(str(tmp_path), split) for split in ("train", "test"))
    np.testing.assert_array_equal(train[0]["mask"][..., 0], classes)
    assert train.pictures["mask"].high == test.pictures["mask"].high == 255
    assert "mask holds the classes 0, 1, 4, 255" in train.notes[1]
    masks_in(tmp_path / "test", disc(2, 9, (8, 8)))
    with pytest.raises(UserError, match=r"test/masks/0\.png holds 9 where masks hold 0, 1, 4, 255"):
        Pairs(str(tmp_path), "test")


def test_masks_of_0_and_1_use_the_whole_range(tmp_path):
    fill(tmp_path, 0)
    for i in range(30):  # one held-out mask alone shows the class 1
        save(photo(i), tmp_path, "images", f"{i:02d}.png")
        save(disc(4, 1), tmp_path, "masks", f"{i:02d}.png")
    train, test = (Pairs(str(tmp_path), split) for split in ("train", "test"))
    assert train.pictures["mask"] == test.pictures["mask"]
    assert (train.pictures["mask"].low, train.pictures["mask"].high) == (0, 1)


def test_photos_in_the_place_of_masks_are_refused(tmp_path):
    masks_in(tmp_path / "colour", photo(0))
    with pytest.raises(UserError, match=r"masks/0\.png cannot be read: its colours are not class numbers"):
        Pairs(str(tmp_path / "colour"), "train")
    masks_in(tmp_path / "grey", photo(0, (40, 40)).convert("L"))
    with pytest.raises(UserError, match="different values, too many for classes"):
        Pairs(str(tmp_path / "grey"), "train")


# Real data


def linked(test_data, tmp_path, split, count):
    for half in ("images", "masks"):
        (tmp_path / split / half).mkdir(parents=True)
        for file in sorted((test_data / "isic2018_256" / split / half).iterdir())[:count]:
            (tmp_path / split / half / file.name).symlink_to(file)


def test_skin_lesions(test_data, tmp_path):
    linked(test_data, tmp_path, "train", 12)
    linked(test_data, tmp_path, "val", 4)
    train, test = (Pairs(str(tmp_path), split) for split in ("train", "test"))
    assert_source(train)
    assert (len(train), len(test), train.shape) == (12, 4, (256, 256, 3))
    assert train.pictures["mask"].high == 255
    for record in train:
        assert set(np.unique(record["mask"])) == {0, 255}
    photos = Folder(str(tmp_path / "train" / "images"), "train")
    assert_same({"image": train[5]["image"]}, photos[5])


def test_facades_side_by_side(test_data):
    source = Pairs(str(test_data / "facades_100"), "test", halves="left,right", names=("image", "label"))
    assert (len(source), source.shape) == (5, (256, 256, 3))
    whole = Folder(str(test_data / "facades_100"), "test")[2]["image"]
    np.testing.assert_array_equal(np.concatenate([source[2]["image"], source[2]["label"]], axis=1), whole)

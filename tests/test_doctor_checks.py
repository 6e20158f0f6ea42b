"""The data doctor's single checks: planted faults in real data are found, clean subsets are left alone."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jdiff.data.sources import Picture
from jdiff.data.sources.pairs import Pairs
from jdiff.data.sources.tfds import Tfds
from jdiff.doctor import Settings, examine
from tests.memory_source import Records


def codes(findings):
    return {finding.code for finding in findings.findings if finding.severity != "fine"}


def named(findings, code):
    return {place.index for suspect in findings.finding(code).suspects for place in suspect.places}


@pytest.fixture(scope="module")
def isic(test_data):
    """220 pairs of photo and mask at a quarter of their size."""
    root = test_data / "isic2018_256" / "train"
    records = []
    for photo in sorted((root / "images").iterdir())[:220]:
        mask = Image.open(root / "masks" / f"{photo.stem}.png").resize((64, 64), Image.Resampling.NEAREST)
        records.append({"image": np.asarray(Image.open(photo).resize((64, 64))), "mask": np.asarray(mask)[..., None]})
    return Records(records, {"image": Picture((64, 64, 3)), "mask": Picture((64, 64, 1), kind="mask")})


@pytest.fixture(scope="module")
def pairs(isic):
    return part(isic, range(100))


@pytest.fixture(scope="module")
def photos(pairs):
    records = [{"image": record["image"]} for record in pairs.records]
    return Records(records, {"image": pairs.pictures["image"]})


@pytest.fixture(scope="module")
def facades(test_data):
    options = {"halves": "left,right", "names": ("image", "labels"), "masks": (), "holdout": 0.0}
    source = Pairs(str(test_data / "facades_100"), "train", **options)
    return Records(source.__getitems__(list(range(len(source)))), source.pictures)


@pytest.fixture(scope="module")
def cifar(test_data):
    sources = (Tfds("cifar10", split, str(test_data / "tfds")) for split in ("train", "test"))
    (train, test) = ((source, source.__getitems__(range(1000))) for source in sources)
    return train[0].class_names, train[1], test[1]


def part(source, rows):
    return replace(source, records=[source.records[row] for row in rows])


def of_classes(cifar, chosen, per, *, held_out=False):
    """Images of some of the classes, `per` of each."""
    names, *splits = cifar
    records = []
    for label, name in enumerate(chosen):
        own = [one["image"] for one in splits[held_out] if one["label"] == names.index(name)][:per]
        records += [{"image": image, "label": label} for image in own]
    return Records(records, {"image": Picture((32, 32, 3))}, tuple(chosen))


def test_of_forty_copies_every_one_is_named_and_the_others_are_not_far_from_them(facades):
    copies = part(facades, [0] * 40 + list(range(1, 31)))
    found = examine(copies)
    (group,) = found.finding("duplicates").suspects
    assert [place.index for place in group.places] == list(range(40))
    assert codes(found) == {"duplicates"}


# Clean data


@pytest.mark.parametrize("seed", range(3))
def test_clean_subsets_have_no_findings(isic, facades, seed):
    rng = np.random.default_rng(seed)
    assert codes(examine(part(isic, rng.choice(220, 70, replace=False)))) == set()
    assert codes(examine(part(facades, rng.choice(100, 50, replace=False)))) == set()


@pytest.mark.parametrize("two", [("ship", "frog"), ("airplane", "deer"), ("bird", "horse"), ("automobile", "cat")])
def test_clean_data_of_two_classes_have_no_findings(cifar, two):
    assert codes(examine(of_classes(cifar, two, 75))) == set()
    assert codes(examine(of_classes(cifar, two, 75), of_classes(cifar, two, 30, held_out=True))) == set()


# Masks and their photos


def test_mask_copied_from_another_photo(pairs):
    found = examine(pairs.planted(mask={30: pairs.records[31]["mask"]}))
    assert codes(found) == {"mask_copies"}
    assert named(found, "mask_copies") == {30, 31}


def test_mask_inverted(pairs):
    found = examine(pairs.planted(mask={8: 255 - pairs.records[8]["mask"]}))
    assert codes(found) == {"mask_inverted"}
    assert named(found, "mask_inverted") == {8}


# Ranges


def test_advice_on_ranges_is_for_most_records_and_for_keys_that_work(photos):
    pictures = {"image": Picture((64, 64, 3), "float32", low=0.0, high=1.0)}
    floats = replace(
        photos, pictures=pictures, records=[{"image": np.float32(one["image"] / 255)} for one in photos.records]
    )
    free = Settings(ranges_are_free=True)
    few = floats.planted(image={5: floats.records[5]["image"] * 255})
    assert "data." not in examine(few, settings=free).finding("range").do
    every = floats.planted(image={row: one["image"] * 255 for row, one in enumerate(floats.records)})
    assert "data.high=255" in examine(every, settings=free).finding("range").do
    assert "data." not in examine(every).finding("range").do


# Colours


def test_grey_training_images_are_no_folder(photos):
    grey = {row: np.repeat(one["image"][..., :1], 3, axis=-1) for row, one in enumerate(photos.records[:70])}
    train, held_out = part(photos.planted(image=grey), range(70)), part(photos, range(70, 100))
    names = [[f"{split}/{row}.jpg" for row in range(count)] for split, count in (("train", 70), ("test", 30))]
    found = examine(train, held_out, names=names[0], held_out_names=names[1]).finding("grey_class")
    assert "held-out images" in found.says
    assert "folder" not in found.says
    assert "class" not in found.do


# Copies


def test_several_masks_of_one_image_are_no_copies(pairs):
    records = [
        {"image": one["image"], "mask": np.roll(one["mask"], shift, axis=0)}
        for one in pairs.records[:30]
        for shift in range(4)
    ]
    found = examine(replace(pairs, records=records))
    assert found.finding("duplicates").severity == "fine"
    assert "30 images with several" in found.finding("duplicates").says
    one = pairs.planted(image={4: pairs.records[9]["image"]})
    assert named(examine(one), "duplicates") == {4, 9}


def test_copies_that_are_turned(photos):
    image = [one["image"] for one in photos.records]
    turned = {1: np.rot90(image[50]), 2: image[51][::-1], 3: np.rot90(image[52], 2), 4: np.rot90(image[53], 3)}
    found = examine(photos.planted(image=turned))
    assert named(found, "near_duplicates") == {1, 50, 2, 51, 3, 52, 4, 53}


def test_leak_under_another_class(cifar):
    two = ("frog", "horse")
    train, held_out = of_classes(cifar, two, 60), of_classes(cifar, two, 30, held_out=True)
    found = examine(train, held_out.planted(image={40: train.records[3]["image"]})).finding("leak")
    assert "under another class" in found.says
    assert found.suspects[0].why == "trained on as frog, held out as horse"


def test_images_with_hardly_anything_to_see(photos):
    rng = np.random.default_rng(0)
    noise = rng.integers(100, 112, (64, 64, 3), dtype=np.uint8)
    found = examine(photos.planted(image={6: noise}))
    assert named(found, "constant") == {6}

"""The data doctor: planted faults in real data are found and named, clean data are left alone, numbers are right."""

import io
import shutil
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.sources import Picture
from jdiff.data.sources.digits import Digits
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.pairs import Pairs
from jdiff.data.sources.tfds import Tfds
from jdiff.doctor import Settings, examine, text
from jdiff.doctor.advice import image_size
from tests.memory_source import Records


def codes(findings):
    return {finding.code for finding in findings.findings if finding.severity != "fine"}


def named(findings, code):
    return {place.name for suspect in findings.finding(code).suspects for place in suspect.places}


def subset(source, count):
    captions = tuple(source.captions[:count])
    return Records(source.__getitems__(list(range(count))), source.pictures, tuple(source.class_names), captions)


@pytest.fixture(scope="module")
def cifar(test_data):
    """600 training and 200 test images of ten classes."""
    folder = str(test_data / "tfds")
    return subset(Tfds("cifar10", "train", folder), 600), subset(Tfds("cifar10", "test", folder), 200)


@pytest.fixture(scope="module")
def isic(test_data):
    """160 pairs of photo and mask, and 40 held-out ones, at a quarter of their size, in four classes at random."""
    rng = np.random.default_rng(0)
    splits = []
    for split, count in (("train", 160), ("test", 40)):
        root = test_data / "isic2018_256" / split
        records = []
        for photo in sorted((root / "images").iterdir())[:count]:
            mask = Image.open(root / "masks" / f"{photo.stem}.png").resize((64, 64), Image.Resampling.NEAREST)
            image = np.asarray(Image.open(photo).resize((64, 64)))
            records.append({"image": image, "mask": np.asarray(mask)[..., None], "label": int(rng.integers(4))})
        pictures = {"image": Picture((64, 64, 3)), "mask": Picture((64, 64, 1), kind="mask")}
        splits.append(Records(records, pictures, ("a", "b", "c", "d")))
    return tuple(splits)


@pytest.fixture(scope="module")
def digits():
    """What is found in scikit-learn's digits."""
    return examine(Digits("train"), Digits("test"))


@pytest.fixture
def facades(test_data, tmp_path):
    """A folder of 40 training and 12 held-out photos of facades, as JPEG files."""
    for number, file in enumerate(sorted((test_data / "facades_100").glob("*.jpg"))[:52]):
        folder = tmp_path / "facades" / ("train" if number < 40 else "test")
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(file).crop((0, 0, 256, 256)).save(folder / f"{number:02d}.jpg", quality=95)
    return tmp_path / "facades"


def files(root, split):
    return [str(path) for path in sorted((root / split).rglob("*.jpg"))]


def examine_folder(root, **options):
    sources = [Folder(str(root), split, **options) for split in ("train", "test")]
    return examine(*sources, names=files(root, "train"), held_out_names=files(root, "test"))


def saved_again(image, quality=75):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


# Clean data


def test_clean_data_have_no_findings(cifar, isic, facades, digits):
    assert codes(examine(*cifar)) == set()
    assert codes(examine(*isic)) == set()
    assert codes(examine_folder(facades)) == set()
    assert codes(digits) == set()


def test_clean_pairs_of_photo_and_labels_have_no_findings(test_data):
    options = {"halves": "left,right", "names": ("image", "labels"), "masks": ()}
    sources = [Pairs(str(test_data / "facades_100"), split, **options) for split in ("train", "test")]
    assert codes(examine(*sources)) == set()


@pytest.mark.slow
def test_copies_that_real_data_hold_are_found(test_data, tmp_path):
    """Noto has one drawing under two names, and ISIC's test images one that is also trained on, saved again."""
    emoji = Folder(str(test_data / "emoji_72"), "train", holdout=0.0)
    names = sorted(path.name for path in (test_data / "emoji_72").glob("*.png"))
    twins = {"emoji_u1f468_200d_1f466.png", "emoji_u1f9d1_200d_1f9d2.png"}
    assert named(examine(emoji, names=names), "duplicates") == twins

    root = test_data / "isic2018_256"
    for split, twin in (("train", "ISIC_0012887"), ("test", "ISIC_0012989")):
        (tmp_path / split).mkdir()
        for file in [*sorted((root / split / "images").iterdir())[:60], root / split / "images" / f"{twin}.jpg"]:
            shutil.copy(file, tmp_path / split)
    found = examine_folder(tmp_path)
    assert named(found, "near_leak") == {"train/ISIC_0012887.jpg", "test/ISIC_0012989.jpg"}
    assert codes(found) == {"near_leak"}


# Planted faults, each alone


def test_duplicates(facades):
    train = facades / "train"
    shutil.copy(train / "03.jpg", train / "copy.jpg")
    Image.open(train / "05.jpg").save(train / "again.jpg", quality=60)
    Image.open(train / "07.jpg").resize((128, 128)).save(train / "small.jpg", quality=90)
    Image.open(train / "09.jpg").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(train / "mirrored.jpg", quality=90)
    brighter = np.clip(np.asarray(Image.open(train / "11.jpg")) * 1.1 + 4, 0, 255).astype(np.uint8)
    Image.fromarray(brighter).save(train / "brighter.jpg", quality=90)
    found = examine_folder(facades)
    assert codes(found) == {"duplicates", "near_duplicates"}
    assert named(found, "duplicates") == {"train/03.jpg", "train/copy.jpg"}
    pairs = {tuple(place.name[6:] for place in suspect.places) for suspect in found.finding("near_duplicates").suspects}
    expected = {
        ("05.jpg", "again.jpg"),
        ("07.jpg", "small.jpg"),
        ("09.jpg", "mirrored.jpg"),
        ("11.jpg", "brighter.jpg"),
    }
    assert pairs == expected
    assert "train/03.jpg = train/copy.jpg" in " ".join(text(found).split())


def test_duplicates_under_two_classes_come_first(cifar):
    train, _ = cifar
    label = train.records[2]["label"]
    double = train.planted(image={9: train.records[2]["image"]}, label={2: label, 9: (label + 1) % 10})
    finding = examine(double).finding("duplicates")
    assert finding.count == 1
    assert "under several classes" in finding.says
    assert {place.name for place in finding.suspects[0].places} == {"record 2", "record 9"}


def test_leak(facades):
    shutil.copy(facades / "train" / "03.jpg", facades / "test" / "leak.jpg")
    Image.open(facades / "train" / "05.jpg").save(facades / "test" / "again.jpg", quality=60)
    found = examine_folder(facades)
    assert codes(found) == {"leak", "near_leak"}
    assert named(found, "leak") == {"train/03.jpg", "test/leak.jpg"}
    assert named(found, "near_leak") == {"train/05.jpg", "test/again.jpg"}


def test_wrong_range_of_one_image(isic):
    train, held_out = isic
    faint = train.planted(image={3: (train.records[3]["image"] > 127).astype(np.uint8)})
    found = examine(faint, held_out)
    assert codes(found) == {"range"}
    assert named(found, "range") == {"record 3"}


def as_floats(source, *, high):
    records = [{"image": (record["image"] / 255 * high).astype(np.float32)} for record in source.records]
    return Records(records, {"image": Picture((64, 64, 3), "float32", low=0.0, high=high)})


def test_wrong_range_of_floats(isic):
    floats = as_floats(isic[0], high=1.0)
    assert codes(examine(floats)) == set()
    found = examine(floats.planted(image={7: floats.records[7]["image"] * 255}))
    assert codes(found) == {"range"}
    assert found.finding("range").severity == "refuse"
    assert named(found, "range") == {"record 7"}
    found = examine(floats.planted(image={7: np.where(floats.records[7]["image"] > 0.5, np.float32(np.nan), 0)}))
    assert found.finding("range").severity == "refuse"
    assert "not finite" in found.finding("range").says


def test_an_image_on_a_larger_scale_that_spoilt_the_declared_range(isic):
    floats = as_floats(isic[0], high=1.0)
    pictures = {"image": Picture((64, 64, 3), "float32", low=0.0, high=255.0)}
    found = examine(replace(floats.planted(image={7: floats.records[7]["image"] * 255}), pictures=pictures))
    assert codes(found) == {"range"}
    assert named(found, "range") == {"record 7"}


def test_declared_range_that_is_hardly_used(isic):
    twelve_bits = [{"image": record["image"].astype(np.uint16) * 16} for record in isic[0].records]
    source = Records(twelve_bits, {"image": Picture((64, 64, 3), "uint16", high=65535.0)})
    found = examine(source, settings=Settings(ranges_are_free=True))
    assert codes(found) == {"range"}
    assert "data.high=4080" in found.finding("range").do


@pytest.mark.parametrize("name", ["ship", "frog"])
def test_one_grey_class(cifar, name):
    train, held_out = cifar
    rows = [row for row, record in enumerate(train.records) if record["label"] == train.class_names.index(name)]
    grey = {row: np.asarray(Image.fromarray(train.records[row]["image"]).convert("L").convert("RGB")) for row in rows}
    found = examine(train.planted(image=grey), held_out)
    assert codes(found) == {"grey_class"}
    assert f"class {name}" in found.finding("grey_class").says


def test_unbalanced_class(cifar):
    train, held_out = cifar
    cats = [row for row, record in enumerate(train.records) if record["label"] == train.class_names.index("cat")]
    kept = [record for row, record in enumerate(train.records) if row not in cats[8:]]
    found = examine(replace(train, records=kept), held_out)
    assert codes(found) == {"balance"}
    assert "cat (8 images)" in found.finding("balance").says


def test_label_that_is_no_class(cifar):
    found = examine(cifar[0].planted(label={4: 10}))
    assert found.finding("labels").severity == "refuse"
    assert named(found, "labels") == {"record 4"}


def test_empty_full_and_stray_masks(isic):
    train, held_out = isic
    mask = train.records[1]["mask"]
    soft = np.asarray(Image.fromarray(mask[..., 0]).resize((32, 32), Image.Resampling.BILINEAR).resize((64, 64)))
    planted = {1: soft[..., None], 5: np.zeros_like(mask), 6: np.full_like(mask, 255)}
    found = examine(train.planted(mask=planted), held_out)
    assert codes(found) == {"mask_empty", "mask_full", "mask_values"}
    assert named(found, "mask_empty") == {"record 5"}
    assert named(found, "mask_full") == {"record 6"}
    assert named(found, "mask_values") == {"record 1"}


def test_masks_of_other_values(isic):
    train = subset(isic[0], 60)
    ones = train.planted(mask={row: record["mask"] // 255 for row, record in enumerate(train.records)})
    assert codes(examine(ones)) == {"mask_values"}
    declared = replace(ones, pictures={**ones.pictures, "mask": Picture((64, 64, 1), kind="mask", high=1.0)})
    assert codes(examine(declared)) == set()
    empty = train.planted(mask={row: record["mask"] * 0 for row, record in enumerate(train.records)})
    assert examine(empty).finding("mask_empty").severity == "refuse"
    photos = train.planted(mask={row: record["image"][..., :1] for row, record in enumerate(train.records)})
    assert examine(photos).finding("mask_values").severity == "refuse"


def test_unreadable_file(facades):
    sources = [Folder(str(facades), split) for split in ("train", "test")]
    names = files(facades, "train")
    file = facades / "train" / "04.jpg"
    file.write_bytes(file.read_bytes()[:1000])
    found = examine(*sources, names=names)
    assert codes(found) == {"unreadable"}
    assert found.finding("unreadable").severity == "refuse"
    assert named(found, "unreadable") == {"04.jpg"}
    assert found.counts == {"train": 40, "held-out": 12}
    assert sum(found.pictures["image"].sizes.values()) == 39
    names.remove(str(file))
    skipping = examine(Folder(str(facades), "train", on_bad_file="skip"), names=names)
    assert codes(skipping) == {"skipped"}
    assert named(skipping, "skipped") == {"04.jpg"}


def test_nothing_that_can_be_read():
    with pytest.raises(UserError, match="record 0: torn"):
        examine(Records([OSError("torn")] * 3))


def test_constant_image(facades):
    Image.new("RGB", (256, 256), (200, 30, 40)).save(facades / "train" / "17.jpg")
    found = examine_folder(facades)
    assert codes(found) == {"constant"}
    assert named(found, "constant") == {"train/17.jpg"}


def test_mismatched_pairs(isic):
    train, held_out = isic
    record = train.records[8]
    found = examine(train.planted(mask={8: record["mask"][:48], 9: train.records[9]["mask"][::2, ::2]}), held_out)
    assert codes(found) == {"pairs"}
    assert found.finding("pairs").severity == "refuse"
    assert named(found, "pairs") == {"record 8", "record 9"}
    small = {row: record["mask"][::2, ::2] for row, record in enumerate(train.records)}
    assert "pairs" not in codes(examine(train.planted(mask=small)))  # all are half as large: that is meant


def test_pictures_without_a_partner(test_data, tmp_path):
    for folder, ending in (("images", "jpg"), ("masks", "png")):
        (tmp_path / folder).mkdir()
        for file in sorted((test_data / "isic2018_256" / "train" / folder).iterdir())[:24]:
            shutil.copy(file, tmp_path / folder / f"{file.stem[-7:]}.{ending}")
    lost = sorted((tmp_path / "masks").iterdir())[3]
    lost.rename(lost.with_name("lost.png"))
    found = examine(Pairs(str(tmp_path), "train", on_bad_file="skip"))
    assert codes(found) == {"skipped"}
    assert any(lost.stem in name for name in named(found, "skipped"))


def test_nine_faults_at_once(isic):
    train, held_out = isic
    rows = {label: [row for row, one in enumerate(train.records) if one["label"] == label] for label in range(4)}
    image = {  # a grey class
        row: np.repeat(train.records[row]["image"].mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
        for row in rows[2]
    }
    a, b, c, d, e, f, g = rows[0][:7]
    image[a] = train.records[b]["image"]  # a duplicate
    image[c] = (train.records[c]["image"] > 127).astype(np.uint8)  # a wrong range
    image[d] = np.full((64, 64, 3), 90, np.uint8)  # a constant image
    mask = {e: np.zeros((64, 64, 1), np.uint8), f: train.records[f]["mask"][:40]}  # an empty mask, a mismatched pair
    planted = train.planted(image=image, mask=mask)
    planted.records[rows[0][8]] = OSError("broken data stream")  # an unreadable file
    few = rows[3][5:]  # an unbalanced class
    kept = replace(planted, records=[one for row, one in enumerate(planted.records) if row not in few])
    leaking = held_out.planted(image={2: train.records[g]["image"]})
    found = examine(kept, leaking)
    nine = {
        "duplicates",
        "range",
        "constant",
        "mask_empty",
        "pairs",
        "unreadable",
        "balance",
        "leak",
        "grey_class",
    }
    assert codes(found) == nine
    assert "class c" in found.finding("grey_class").says


def test_an_image_from_elsewhere_is_far_from_the_rest(isic, test_data):
    digits = subset(Digits("train"), 1000)
    found = examine(digits.planted(image={11: 255 - digits.records[11]["image"]}))  # black on white
    assert codes(found) == {"outliers"}
    assert named(found, "outliers") == {"record 11"}
    emoji = Image.open(next((test_data / "emoji_72").glob("emoji_u1f600.png"))).convert("RGB").resize((64, 64))
    found = examine(isic[0].planted(image={11: np.asarray(emoji)}))
    assert found.farthest[0].places[0].index == 11  # skin varies: it is shown, and not called wrong


def test_captions(test_data, digits):
    assert digits.captions.different == 10
    emoji = subset(Folder(str(test_data / "emoji_72"), "train"), 100)
    found = examine(emoji).captions
    assert found.characters.highest == max(map(len, emoji.captions))
    assert found.words.lowest == min(len(caption.split()) for caption in emoji.captions)
    blank = replace(emoji, captions=("", *emoji.captions[1:]))
    assert named(examine(blank), "captions") == {"record 0"}
    same = replace(emoji, captions=("a picture",) * 100)
    assert "captions" in codes(examine(same))


# Numbers


def test_moments_are_those_of_numpy(digits):
    found = digits.pictures["image"]
    x = np.stack([record["image"] for record in Digits("train").__getitems__(range(1500))]) / 127.5 - 1
    assert found.mean[0] == pytest.approx(x.mean(), abs=1e-5)
    assert found.std[0] == pytest.approx(x.std(), abs=1e-5)
    assert found.sigma_data == pytest.approx(x.std(), abs=1e-5)
    assert found.at_low == pytest.approx((x == -1).mean(), abs=1e-9)
    assert (found.lowest, found.highest) == (0, 255)
    assert sum(found.histogram[0]) == pytest.approx(1)
    assert found.sizes == {(8, 8): 1500}


def test_moments_of_many_sizes_count_every_image_alike():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, rng.integers(2, 4096), (*rng.integers(3, 90, 2), 2), dtype=np.uint16) for _ in range(300)]
    found = examine(
        Records([{"image": image} for image in images], {"image": Picture((None, None, 2), "uint16", high=4095.0)})
    )
    numbers = found.pictures["image"]
    first = np.mean([(image / 4095 * 2 - 1).mean(axis=(0, 1)) for image in images], axis=0)
    second = np.mean([((image / 4095 * 2 - 1) ** 2).mean(axis=(0, 1)) for image in images], axis=0)
    np.testing.assert_allclose(numbers.mean, first, atol=1e-4)
    np.testing.assert_allclose(numbers.std, np.sqrt(second - first**2), atol=1e-4)
    assert numbers.sigma_data == pytest.approx(np.sqrt(second.mean() - first.mean() ** 2), abs=1e-4)
    assert sum(numbers.sizes.values()) == 300
    assert numbers.dtypes == {"uint16": 300}


def test_other_channels_than_declared(isic):
    found = examine(isic[0].planted(image={3: isic[0].records[3]["image"][..., :1]}))
    assert "of shape [64, 64, 1]" in found.finding("unreadable").suspects[0].why
    assert named(found, "unreadable") == {"record 3"}


def test_many_channels_are_no_colours():
    rng = np.random.default_rng(0)
    slices = [{"image": rng.integers(0, 60_000, (16, 16, 4), dtype=np.uint16)} for _ in range(60)]
    found = examine(Records(slices, {"image": Picture((16, 16, 4), "uint16", high=65535.0)}))
    assert codes(found) == set()
    assert not any(one.key == "data.channels" for one in found.advice)
    assert found.finding("grey_class") is None


def test_several_labels_an_image():
    digits = Digits("test").__getitems__(range(100))
    both = [
        {"image": one["image"], "label": np.array([one["label"], 10 if i % 2 else -1])} for i, one in enumerate(digits)
    ]
    source = Records(both, {"image": Picture((8, 8, 1))}, (*Digits.class_names, "odd"), labels_per_image=2)
    found = examine(source)
    assert found.classes["odd"] == 50
    assert sum(found.classes.values()) == 150
    assert found.finding("labels").severity == "fine"


# Advice


def test_advice_is_about_what_is_modelled(isic):
    found = examine(isic[0], settings=Settings(target="mask"))
    x = np.stack([record["mask"] for record in isic[0].records]) / 127.5 - 1
    assert advice(found, "model.sigma_data").value == f"{x.std():.2f}"
    with pytest.raises(UserError, match=r"data\.target='sketch'"):
        examine(isic[0], settings=Settings(target="sketch"))


def advice(findings, key):
    return next(one for one in findings.advice if one.key == key)


def test_advice_says_what_the_config_does_not():
    right = Settings(sigma_data=0.75, mean=-0.8, multiple=2, dropout=0.25, images=400_000, text_length=8)
    assert not any(one.change for one in examine(Digits("train"), settings=right).advice)
    wrong = examine(Digits("train"), settings=replace(right, sigma_data=0.5, mean=-1.2))
    assert {one.key for one in wrong.advice if one.change} == {"model.sigma_data", "objective.mean"}
    assert advice(wrong, "model.sigma_data").value == "0.75"


@pytest.mark.parametrize(
    ("sizes", "multiple", "expected"),
    [
        ({(28, 28): 9}, 4, "28"),
        ({(28, 28): 9}, 8, "32"),
        ({(100, 100): 9}, 8, "96"),
        ({(256, 256): 9}, 8, "128"),
        ({(300, 200): 5, (100, 90): 5}, 8, "64"),
        ({(20, 500): 9}, 8, "16"),
    ],
)
def test_image_size(digits, sizes, multiple, expected):
    numbers = replace(digits.pictures["image"], sizes=sizes)
    assert image_size(numbers, Settings(multiple=multiple)).value == expected


def test_grey_images_in_colour_want_one_channel():
    grey = [{"image": np.repeat(record["image"], 3, axis=-1)} for record in Digits("test").__getitems__(range(100))]
    found = examine(Records(grey, {"image": Picture((8, 8, 3))}))
    assert advice(found, "data.channels").value == "1"
    assert codes(found) == set()


# Cost


def test_ten_thousand_images_take_seconds(test_data):
    source = Tfds("fashion_mnist", "test", str(test_data / "tfds"))
    began = time.process_time()
    found = examine(source)
    assert time.process_time() - began < 20
    assert found.counts == {"train": 10_000}
    assert found.pictures["image"].sigma_data == pytest.approx(0.7, abs=0.02)


class Photos(Records):
    """60 photos of three megabytes each, made as they are read."""

    def __len__(self):
        return 60

    def __getitems__(self, indices):
        return [{"image": np.random.default_rng(i).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)} for i in indices]


def test_memory_is_bounded_and_progress_is_told():
    told = []

    def progress(blocks, total):
        for done, block in enumerate(blocks, 1):
            yield block
            told.append((done, total))

    tracemalloc.start()
    examine(Photos([]), progress=progress)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 180 * 2**20  # all of them take 180 MB
    assert told[-1][0] == told[-1][1] == len(told)


def test_jax_is_not_imported():
    program = "import sys, jdiff.doctor; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_as_many_names_as_records():
    with pytest.raises(ValueError, match="2 names for 297"):
        examine(Digits("test"), names=["a", "b"])

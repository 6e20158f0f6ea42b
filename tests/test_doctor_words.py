"""What the doctor says: names that are fit to print and whole, every file named, advice that fits the config."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from configs import base, celeb_a_hq, digits_classifier, isic2018
from jdiff.data.sources import Picture
from jdiff.data.sources.digits import Digits
from jdiff.doctor import Settings, examine, page, plain, text
from jdiff.doctor.advice import image_size, length, sigma_data
from jdiff.doctor.records import classes
from jdiff.doctor.scan import numbers, scan
from jdiff.doctor.thumbnails import SIDE, small
from jdiff.modes.inspect import inspect
from jdiff.modes.inspect import settings as settings_of
from tests.memory_source import Records

ODD_NAMES = {
    "surrogate": os.fsdecode(b"caf\xe9"),
    "escape": "red\x1b[31m",
    "lines": "two\nlines\r",
    "override": "evil\u202egnp",
    "long": "x" * 200,
    "spaces": "a name of several words  and two spaces",
}
UNFIT = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def photos(count, *, shape=(12, 12, 3), seed=0):
    """Smooth random pictures, all different."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 20, (count, *shape))
    return np.clip(np.cumsum(np.cumsum(steps, axis=1), axis=2) / 3 + 128, 0, 255).astype(np.uint8)


def records(images, **others):
    return [{"image": image, **{key: value[i] for key, value in others.items()}} for i, image in enumerate(images)]


def advice(findings, key):
    return next((one for one in findings.advice if one.key == key), None)


def small_config(folder, **data):
    config = base.get_config()
    config.data.update({"name": "folder", "dir": str(folder), "image_size": 8, **data})
    config.log.progress = False
    return config


# Names


def planted(names, top="/data/top"):
    """A copy and a leak under each odd name, which is a class's as well."""
    images = photos(2 * len(names))
    labels = [i % len(names) for i in range(len(images))]
    images[len(names) :] = images[: len(names)]
    return Records(records(images, label=labels), class_names=tuple(names)), [
        f"{top}/{name}/{i}.png" for i in range(2) for name in names
    ]


def test_odd_names_are_fit_to_print():
    source, names = planted(list(ODD_NAMES.values()), f"/data/{ODD_NAMES['surrogate']}{ODD_NAMES['escape']}")
    captions = tuple(f"{name} {i}" for i, name in enumerate(2 * list(ODD_NAMES.values())))
    left_out = tuple((f"/data/{name}.png", f"torn {name}") for name in ODD_NAMES.values())
    notes = (f"sub-folder {ODD_NAMES['escape']} is empty",)
    source = replace(source, captions=captions, notes=notes, left_out=left_out)
    found = examine(source, source, names=names, held_out_names=names)
    assert found.finding("duplicates").count == 2 * len(ODD_NAMES)
    for told in (text(found), page(found), json.dumps(plain(found), ensure_ascii=False)):
        told.encode("utf-8")
        assert not UNFIT.search(told)
    for shown in ("caf\\udce9", "red\\x1b[31m", "two\\nlines\\r", "evil\\u202egnp", "x" * 200):
        assert shown in text(found)


def test_odd_names_on_disk(tmp_path, capsys):
    for name, image in zip(ODD_NAMES.values(), photos(len(ODD_NAMES)), strict=True):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "data" / name / f"{name}.png")
        (tmp_path / "data" / name / f"{name}torn.png").write_bytes(b"torn")
    assert inspect(small_config(tmp_path / "data"), tmp_path, tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert f"{len(ODD_NAMES)} files cannot be used" in told
    assert "PNG RGB 100 %" in told  # files are opened by their own names
    assert not UNFIT.search(told)


def test_no_name_is_broken():
    source, names = planted([f"class {k} of a long name, with spaces" for k in range(6)], "/data/top/a b")
    told = text(examine(source, names=names), width=60)
    assert "class 0 of a long name, with spaces/0.png" in told
    assert all(len(line) <= 60 or ".png" in line for line in told.splitlines())


def test_eight_are_named_and_all_in_the_file():
    source, names = planted([f"c{k}" for k in range(20)])
    found = examine(source, names=names)
    told = text(found)
    assert sum(f"c{k}/0.png = c{k}/1.png" in told for k in range(20)) == 8
    assert "and 12 others, in findings.json" in told
    assert "and 8 more, in findings.json" in page(found)  # which shows twelve
    told = next(one for one in plain(found)["findings"] if one["code"] == "duplicates")
    pairs = {tuple(place["name"] for place in suspect["places"]) for suspect in told["suspects"]}
    assert pairs == {(f"c{k}/0.png", f"c{k}/1.png") for k in range(20)}


def test_a_name_within_another_is_named_too():
    images = photos(20)
    images[1] = images[12] = images[13] = 0
    told = text(examine(Records(records(images))))
    assert all(f"record {row}" in told for row in (1, 12, 13))


# Files that sources leave out


def test_every_file_left_out_is_named(tmp_path, capsys):
    for i, image in enumerate(photos(30)):
        Image.fromarray(image).save(tmp_path / f"{i:02d}.png")
    for i in range(5):
        (tmp_path / f"{i:02d}.png").write_bytes(b"torn")
    assert inspect(small_config(tmp_path), tmp_path, tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert told.index("MEND BEFORE TRAINING") < told.index("5 files cannot be used")
    assert all(f"{i:02d}.png" in told for i in range(5))
    assert told.count("00.png") == 1  # the source's note is not repeated
    assert "every record can be read" not in told
    found = json.loads((tmp_path / "out" / "findings.json").read_text("utf-8"))
    skipped = found["findings"][0]
    assert (skipped["code"], skipped["severity"], skipped["count"]) == ("skipped", "refuse", 5)
    assert {suspect["places"][0]["name"] for suspect in skipped["suspects"]} == {f"{i:02d}.png" for i in range(5)}
    assert all(suspect["places"][0]["index"] is None for suspect in skipped["suspects"])
    assert found["pictures"]["image"]["sizes"] == {"12 x 12": found["counts"]["train"]}


def test_left_out_of_a_split_without_records():
    found = examine(Records(records(photos(3))), Records([], left_out=(("a.png", "torn"),)))
    assert "a.png (held-out): torn" in text(found)
    assert "a.png" in page(found)


# Classes


def of_sizes(*counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    source = Records(records(photos(len(labels)), label=labels.tolist()), class_names=tuple("abcdefgh"[: len(counts)]))
    return {one.code: one for one in classes(scan(source))}


def test_few_images_are_not_unbalanced():
    few = of_sizes(8, 8, 8)["few_images"]
    assert few.says.startswith("3 classes of 3 have fewer than 10 images: a (8 images)")
    assert "balance" not in of_sizes(8, 8, 8)
    assert of_sizes(9, 12)["few_images"].says.startswith("1 class of 2 has fewer")
    assert of_sizes(30, 11)["balance"].severity == "fine"
    assert of_sizes(33, 11)["balance"].severity == "look"
    assert "b (8 images)" in of_sizes(40, 8)["balance"].says


def test_one_empty_caption_says_nothing():
    source = Records(records(photos(5)), captions=("", "a", "b", "c", "d"))
    told = text(examine(source))
    assert "1 caption of 5 says nothing" in told
    assert "record 0: its caption is empty" in told


# Advice


@pytest.fixture(scope="module")
def digits():
    return numbers(scan(Digits("test")), "image")


def test_noise_levels_are_spoken_of_where_they_are_known(digits):
    keys = lambda target, **settings: {one.key for one in sigma_data(target, Settings(mean=0.2, **settings))}  # noqa: E731
    assert keys(digits) == keys(digits, image_size=64) == {"model.sigma_data", "objective.mean"}
    assert keys(digits, image_size=256) == {"model.sigma_data"}
    assert keys(replace(digits, kind="mask")) == {"model.sigma_data"}


def test_recipes_are_not_contradicted(digits):
    for recipe in (celeb_a_hq, isic2018):
        settings = settings_of(recipe.get_config())
        target = replace(digits, kind="mask" if settings.target == "mask" else "image", trained_sigma=0.5)
        assert not any(one.key == "objective.mean" for one in sigma_data(target, settings))
    for side, other in ((256, 64), (512, 256)):
        told = image_size(replace(digits, sizes={(side, side): 9}), Settings(image_size=other))
        assert (told.value, told.change) == (str(other), False)


def test_settings_of_a_config():
    classifier = settings_of(digits_classifier.get_config())
    assert (classifier.sigma_data, classifier.mean) == (None, None)
    config = base.get_config()
    config.network.channel_mults = (1, 2, 2)
    assert [settings_of(config).multiple, classifier.multiple] == [
        4,
        2 ** (len(digits_classifier.get_config().network.channel_mults) - 1),
    ]
    config.network.update({"name": "dit", "patch_size": 3})
    config.data.name = "arrays"
    settings = settings_of(config)
    assert (settings.multiple, settings.ranges_are_free) == (3, True)


def test_sides_are_multiples_of_a_patch(digits):
    assert image_size(replace(digits, sizes={(256, 256): 9}), Settings(multiple=3)).value == "126"
    assert image_size(replace(digits, sizes={(27, 27): 9}), Settings(multiple=3)).value == "27"


def test_sigma_data_is_that_of_the_size_trained_at():
    noisy = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)  # shrinking averages it out
    source = Records(records(noisy), {"image": Picture((64, 64, 3))})
    own = advice(examine(source), "model.sigma_data")
    half = advice(examine(source, settings=Settings(image_size=32)), "model.sigma_data")
    assert (own.value, own.sure, half.sure) == ("0.58", "sure", "sure")
    shrunk = np.stack([np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in noisy])
    assert half.value == f"{(shrunk / 127.5 - 1).std():.2f}" != own.value
    assert "at 32 x 32" in half.why
    mixed = Records(records([*noisy[:6], *noisy[6:, :60]]))
    assert advice(examine(mixed), "model.sigma_data").sure == "likely"


def test_words_for_one_or_two_images(digits):
    told = length(2, Settings())
    assert "2 images can only be learnt by heart" in told.why
    assert "times each" not in told.why
    told = image_size(replace(digits, sizes={(1, 1): 1}), Settings())
    assert (told.value, told.sure) == ("8", "a guess")
    assert text(examine(Records(records(photos(1))))).startswith("Nothing seems wrong.")


# Large pictures


def test_large_pictures_are_seen_in_part_and_hashed_whole():
    image = np.random.default_rng(0).integers(0, 200, (2100, 2200, 3), dtype=np.uint8)
    other = image.copy()
    other[1, 1, 1] = 255  # in a row that moments are not made of
    mask = (image[..., :1] > 100).astype(np.uint8) * 255
    pictures = {"image": Picture((None, None, 3)), "mask": Picture((None, None, 1), kind="mask")}
    both = [{"image": image, "mask": mask}, {"image": other, "mask": mask}]
    kept = scan(Records(both, pictures))
    seen = kept.pictures["image"]
    assert seen.rows.digest[0] != seen.rows.digest[1]
    assert (seen.rows.highest * 255).round().tolist() == [199, 255]
    assert numbers(kept, "image").sigma_data == pytest.approx((image / 127.5 - 1).std(), abs=1e-3)
    assert kept.pictures["mask"].rows.share[0] == np.float32((mask > 0).mean())
    assert kept.pictures["mask"].values[0] == (0.0, 255.0)


def test_small_keeps_the_picture():
    image = np.zeros((3000, 20, 3), np.uint8)
    image[1500:] = 200
    shown = np.asarray(small(image, Picture((None, None, 3))))
    assert shown.shape == (SIDE, 1, 3)
    assert (shown[0, 0].tolist(), shown[-1, 0].tolist()) == ([0] * 3, [200] * 3)

"""Condition images in files: read as those that the model was trained on, and their names kept."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import jdiff
from jdiff import from_config, request
from jdiff.common.errors import UserError
from jdiff.config import load
from jdiff.data.given import given, stems
from jdiff.data.sources import Picture
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.pairs import Pairs
from jdiff.diffusion.schedules import EDM
from jdiff.resolve import resolve
from tests.conftest import REPOSITORY, TINY, config, refusal, run_here

SIDE = 16
SMALL = (
    *TINY,
    *("--config.train.images=32", "--config.data.image_size=16", "--config.network.blocks_per_level=1"),
    *("--config.log.tensorboard=false", "--config.sample.steps=2", "--config.sample.num_images=6"),
    "--config.sample.batch_size=6",
)


def saved(values: np.ndarray, *parts) -> Path:
    path = Path(*map(str, parts))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def photo(number: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    rng = np.random.default_rng(number)
    values = np.zeros((height, width, 3)) + rng.uniform(40, 200, 3)
    values[height // 4 : height // 2, width // 4 :] = rng.uniform(0, 255, 3)
    return values.astype(np.uint8)


def trained(folder: Path, *arguments: str) -> jdiff.Model:
    result = run_here(config("folder"), *SMALL, *arguments, "--workdir=run", cwd=folder)
    assert result.status == 0, result.err
    return jdiff.load(folder / "run")


@pytest.fixture(scope="module")
def sketches(tmp_path_factory) -> jdiff.Model:
    """A model of photos that is given sketches of them."""
    folder = tmp_path_factory.mktemp("sketches")
    for number in range(40):
        saved(photo(number, 20 + number % 3, 24), folder, "data", f"{number:02}.png")
    of = ("--config.model.conditions=('image',)", "--config.condition.image.view=xdog", "--config.data.holdout=0.1")
    return trained(folder, f"--config.data.dir={folder / 'data'}", *of, "--config.train.sample_every=2")


def sample(model: jdiff.Model, folder: Path, *more: str) -> tuple[str, ...]:
    return ("--mode=sample", f"--workdir={model.workdir}", f"--config.sample.condition_dir={folder}", *more)


def test_photos_of_any_size_become_sketches_as_in_training(sketches, tmp_path):
    photos = tmp_path / "photos"
    for number in range(5):
        saved(photo(50 + number, 18 + 5 * number, 40 - 3 * number), photos, f"ward {number % 2}", f"{number}.png")
    shutil.copy(photos / "ward 0" / "0.png", photos / "ward 0" / "0.webp")
    out = "--out=drawn"
    result = run_here(*sample(sketches, photos, out, "--config.sample.images_per_condition=2"), cwd=tmp_path)
    assert result.status == 0, result.err
    source, view = Folder(str(photos), "train", holdout=0.0), from_config.view(sketches.config, train=False)
    expected = np.stack([view(record)["cond"]["image"] for record in source])
    asked = sketches.request(condition_dir=str(photos))
    np.testing.assert_array_equal(asked.in_turn["image"], expected)
    names = ["ward 0/0.png", "ward 0/0.webp", "ward 0/2", "ward 0/4", "ward 1/1", "ward 1/3"]
    with np.load(tmp_path / "drawn" / "samples.npz") as drawn:
        assert drawn["names"].tolist() == 2 * names
        images = drawn["images"]
    for number, name in enumerate(2 * names):
        file = tmp_path / "drawn" / "images" / f"{name}_{number // 6 + 1}.png"
        np.testing.assert_array_equal(Image.open(file), images[number])
    np.testing.assert_array_equal(images[:6], sketches.sample(condition_dir=str(photos)))
    np.testing.assert_array_equal(images, sketches.sample(12, cond_images=expected))
    cells = np.asarray(Image.open(tmp_path / "drawn" / "grid.png"))[2:, 2:].astype(int)
    cells = [cells[:32, 34 * column : 34 * column + 32] for column in range(4)]  # a small image is shown twice as large
    truth = view(source[0])["x0"]
    for cell, one in zip(cells, (expected[0].repeat(3, -1), images[0], images[6], truth), strict=True):
        np.testing.assert_array_equal(cell, one.repeat(2, 0).repeat(2, 1))
    again = run_here(*sample(sketches, photos, out, "--config.sample.images_per_condition=2"), cwd=tmp_path)
    assert "all 12 images of this request are there already" in again.out
    (photos / "ward 1" / "3.png").rename(photos / "ward 1" / "4.png")
    again = run_here(*sample(sketches, photos, out, "--config.sample.images_per_condition=2"), cwd=tmp_path)
    assert again.status == 0
    with np.load(tmp_path / "drawn" / "samples.npz") as drawn:
        assert drawn["names"].tolist() == 2 * [*names[:-1], "ward 1/4"]
    assert run_here(*sample(sketches, photos, out), cwd=tmp_path).status == 0
    left = {str(file.relative_to(tmp_path / "drawn")) for file in (tmp_path / "drawn" / "images").rglob("*.png")}
    assert left == {f"images/{name}.png" for name in (*names[:-1], "ward 1/4")}


def test_sketches_drawn_by_hand_are_taken_as_they_are(sketches, tmp_path):
    lines = np.full((SIDE, SIDE), 255, np.uint8)
    lines[4, 3:12] = 120
    saved(lines, tmp_path, "mine", "a.png")
    saved(lines.repeat(2, 0).repeat(2, 1), tmp_path, "mine", "b.png")
    asked = sketches.request(condition_dir=str(tmp_path / "mine"), condition_view="as_is")
    np.testing.assert_array_equal(asked.in_turn["image"][0, ..., 0], lines)
    assert asked.in_turn["image"].shape == (2, SIDE, SIDE, 1)
    assert asked.truth is None
    assert (sketches.request(condition_dir=str(tmp_path / "mine")).in_turn["image"][0, ..., 0] != lines).any()
    with pytest.raises(UserError, match=r"sample\.condition_view='sketch'"):
        sketches.request(condition_dir=str(tmp_path / "mine"), condition_view="sketch")


def test_without_a_folder_held_out_images_condition_and_are_shown(sketches, tmp_path):
    result = run_here("--mode=sample", f"--workdir={sketches.workdir}", "--out=drawn", cwd=tmp_path)
    assert result.status == 0, result.err
    asked = sketches.request()
    held_out = Folder(str(sketches.workdir.parent / "data"), "test", holdout=0.1)
    view = from_config.view(sketches.config, train=False)
    expected = [view(record) for record in held_out]
    np.testing.assert_array_equal(asked.in_turn["image"], np.stack([one["cond"]["image"] for one in expected]))
    np.testing.assert_array_equal(asked.truth, np.stack([one["x0"] for one in expected]))
    for grid in (tmp_path / "drawn" / "grid.png", sketches.workdir / "samples" / "step_0000002.png"):
        cells = np.asarray(Image.open(grid))[2:34, 2:]
        np.testing.assert_array_equal(cells[:, :32], asked.in_turn["image"][0].repeat(3, -1).repeat(2, 0).repeat(2, 1))
        np.testing.assert_array_equal(cells[:, 68:100], asked.truth[0].repeat(2, 0).repeat(2, 1))
    sketches.export(tmp_path / "exported")  # to be given away, without images of the data
    exported = jdiff.load(tmp_path / "exported").request()
    np.testing.assert_array_equal(exported.in_turn["image"], asked.in_turn["image"])
    assert exported.truth is None


def of_pairs(source: Pairs, given: str, **data) -> ConfigDict:
    """The config of a model that draws the images of pairs, given the other picture."""
    settings = load(REPOSITORY / "configs" / "folder.py")
    settings.data.update(name="pairs", image_size=SIDE, **data)
    settings.condition.image.update(of=given, view="as_is")
    settings.model.conditions = ("image",)
    return resolve(settings, source)


@pytest.mark.parametrize("halves", ["left,right", "top,bottom"])
def test_files_of_both_halves_are_cut_and_others_are_not(halves, tmp_path):
    """As in facades: the label map is the second half of each of training's files."""
    axis = ("top,bottom", "left,right").index(halves)
    for number in range(4):
        both = np.concatenate([photo(number), photo(10 + number)], axis=axis)
        saved(both, tmp_path, "data", f"{number}.png")
        saved(both, tmp_path, "given", f"{number}_both.png")
        saved(photo(10 + number), tmp_path, "given", f"{number}_one.png")
    source = Pairs(str(tmp_path / "data"), "train", names=("image", "map"), masks=(), halves=halves, holdout=0.0)
    settings = of_pairs(source, "map", names=("image", "map"), masks=(), halves=halves)
    found = from_config.condition_files(settings, str(tmp_path / "given"))
    view = from_config.view(settings, train=False)
    expected = np.stack([view(record)["cond"]["image"] for record in source])
    np.testing.assert_array_equal(found.images, expected.repeat(2, axis=0))
    assert found.names[:2] == ("0_both", "0_one")
    part = halves.split(",")[1]
    assert found.note == f"4 of 8 files (0_both.png, ...) are taken for two pictures: of each the {part} is read"


def test_pictures_that_are_no_label_maps_are_named(tmp_path):
    mask = np.where(photo(3)[..., 0] > 120, 255, 0).astype(np.uint8)
    saved(photo(3), tmp_path, "data", "images", "a.png")
    saved(mask, tmp_path, "data", "masks", "a.png")
    settings = of_pairs(Pairs(str(tmp_path / "data"), "train", holdout=0.0), "mask")
    folder = tmp_path / "given"
    saved(mask, folder, "a good one.png")
    np.testing.assert_array_equal(from_config.condition_files(settings, str(folder)).images[0, ..., 0], mask)
    for values, words in (
        (photo(1), "its colours are not class numbers"),
        (mask // 255, "it holds 1, and the masks that this model was trained on hold 0, 255"),
    ):
        saved(values, folder, "bad.png")
        with pytest.raises(UserError, match=f"given/bad.png cannot be read: {words}"):
            from_config.condition_files(settings, str(folder))


def test_bad_folders_and_files_are_named(sketches, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty: no pictures are below it" in refusal(*sample(sketches, tmp_path / "empty"), cwd=tmp_path)
    assert "is not a folder" in refusal(*sample(sketches, tmp_path / "nowhere"), cwd=tmp_path)
    saved(photo(0), tmp_path, "photos", "good.png")
    (tmp_path / "photos" / "bad.png").write_bytes(b"no picture")
    said = refusal(*sample(sketches, tmp_path / "photos"), cwd=tmp_path)
    assert "photos/bad.png cannot be read: it is not an image" in said
    settings = load(REPOSITORY / "configs" / "digits.py")
    settings.data.update(class_names=("a", "b"), shape=(SIDE, SIDE, 1))
    with pytest.raises(UserError, match="this model was trained without condition images; it takes label"):
        request.read(settings, EDM(), {"condition_dir": "photos"}, conditions=from_config.conditions(settings))


def test_bits_and_units_are_those_of_training(tmp_path):
    def read(values: np.ndarray, trained_on: Picture) -> np.ndarray:
        saved(values, tmp_path, "one", "a.png")
        files = given(str(tmp_path / "one"), "sample.condition_dir", trained_on)
        return files.read(files.names[0])

    deep = np.linspace(0, 65535, SIDE**2).reshape(SIDE, SIDE).astype(np.uint16)
    eight, sixteen, floats = (Picture((SIDE, SIDE, 1), dtype) for dtype in ("uint8", "uint16", "float32"))
    np.testing.assert_allclose(read(deep, eight)[..., 0], deep / 257, atol=0.51)
    with pytest.raises(UserError, match="of which it uses 12 at most"):
        read(deep // 16, eight)
    twelve = Picture((SIDE, SIDE, 1), "uint16", high=4095.0)
    np.testing.assert_array_equal(read(deep // 16, twelve)[..., 0], deep // 16)
    assert read(deep, twelve).max() == 4095
    with pytest.raises(UserError, match="it has 8 bits a channel, and this model was trained on 16"):
        read((deep // 257).astype(np.uint8), sixteen)
    with pytest.raises(UserError, match="it is an image file, and this model was trained on values as DICOM and NIfTI"):
        read((deep // 257).astype(np.uint8), floats)


def test_nobodys_files_are_overwritten(sketches, tmp_path):
    """Neither the pictures that are read nor others' where samples would lie; and a run that begun there goes on."""
    saved(photo(1), tmp_path, "set", "images", "1.png")
    saved(photo(2), tmp_path, "other", "images", "2.png")
    for out, message in (
        ("set", "--out=set and set/images, which is read, lie one within the other: give another --out"),
        ("set/images/drawn", "lie one within the other"),
        ("other", "other/images holds files that this command did not write: give another --out"),
    ):
        assert message in refusal(*sample(sketches, "set/images", f"--out={out}"), cwd=tmp_path)
    plain = ("--mode=sample", f"--workdir={sketches.workdir}", "--config.sample.save_images=True", "--out=other")
    assert "other/images holds files" in refusal(*plain, cwd=tmp_path)
    assert [file.name for file in sorted(tmp_path.glob("*/images/*.png"))] == ["2.png", "1.png"]


def test_names_without_their_endings():
    names = ("a.png", "b/a.png", "b/a.jpg", "scan.nii.gz", "1.2.840.5", "IM0001", "c.d.tif")
    assert list(stems(names).values()) == ["a", "b/a.png", "b/a.jpg", "scan", "1.2.840.5", "IM0001", "c.d"]
    assert list(stems(("a.png", "a.jpg", "a.png.tif")).values()) == ["a.png", "a.jpg", "a.png.tif"]

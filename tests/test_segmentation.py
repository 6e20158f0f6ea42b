"""Masks as a space, a network that tells them without diffusion, and the masks of pictures of any size."""

import csv
import itertools
import json
import shutil
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from PIL import Image

import jdiff
from jdiff.common.errors import UserError
from jdiff.data.resize import Resize
from jdiff.demo import work
from jdiff.evaluation.told import Told
from jdiff.evaluation.windows import Windows, enlarged
from jdiff.metrics.segmentation import dice
from jdiff.modes.segment import _number
from jdiff.scoring.masks import Tally, _best_to_worst, _by_area
from jdiff.spaces import Masks
from tests.conftest import TINY, config, refusal, run_here, start_command

SMALL = (
    *TINY,
    *("--config.data.image_size=16", "--config.network.channels=16", "--config.network.channel_mults=(1,2)"),
    *("--config.train.images=1600", "--config.train.learning_rate=5e-3", "--config.train.warmup_images=0"),
    *("--config.train.ema_halflife_images=200", "--config.checkpoint.every=1000", "--config.network.dropout=0.1"),
    *("--config.sample.steps=3", "--config.sample.batch_size=20", "--config.log.tensorboard=false"),
)


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A brighter ellipse on a noisy ground, and its mask."""
    rows, columns = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    (row, column), (tall, wide) = rng.uniform(0.35, 0.65, 2), rng.uniform(0.15, 0.3, 2)
    inside = ((rows - row) / tall) ** 2 + ((columns - column) / wide) ** 2 < 1
    picture = np.where(inside, 160, 90)[..., None] + rng.normal(0, 35, (height, width, 3))
    return picture.clip(0, 255).astype(np.uint8), inside


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pairs, and a run of diffusion and one of a plain network that were trained on them."""
    folder, rng = tmp_path_factory.mktemp("segmentation"), np.random.default_rng(0)
    for number in range(60):
        picture, mask = scene(rng, 20, 24)
        for name, one in (("images", picture), ("masks", np.where(mask, 255, 0).astype(np.uint8))):
            (folder / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(one).save(folder / "data" / name / f"{number:02}.png")
    for name, more in (("drawn", ()), ("told", ("--config.task=segmentation",))):
        data = (f"--config.data.dir={folder / 'data'}", "--config.data.suffixes=('','')", f"--workdir={name}")
        shown = "--config.train.sample_every=100"
        result = run_here(config("isic2018"), *SMALL, *more, *data, shown, cwd=folder)
        assert result.status == 0, result.err
        assert Image.open(folder / name / "samples" / "step_0000100_segmentations.png").width > 100
    return folder


@pytest.fixture(scope="module", params=["drawn", pytest.param("told", marks=pytest.mark.slow)])
def model(folder, request) -> jdiff.Model:
    return jdiff.load(folder / request.param)


def scenes(count: int, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    made = [scene(rng, side, side) for _ in range(count)]
    return np.stack([picture for picture, _ in made]), np.stack([mask for _, mask in made])


@pytest.mark.parametrize("code", ["bits", "one_hot"])
@pytest.mark.parametrize("classes", [(0, 255), (0, 1, 2), (0, 10, 20, 30), (0, 1, 2, 3, 4, 5)])
def test_masks_come_back_from_their_codes(code, classes):
    space = Masks(sides=(4, 5), classes=classes, code=code, scale=0.5)
    masks = np.random.default_rng(0).choice(np.array(classes, np.uint8), (3, 4, 5, 1))
    x = space.encode({}, jnp.asarray(masks), None)
    assert x.shape == (3, *space.shape)
    assert set(np.unique(x)) == {-0.5, 0.5}
    np.testing.assert_array_equal(space.decode({}, x), masks)
    np.testing.assert_array_equal(space.decode({}, x + 0.2), masks)
    p = space.probabilities(x[None])
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-5)
    assert p.shape == (1, 3, 4, 5, len(classes))
    assert p.max(axis=-1).min() > 0.99


def test_the_mean_of_masks_is_their_probability():
    """Where D is the mean of the masks that an image may have, E[x] tells how often each pixel is of a class."""
    space = Masks(sides=(1, 1), classes=(0, 255), scale=0.3)
    x = space.encode({}, jnp.asarray([0, 255, 255, 255], jnp.uint8).reshape(4, 1, 1, 1), None)
    np.testing.assert_allclose(space.probabilities(x.mean(axis=0))[0, 0], [0.25, 0.75], atol=1e-4)
    several = Masks(sides=(1, 1), classes=(0, 1, 2), code="one_hot")
    x = several.encode({}, jnp.asarray([0, 1, 1, 2, 2, 2], jnp.uint8).reshape(6, 1, 1, 1), None)
    np.testing.assert_allclose(several.probabilities(x.mean(axis=0))[0, 0], [1 / 6, 2 / 6, 3 / 6], atol=1e-4)


def test_probabilities_of_logits():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 3, 3))
    one_hot = Masks(sides=(3, 3), classes=(0, 1, 2), code="one_hot")
    np.testing.assert_allclose(
        one_hot.of_logits(logits), logits - logsumexp(logits, axis=-1, keepdims=True), rtol=1e-5, atol=1e-6
    )
    binary = Masks(sides=(3, 3), classes=(0, 1))
    p = np.exp(binary.of_logits(logits[..., :1]))[..., 1]
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-logits[..., 0])), rtol=1e-5)
    bits = Masks(sides=(3, 3), classes=tuple(range(6)))
    np.testing.assert_allclose(np.exp(bits.of_logits(logits)).sum(axis=-1), 1, rtol=1e-5)
    sure = jnp.array([[[[200.0, -200.0, 200.0]]]])
    assert np.isfinite(bits.of_logits(sure)).all()
    assert np.isfinite(jax.grad(lambda x: bits.of_logits(x).sum())(sure)).all()


def test_both_tell_masks_with_the_same_network(folder, model):
    images, truth = scenes(12)
    found = model.segment(images, members=3)
    assert dice(found.masks > 0, truth).mean() > 0.85
    assert found.members.shape == (12, 3, 16, 16)
    assert set(np.unique(found.masks)) <= {0, 255}
    np.testing.assert_allclose(found.probabilities.sum(axis=-1), 1, rtol=1e-4)
    assert (found.entropy >= 0).all()
    names = [jdiff.load(folder / name).params["network"] for name in ("drawn", "told")]
    assert len({str(jax.tree.map(jnp.shape, params)) for params in names}) == 1


def test_a_member_depends_on_its_image_and_numbers_alone(model):
    images, _ = scenes(5)
    found = model.segment(images, members=3)
    np.testing.assert_array_equal(found.members[3:4], model.segment(images[3:4], members=3, numbers=[3]).members)
    np.testing.assert_array_equal(found.members[:, :2], model.segment(images, members=2).members)
    again = model.segment(images, members=3)
    np.testing.assert_array_equal(found.probabilities, again.probabilities)
    assert (found.variance > 0).any()


@pytest.mark.parametrize(("size", "count"), [((40, 40), 9), ((16, 50), 4), ((9, 12), 1), ((9, 40), 3), ((100, 17), 16)])
def test_windows_hold_every_pixel_and_come_together(size, count):
    """A map that is linear over the picture is the same once cut and put together."""
    windows = Windows.tiles(size, (16, 16), 0.25)
    assert len(windows.corners) == count
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    picture = (rows + 2 * columns)[..., None]
    parts = windows.of(picture, Resize("squash", *windows.tile))
    np.testing.assert_allclose(windows.together(parts), picture, atol=1e-2)


def test_a_mask_that_is_brought_up_is_near_the_model_sized_one():
    rng = np.random.default_rng(0)
    for size in ((200, 300), (64, 64), (640, 480)):
        _, mask = scene(rng, 64, 64)
        p = mask[..., None].astype(np.float32)
        by_pixels = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)) > 0
        assert dice((enlarged(p, size)[..., 0] > 0.5)[None], by_pixels[None]).item() > 0.99


def test_a_photo_on_the_page_gets_its_masks(model):
    picture, mask = scene(np.random.default_rng(3), 40, 36)
    overlaid, unsure, told = work.segmented(model, picture, 1, 0)
    assert overlaid.shape == picture.shape
    assert (overlaid != picture).any(axis=-1).mean() < 0.5  # borders alone
    assert unsure.shape[2] == 3
    share = float(told.partition("%")[0]) / 100
    assert abs(share - mask.mean()) < 0.15


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twelve pictures of twelve sizes, in sub-folders, two of one stem."""
    rng = np.random.default_rng(2)
    for number in range(12):
        picture, _ = scene(rng, 18 + 3 * number, 40 - 2 * number)
        file = tmp_path / "photos" / f"ward {number % 3}" / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    Image.fromarray(picture).save(file.with_suffix(".jpg"))
    return tmp_path / "photos"


def of(workdir: Path, photos: Path, *more: str) -> tuple[str, ...]:
    return ("--mode=segment", f"--workdir={workdir}", f"--config.sample.condition_dir={photos}", *more)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*")) if path.is_file()}


def assert_alike(one: Path, two: Path) -> None:
    """The same files; maps within a level, as a process compiles other programs than `run_here`."""
    ours, theirs = files_of(one), files_of(two)
    assert ours.keys() == theirs.keys()
    for name in ours:
        if name.startswith(("probabilities", "entropy", "variance")):
            levels = [np.asarray(Image.open(folder / name)).astype(int) for folder in (one, two)]
            assert np.abs(levels[0] - levels[1]).max() <= 1, name
        else:
            assert ours[name] == theirs[name], name


def test_a_folder_of_photos_gives_masks_of_their_sizes(folder, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = "--config.segment.members=2"
    result = run_here(*of(folder / "drawn", photos, few, "--out=one"), cwd=tmp_path)
    assert result.status == 0, result.err
    rows = list(csv.DictReader((tmp_path / "one" / "segmentation.csv").open()))
    assert len(rows) == 13
    for row in rows:
        given = Image.open(photos / row["image"])
        stem = Path(row["image"]).with_suffix("")
        file = f"{row['image']}.png" if stem.name == "11" else f"{stem}.png"
        mask = Image.open(tmp_path / "one" / "masks" / file)
        assert mask.size == given.size == (int(row["width"]), int(row["height"]))
        assert int(row["area"]) == np.count_nonzero(np.asarray(mask))
        for kind in ("probabilities", "entropy", "variance", "overlays"):
            assert Image.open(tmp_path / "one" / kind / file).size == given.size
    again = run_here(*of(folder / "drawn", photos, few, "--out=two"), cwd=tmp_path)
    assert again.status == 0
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    (photos / "ward 0" / "00.png").rename(photos / "ward 0" / "other.png")
    shutil.copy(photos / "ward 0" / "03.png", photos / "ward 1" / "01.png")  # another picture under the same name
    all_doubtful = "--config.segment.least_confidence=1.0"
    kept = run_here(*of(folder / "drawn", photos, few, all_doubtful, "--out=two"), cwd=tmp_path)
    assert "11 of 13 pictures are there already; going on with the rest" in kept.out
    assert Image.open(tmp_path / "two" / "masks" / "ward 1" / "01.png").size == (34, 27)
    rows = list(csv.DictReader((tmp_path / "two" / "segmentation.csv").open()))
    assert {row["uncertain"] for row in rows} == {"yes"}
    said = refusal(*of(folder / "drawn", photos, "--out=two"), cwd=tmp_path)
    assert "two holds masks made with segment.members=2, and now it is 5: give another --out" in said


def test_tiles_see_what_is_small(folder, tmp_path):
    rng = np.random.default_rng(3)
    picture = rng.normal(90, 35, (48, 64, 3)).clip(0, 255)
    part, mask = scene(rng, 16, 16)
    picture[20:36, 30:46] = part
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "photos" / "wide.png")
    truth = np.zeros((48, 64), bool)
    truth[20:36, 30:46] = mask
    scores = {}
    for name, tiled in (("tiles", "true"), ("whole", "false")):
        more = (f"--config.segment.tiles={tiled}", "--config.segment.overlap=0.5", f"--out={name}")
        assert run_here(*of(folder / "told", tmp_path / "photos", *more), cwd=tmp_path).status == 0
        found = np.asarray(Image.open(tmp_path / name / "masks" / "wide.png")) > 0
        scores[name] = dice(found[None], truth[None]).item()
    assert scores["tiles"] > 0.6


def killed(lines: int, *arguments: str, cwd: Path) -> Path:
    """The table in the folder `killed` that a command was writing when it was killed, after more than so many lines."""
    process = start_command(*arguments, "--out=killed", cwd=cwd)
    table = cwd / "killed" / "segmentation.csv"
    while process.poll() is None and not (table.is_file() and table.read_text().count("\n") > lines):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return table


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(folder, photos, tmp_path):
    arguments = of(folder / "drawn", photos, "--config.sample.batch_size=2", "--config.segment.members=2")
    table = killed(2, *arguments, cwd=tmp_path)
    assert 2 < len(table.read_text().splitlines()) < 13
    with table.open("a") as stream:
        stream.write("ward 2/0")  # a line that was cut off
    for out in ("killed", "whole"):
        assert run_here(*arguments, f"--out={out}", cwd=tmp_path).status == 0
    assert_alike(tmp_path / "killed", tmp_path / "whole")


def evaluated(folder: Path) -> dict[str, float]:
    held = json.loads((folder / "evaluation.json").read_text())
    return {name: one["value"] for name, one in held["numbers"].items()}


def test_masks_of_held_out_images_are_scored(folder, model, tmp_path):
    workdir = model.workdir
    result = run_here("--mode=evaluate", f"--workdir={workdir}", "--out=scores", cwd=tmp_path)
    assert result.status == 0, result.err
    assert "masks of 3 held-out images, 5 members of each" in result.out
    found = evaluated(tmp_path / "scores")
    rows = list(csv.DictReader((tmp_path / "scores" / "masks.csv").open()))
    for name in ("dice", "iou", "hd95", "asd"):
        np.testing.assert_allclose(found[name], np.mean([float(row[name]) for row in rows]), rtol=1e-6)
    by_area = sorted(rows, key=lambda row: int(row["true_area"]))
    for size, row in zip(("small", "medium", "large"), by_area, strict=True):
        np.testing.assert_allclose(found[f"dice_{size}"], float(row["dice"]), rtol=1e-6)
    assert found["dice"] > 0.8
    assert found["uncertainty_auc"] > 0.8
    assert found["ece"] < 0.2
    picture = np.asarray(Image.open(tmp_path / "scores" / "masks.png"))
    assert picture.std() > 10
    assert (tmp_path / "scores" / "reliability.png").is_file()
    again = run_here("--mode=evaluate", f"--workdir={workdir}", "--out=scores", cwd=tmp_path)
    assert "these numbers are in scores/evaluation.json already" in again.out


def test_what_is_shown_is_of_one_shape():
    """Of records 0 to 9, scored in another order, those of the shape that most have, the best first."""
    numbers = np.array([0, 2, 4, 6, 8, 9, 1, 3, 5, 7])
    shapes = np.array([1, 0, 1, 0, 1, 0, 1, 0, 0, 0])
    tally = Tally([{"dice": number / 10} for number in numbers], None, None, [], [])
    chosen = _best_to_worst(tally, numbers, shapes)
    assert chosen.tolist() == [9, 8, 7, 5, 8, 7, 5, 3, 7, 5, 3, 1]


def test_images_are_parted_by_the_area_of_their_true_masks():
    assert _by_area(np.array([0, 5, 0, 4])) == {}
    inside, about = _by_area(np.array([9, 0, 5, 7, 6]))["small"]
    assert inside.tolist() == [False, False, True, False, True]
    assert "of 5 to 6 pixels" in about


@pytest.mark.slow
def test_a_sweep_of_masks_is_one_table(folder, tmp_path):
    sweep = ("--config.sample.steps=(1, 3)", "--config.segment.members=(1, 2)", "--out=sweep")
    result = run_here("--mode=evaluate", f"--workdir={folder / 'drawn'}", *sweep, cwd=tmp_path)
    assert result.status == 0, result.err
    rows = list(csv.DictReader((tmp_path / "sweep" / "sweep.csv").open()))
    assert [(row["steps"], row["members"]) for row in rows] == [("1", "1"), ("1", "2"), ("3", "1"), ("3", "2")]
    assert len({row["dice"] for row in rows}) > 1


@pytest.mark.slow
def test_what_raters_say_is_compared_with_members(folder, tmp_path):
    """Of three raters one sees nothing: the truth is the majority's, and samples are compared with all."""
    rng = np.random.default_rng(5)
    for number in range(24):
        picture, mask = scene(rng, 16, 16)
        for rater in range(3):
            file = tmp_path / "data" / "masks" / f"{number:02}_{rater}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.where(mask & (rater < 2), 255, 0).astype(np.uint8)).save(file)
        (tmp_path / "data" / "images").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "data" / "images" / f"{number:02}.png")
    data = ("--config.data.dir=data", "--config.data.suffixes=('','')", "--config.data.several=raters")
    more = ("--config.train.images=32", "--config.data.holdout=0.2", "--workdir=run")
    assert run_here(config("isic2018"), *SMALL, *data, *more, cwd=tmp_path).status == 0
    result = run_here("--mode=evaluate", "--workdir=run", "--config.segment.members=4", cwd=tmp_path)
    assert result.status == 0, result.err
    rows = list(csv.DictReader((tmp_path / "run" / "evaluation" / "masks.csv").open()))
    assert all(int(row["true_area"]) > 0 for row in rows)
    found = evaluated(tmp_path / "run" / "evaluation")
    assert found["ged2"] > 0
    assert 0 <= found["hm_iou"] <= 1


def test_what_cannot_be_segmented_is_told(folder, photos, tmp_path):
    assert "set --config.sample.condition_dir=PATH" in refusal(
        "--mode=segment", f"--workdir={folder / 'told'}", cwd=tmp_path
    )
    (tmp_path / "empty").mkdir()
    assert "empty: no pictures are below it" in refusal(*of(folder / "told", tmp_path / "empty"), cwd=tmp_path)
    (photos / "ward 0" / "00.png").write_bytes(b"nothing")
    said = refusal(*of(folder / "told", photos, "--out=bad"), cwd=tmp_path)
    assert "ward 0/00.png cannot be read" in said
    assert "--config.segment.on_bad_file=skip leaves it out" in said
    skipped = run_here(*of(folder / "told", photos, "--out=bad", "--config.segment.on_bad_file=skip"), cwd=tmp_path)
    assert skipped.status == 0
    assert "left out: " in skipped.out
    assert "masks of 12 pictures" in skipped.out


def test_true_masks_are_not_overwritten(folder, tmp_path):
    """A folder of pairs is one of images and masks, and so is what is written."""
    for kind in ("images", "masks"):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
        Image.new("L", (20, 20)).save(tmp_path / "pairs" / kind / "1.png")
    said = refusal(*of(folder / "told", "pairs/images", "--out=pairs"), cwd=tmp_path)
    assert "--out=pairs and pairs/images, which is read, lie one within the other: give another --out" in said
    (tmp_path / "photos").mkdir()
    Image.new("L", (20, 20)).save(tmp_path / "photos" / "1.png")
    said = refusal(*of(folder / "told", "photos", "--out=pairs"), cwd=tmp_path)
    assert "pairs/masks holds files that this command did not write" in said


def test_a_network_without_dropout_has_one_answer(folder):
    model = jdiff.load(folder / "told")
    config = model.config.copy_and_resolve_references()
    config.network.dropout = 0.0
    images, _ = scenes(2)
    with pytest.raises(UserError, match="all its answers are the same"):
        model.with_config(config).segment(images)
    assert model.with_config(config).segment(images, members=1).masks.shape == (2, 16, 16)
    with pytest.raises(UserError, match="steps is for diffusion models"):
        model.segment(images, steps=4)


def test_an_empty_mask_is_as_sure_as_its_likeliest_pixel():
    p = np.full((900, 900), 1e-6, np.float32)
    p[0, 0] = 0.3
    told = Told()
    told.add(np.stack([1 - p, p], axis=-1), np.zeros_like(p))
    assert told.row()["confidence"] == pytest.approx(0.7, abs=1e-3)


@pytest.mark.slow
def test_models_without_masks_are_told(folder, tmp_path):
    said = refusal(config("digits"), *TINY, "--config.model.space=masks", "--workdir=run", cwd=tmp_path)
    assert "these data have none" in said
    data = (f"--config.data.dir={folder / 'data'}", "--config.data.suffixes=('','')", "--workdir=run")
    said = refusal(config("isic2018"), *SMALL, *data, "--config.data.target=image", cwd=tmp_path)
    assert "data.target='image' is none: set data.target to one of ('mask',)" in said
    plain = (config("isic2018"), *SMALL, *data, "--config.task=segmentation", "--config.train.images=16")
    assert "set model.space='masks'" in refusal(*plain, "--config.model.space=pixels", cwd=tmp_path)
    assert "set model.conditions=('image',)" in refusal(*plain, "--config.model.conditions=()", cwd=tmp_path)
    advised = ("--config.model.space=masks", "--config.model.conditions=('image',)", "--config.data.holdout=0.0")
    assert run_here(*plain, *advised, cwd=tmp_path).status == 0
    said = refusal("--mode=evaluate", "--workdir=run", cwd=tmp_path)
    assert "there are no masks to compare with: give a test folder or, of 20 images at least, data.holdout=0.1" in said
    assert run_here(*plain, "--config.train.images=32", "--config.data.holdout=0.1", cwd=tmp_path).status == 0
    assert run_here("--mode=evaluate", "--workdir=run", cwd=tmp_path).status == 0
    unconditional = (config("isic2018"), *SMALL, *data, "--config.train.images=16", "--config.model.conditions=()")
    assert run_here(*unconditional, "--workdir=free", cwd=tmp_path).status == 0
    said = refusal(*of(tmp_path / "free", folder / "data" / "images"), cwd=tmp_path)
    assert "tell no masks of images: train one with model.space='masks' and model.conditions=('image',)" in said


@pytest.mark.slow
def test_fifty_photos_of_fifty_sizes(folder, tmp_path):
    """Each has a mask of its size, as good as the model-sized one brought up; the same twice, and after a kill."""
    rng, truth = np.random.default_rng(6), {}
    (tmp_path / "photos").mkdir()
    for number in range(50):
        picture, truth[f"{number:02}.png"] = scene(rng, 12 + 7 * number, 200 - 3 * number)
        Image.fromarray(picture).save(tmp_path / "photos" / f"{number:02}.png")
    arguments = of(folder / "drawn", tmp_path / "photos", "--config.segment.members=2")
    for out in ("one", "two"):
        assert run_here(*arguments, f"--out={out}", cwd=tmp_path).status == 0
    table = killed(12, *arguments, cwd=tmp_path)
    assert table.read_text().count("\n") < 51
    assert run_here(*arguments, "--out=killed", cwd=tmp_path).status == 0
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert_alike(tmp_path / "one", tmp_path / "killed")
    model, own, brought_up = jdiff.load(folder / "drawn"), [], []
    for name, mask in truth.items():
        found = np.asarray(Image.open(tmp_path / "one" / "masks" / name)) > 0
        assert found.shape == mask.shape
        picture = np.asarray(Image.open(tmp_path / "photos" / name))
        small = Resize("squash", 16, 16)({"image": picture})["image"]
        of_model = model.segment(small[None], members=2, numbers=[_number(name, 0)]).masks[0]
        large = np.asarray(Image.fromarray(of_model).resize(mask.shape[::-1], Image.Resampling.NEAREST)) > 0
        own.append(dice(found[None], mask[None]).item())
        brought_up.append(dice(large[None], mask[None]).item())
    assert np.mean(own) > 0.8
    assert np.mean(own) >= 0.99 * np.mean(brought_up)


@pytest.mark.slow
def test_seeds_agree_and_members_help(folder):
    """Other seeds draw other masks that are as good; the mean of more members is not worse, but for noise."""
    model, (images, truth) = jdiff.load(folder / "drawn"), scenes(60)

    def scores(members: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        found = model.segment(images, members=members, seed=seed)
        return found.probabilities, dice(found.masks > 0, truth)

    (p, one), (other_p, other) = scores(5, 0), scores(5, 1)
    assert (p != other_p).any()
    assert abs(one.mean() - other.mean()) < 0.01
    by_members = [scores(members, 0)[1] for members in (1, 2, 5, 10)]
    for fewer, more in itertools.pairwise(by_members):
        change = more - fewer
        assert change.mean() > -2 * change.std(ddof=1) / np.sqrt(len(change))
    assert by_members[-1].mean() > by_members[0].mean()

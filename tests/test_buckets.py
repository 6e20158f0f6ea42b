"""Aspect buckets: images of many shapes are trained in a few, and drawn in each of them."""

import json
import shutil
from itertools import combinations, islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jdiff
import jdiff.config
from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.data import buckets
from jdiff.data.pipeline import train_batches
from jdiff.data.sources.packed import Packed
from jdiff.doctor import examine
from jdiff.modes.inspect import settings
from jdiff.modes.train import open_batches
from jdiff.resolve import resolve, with_shapes
from tests.conftest import TINY, config, refusal, run_here
from tests.memory_source import Records

TALL, WIDE = (18, 14), (14, 18)


def sizes_of(rng, count):
    return rng.integers(10, 60, (count, 2))


def override(*keys):
    keys = ("network.channel_mults=(1,)", "network.attention_levels=()", *keys)
    return jdiff.config.override(jdiff.config.load("folder"), [f"--config.{key}" for key in keys])


# Shapes


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_other_shapes_keep_more(most):
    candidates = buckets._candidates(32, 8)
    for seed in range(4):
        sizes = sizes_of(np.random.default_rng(seed), 30)
        best = max(buckets.kept(sizes, shapes) for shapes in combinations(candidates, most))
        found = buckets.choose(sizes, side=32, most=most, multiple=8)
        assert len(found) <= most
        assert best - buckets.NEGLIGIBLE - 1e-3 <= buckets.kept(sizes, found) <= best + 1e-12


@pytest.mark.parametrize(("side", "multiple"), [(16, 1), (64, 8), (20, 8), (6, 8), (256, 16)])
def test_shapes_are_what_the_network_takes_and_of_about_as_many_pixels(side, multiple):
    sizes = sizes_of(np.random.default_rng(0), 200)
    shapes = buckets.choose(sizes, side=side, most=9, multiple=multiple)
    assert all(length % multiple == 0 for shape in shapes for length in shape)
    assert all(abs(height * width / side**2 - 1) <= 0.25 for height, width in shapes if height != width)
    counts = np.bincount(buckets.nearest(sizes, shapes), minlength=len(shapes))
    assert counts.min() > 0
    assert (np.diff(counts) <= 0).all()  # the most frequent is the first
    assert shapes == buckets.choose(sizes[::-1], side=side, most=9, multiple=multiple)


def test_an_image_goes_to_the_shape_that_keeps_the_most_of_it():
    shapes = ((16, 16), (24, 10), (10, 24), (20, 13))
    sizes = sizes_of(np.random.default_rng(1), 100)
    share = [[min(h * W / (w * H), w * H / (h * W)) for H, W in shapes] for h, w in sizes]
    np.testing.assert_array_equal(buckets.nearest(sizes, shapes), np.argmax(share, axis=1))
    np.testing.assert_array_equal(buckets.nearest(np.array(shapes), shapes), range(4))
    assert buckets.kept(sizes, shapes) == pytest.approx(np.max(share, axis=1).mean())


def test_one_shape_is_enough_for_images_of_one():
    assert buckets.choose(np.tile([[300, 200]], (50, 1)), side=24, most=8, multiple=1) == ((29, 20),)


# A run


@pytest.fixture(scope="module")
def photos(test_data, tmp_path_factory):
    """36 photos of the facades cropped to 4:3 and 24 to 3:4, two classes in each; 6 of each class are held out."""
    top = tmp_path_factory.mktemp("photos")
    files = sorted((test_data / "facades_100").rglob("*.jpg"))[:60]
    assert len(files) == 60
    for i, file in enumerate(files):
        tall = i % 5 < 3
        size = (180, 240) if tall else (240, 180)
        folder = top / ("test" if i % 10 in (0, 4) else "train") / "ab"[i // 5 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.crop((0, 0, 250, 250)).crop((0, 0, *size)).save(folder / file.name, quality=90)
    return top


ARGUMENTS = (
    config("folder"),
    *TINY,
    "--config.data.image_size=16",
    "--config.data.buckets=4",
    "--config.data.balance=class",
    "--config.model.conditions=('label','image')",
    "--config.train.batch_size=8",
    "--config.train.images=0",
    "--config.train.trajectory_every=6",
    "--config.train.sample_every=6",
    "--config.network.blocks_per_level=1",
    "--config.network.middle_attention=false",
    "--config.checkpoint.every=3",
    "--config.sample.steps=2",
    "--config.sample.num_images=4",
)


def trained(photos, folder, steps, *more):
    arguments = (*ARGUMENTS, f"--config.data.dir={photos}", f"--config.train.steps={steps}", "--workdir=run", *more)
    result = run_here(*arguments, cwd=folder)
    assert result.status == 0, result.err
    return result


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("buckets")
    result = trained(photos, folder, 6)
    return folder / "run", result


def equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_a_run_is_trained_in_both_shapes(run):
    workdir, result = run
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["data"]["shapes"] == [list(TALL), list(WIDE)]
    assert saved["data"]["shape"] == [*TALL, 3]
    assert saved["model"]["conditions"] == ["label", "image", "aspect"]
    assert "shapes: 30 images in 18x14, 18 images in 14x18" in result.out
    assert "held-out loss" in result.out
    assert {"step_0000006.png", "step_0000006_trajectory.png", "forward.png"} <= {
        file.name for file in (workdir / "samples").iterdir()
    }


def test_a_model_draws_both_shapes(run):
    model = jdiff.load(run[0])
    assert model.sample(2).shape == (2, *TALL, 3)
    images = model.sample(3, shape=WIDE, seed=1)
    assert images.shape == (3, *WIDE, 3)
    np.testing.assert_array_equal(images, model.sample(3, shape=list(WIDE), seed=1))
    assert model.trajectory(2, shape=WIDE).shape == (3, 2, *WIDE, 3)
    # The shape of given images is theirs, and the noise that leads to them is of it.
    given = {"labels": [0], "cond_images": images[:1]}
    noise = model.invert(images, sampler="ddim", steps=3, **given)
    assert noise.shape == images.shape
    assert model.sample(noise=noise, **given).shape == images.shape
    assert model.forward(images).shape[1:] == images.shape
    assert model.img2img(images, sigma=0.5, **given).shape == images.shape
    own = model.in_shape(WIDE)
    assert own.sample(2).shape == (2, *WIDE, 3)
    np.testing.assert_array_equal(own.in_shape(TALL).sample(2), model.sample(2))
    np.testing.assert_array_equal(own.sample(2, seed=3), model.sample(2, seed=3, shape=WIDE))


def test_the_network_is_told_the_shape(run):
    model = jdiff.load(run[0])
    for shape in (TALL, WIDE):
        asked = model.request(2, shape=shape)
        np.testing.assert_allclose(asked.cond["aspect"], np.log(shape[0] / shape[1]), rtol=1e-6)
        assert asked.cond["image"].shape == (2, *shape, 3)  # of the run's examples of this shape
        assert "aspect" not in asked.cond.get("drop", {})
        alone = model.request(2, shape=shape, labels=[1])
        assert set(alone.cond["drop"]) == {"image"}


def test_the_command_draws_by_shape(run, tmp_path):
    command = (
        *("--mode=sample", f"--workdir={run[0]}", "--out=drawn", f"--config.sample.shape={WIDE}"),
        *("--config.sample.trajectory=true", "--config.sample.save_images=true"),
    )
    result = run_here(*command, cwd=tmp_path)
    assert result.status == 0, result.err
    with np.load(tmp_path / "drawn" / "samples.npz") as samples:
        np.testing.assert_array_equal(samples["images"], jdiff.load(run[0]).sample(shape=WIDE))
    with Image.open(tmp_path / "drawn" / "images" / "000000.png") as image:
        assert image.size == WIDE[::-1]
    assert "there already" in run_here(*command, cwd=tmp_path).out


def test_another_shape_is_refused_with_those_that_there_are(run, tmp_path):
    asked = ("--mode=sample", f"--workdir={run[0]}", "--config.sample.shape=(16, 16)")
    assert "(16, 16): this model was trained in the shapes (height, width) (18, 14), (14, 18)" in refusal(
        *asked, cwd=tmp_path
    )
    model = jdiff.load(run[0])
    for wrong in ((16, 16), (18,), 18, (18, 14, 3)):
        with pytest.raises(UserError, match=r"trained in the shapes"):
            model.sample(1, shape=wrong)
    with pytest.raises(UserError, match=r"give shape=\(height, width\)"):
        model.sample(1, labels=[0], aspect=[0.3])


def test_an_exported_run_draws_the_same(run, tmp_path):
    model = jdiff.load(run[0])
    model.in_shape(WIDE).export(tmp_path / "out")
    exported = jdiff.load(tmp_path / "out")
    for shape in (TALL, WIDE):
        np.testing.assert_array_equal(exported.sample(2, shape=shape), model.sample(2, shape=shape))


def test_a_run_goes_on_to_the_bit(run, photos, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    result = trained(photos, tmp_path, 6, "--config.log.pictures=false", "--config.log.tensorboard=false")
    assert "steps 3 to 6" in result.out
    one, other = jdiff.load(run[0]), jdiff.load(tmp_path / "run")
    assert one.step == other.step == 6
    assert equal(one.params, other.params)


def test_a_run_keeps_its_shapes(run, photos):
    keys = override("data.image_size=16", "data.buckets=4")
    source = Records([], class_names=("a", "b"))
    object.__setattr__(source, "sizes", np.array([[100, 30]] * 9))

    assert resolve(with_shapes(keys, run[0]), source).data.shapes == (TALL, WIDE)
    assert resolve(keys, source).data.shapes == ((30, 9),)
    keys.data.buckets = 3
    assert resolve(with_shapes(keys, run[0]), source).data.shapes == ((30, 9),)


# Batches


def resolved(photos, *more):
    keys = override("data.image_size=16", "train.batch_size=8", f"data.dir={photos}", *more)
    jdiff.config.check(keys)
    source, held_out = from_config.sources(keys)
    keys = resolve(keys, source)
    return keys, from_config.prepared(keys, source, train=True), held_out


def test_batches_hold_every_image_once_an_epoch_in_its_shape(photos):
    keys, source, held_out = resolved(photos, "data.buckets=4", "data.flip=true")
    assert keys.data.shapes == (TALL, WIDE)
    assert source.shape == (None, None, 3)
    batches = list(islice(open_batches(keys, source, 0), 12))  # two epochs of 48
    assert {batch["x0"].shape for batch in batches} == {(8, *TALL, 3), (8, *WIDE, 3)}
    for batch in batches:
        height, width = batch["x0"].shape[1:3]
        np.testing.assert_allclose(batch["cond"]["aspect"], np.log(height / width), rtol=1e-6)
    for later, first in zip(islice(open_batches(keys, source, 5), 7), batches[5:], strict=True):
        np.testing.assert_array_equal(later["x0"], first["x0"])
    order = from_config.order(keys, source)
    rows = np.concatenate([order[k] for k in range(59)])  # ten epochs: 300 and 180 rows, 37 and 22 batches
    counts = np.bincount(rows, minlength=48)
    assert set(counts.tolist()) <= {9, 10}
    assert len(from_config.prepared(keys, held_out, train=False)) == 12


def test_large_files_go_by_their_own_size(tmp_path):
    """A JPEG of 1002 x 1001 is decoded at 126 x 126, which says nothing of its aspect any more."""
    for i in range(8):
        size = (1001, 1002) if i % 2 else (1002, 1001)
        Image.new("RGB", size, (i, i, i)).save(tmp_path / f"{i}.jpg", quality=95)
    keys = override("data.image_size=16", "data.buckets=2", f"data.dir={tmp_path}", "data.holdout=0.0")
    keys.data.shapes, keys.train.batch_size = (TALL, WIDE), 4
    source, _ = from_config.sources(keys)
    keys = resolve(keys, source)
    assert source[0]["image"].shape == source[1]["image"].shape == (126, 126, 3)
    source = from_config.prepared(keys, source, train=True)
    assert [record["image"].shape[:2] for record in source.__getitems__(range(8))] == [WIDE, TALL] * 4
    shapes = {batch["x0"].shape[1:3] for batch in islice(open_batches(keys, source, 0), 4)}
    assert shapes == {TALL, WIDE}


def test_masks_take_the_shape_of_their_photos(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(16):
        size = (40, 30) if i % 2 else (30, 40)
        pixels = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        mask = np.where(pixels[..., 0] > 127, 255, 0).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    keys, source, _ = resolved(
        *(tmp_path, "data.name=pairs", "data.buckets=3", "data.target=mask", "data.holdout=0.0"),
        *("model.conditions=('image',)", "condition.image.view=as_is"),
    )
    assert set(keys.data.shapes) == {TALL, WIDE}
    for batch in islice(open_batches(keys, source, 0), 4):
        assert batch["x0"].shape[:3] == batch["cond"]["image"].shape[:3]
        assert set(np.unique(batch["x0"])) == {0, 255}
        assert (batch["x0"] == 255).mean() == pytest.approx((batch["cond"]["image"][..., :1] > 127).mean(), abs=0.1)


def test_packed_images_give_the_same_batches(photos, tmp_path):
    keys = ("--config.data.image_size=16", "--config.data.buckets=4", f"--config.data.dir={photos}")
    result = run_here(config("folder"), *TINY, *keys, "--mode=prepare", "--out=packed", cwd=tmp_path)
    assert result.status == 0, result.err
    packed = Packed(str(tmp_path / "packed"), "train")
    ours, source, _ = resolved(photos, "data.buckets=4")
    theirs, other, _ = resolved(tmp_path / "packed", "data.buckets=4", "data.name=array_record")
    assert theirs.data.shapes == ours.data.shapes
    np.testing.assert_array_equal(packed.sizes, source.sizes)
    for one, two in zip(islice(open_batches(ours, source, 0), 5), open_batches(theirs, other, 0), strict=False):
        np.testing.assert_array_equal(one["x0"], two["x0"])


def test_balance_by_a_column_of_the_metadata(tmp_path):
    rows = []
    for i in range(40):
        Image.fromarray(np.full((9, 9, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": "x", "site": "rare" if i < 4 else "usual"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keys, source, _ = resolved(tmp_path, "data.balance=site", "data.holdout=0")
    batches = train_batches(source, from_config.view(keys, train=False), batch_size=8, seed=0,
                            order=from_config.order(keys, source))  # fmt: skip
    drawn = np.concatenate([batch["x0"][:, 0, 0, 0] for batch in islice(batches, 50)])
    assert (drawn < 4).mean() == pytest.approx(0.5, abs=0.01)
    with pytest.raises(UserError, match=r"has no metadata|no 'place'"):
        resolved(tmp_path, "data.balance=place", "data.holdout=0")


def test_balance_of_classes(photos, tmp_path):
    keys, source, _ = resolved(photos, "data.balance=class")
    order = from_config.order(keys, source)
    drawn = np.concatenate([order[k] for k in range(30)])
    assert np.bincount(source.labels()[drawn]).tolist() == [120, 120]
    assert from_config.order(resolved(photos)[0], source) is None


REFUSED = [
    (["data.buckets=4", "data.quarter_turns=true"], "with data.buckets set it to False"),
    (["data.buckets=4", "data.resize=random_crop"], "set data.resize=adm"),
    (["data.buckets=4", "data.image_size=0"], "needs one data.image_size"),
    (["data.buckets=4", "data.image_size=(16, 24)"], "needs one data.image_size"),
    (["model.conditions=('label','aspect')"], "set data.buckets=8"),
    (["data.balance_power=0.5"], "set data.balance=class"),
    (["data.labels=none", "data.balance=class"], "has no classes; leave it out"),
]


@pytest.mark.parametrize(("asked", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_what_does_not_go_together_is_refused_in_one_line(photos, asked, says, tmp_path):
    keys = [f"--config.{one}" for one in asked]
    first = [f"--config.data.dir={photos}", "--config.data.image_size=16"]
    assert says in refusal(config("folder"), *TINY, *first, *keys, "--workdir=run", cwd=tmp_path)


def test_data_that_do_not_tell_their_sizes_are_refused_in_one_line():
    keys = override("data.image_size=16", "data.buckets=4")
    with pytest.raises(UserError, match=r"which these data do not tell: leave it out"):
        resolve(keys, Records([], class_names=("a",)))


def test_a_dit_takes_every_shape(photos):
    from jdiff.spaces import Pixels

    keys, *_ = resolved(photos, "data.buckets=4", "network.name=dit", "network.width=16", "network.depth=1",
                        "network.patch_size=2", "network.attention_heads=2", "network.grid_size=4")  # fmt: skip
    assert all(side % 2 == 0 for shape in keys.data.shapes for side in shape)
    task = from_config.task(keys)
    assert isinstance(task.space, Pixels)
    params, state = jax.eval_shape(lambda: task.init(jax.random.key(0), from_config.example(keys)))
    for shape in keys.data.shapes:
        other = keys.copy_and_resolve_references()
        other.data.shape = (*shape, 3)
        batch, step = from_config.example(other, 2), jnp.int32(0)
        loss, _ = jax.eval_shape(task.loss, params, state, batch, jax.random.key(0), step)
        assert loss.shape == ()


# The doctor


def told(folder, *keys):
    """{key: (value, whether the config differs)} of what the doctor advises."""
    config = override(f"data.dir={folder}", *keys)
    whole = config.copy_and_resolve_references()
    whole.data.image_size = 0
    train, _ = from_config.sources(whole)
    found = examine(train, settings=settings(config))
    return {one.key: (one.value, one.change) for one in found.advice}


def test_the_doctor_says_when_shapes_would_keep_more(photos, test_data, tmp_path):
    said = told(photos, "data.image_size=16")
    assert said["data.buckets"] == ("8", True)
    assert "data.balance" not in said
    assert told(photos, "data.image_size=16", "data.buckets=4")["data.buckets"] == ("4", False)
    few = some(photos, tmp_path / "few", 8)
    assert "data.buckets" in told(few, "data.image_size=16")
    assert "data.buckets" not in told(few, "data.image_size=16", "data.resize=pad")
    assert "data.buckets" not in told(few, "data.image_size=16", "data.quarter_turns=true")
    for name in ("facades_100", "emoji_72"):
        clean = told(some(test_data / name, tmp_path / name), "data.image_size=64", "data.labels=none")
        assert not {"data.buckets", "data.balance"} & clean.keys()
    resolved(photos, f"data.buckets={said['data.buckets'][0]}")


def some(folder, copy, count=20):
    copy.mkdir()
    for file in sorted(file for file in folder.rglob("*") if file.suffix in (".jpg", ".png"))[:count]:
        shutil.copy(file, copy)
    return copy


def test_the_doctor_says_when_classes_should_be_balanced(tmp_path):
    for name, count in (("rare", 4), ("usual", 20)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = np.random.default_rng(i + count).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    keys = ("data.image_size=16", "data.holdout=0.0")
    assert told(tmp_path, *keys)["data.balance"] == ("class", True)
    assert told(tmp_path, *keys, "data.balance=class")["data.balance"] == ("class", False)
    resolved(tmp_path, "data.balance=class")
    (tmp_path / "usual" / "0.png").unlink()  # 19 to 4: less than five times
    assert "data.balance" not in told(tmp_path, *keys)


def test_an_evaluation_is_of_the_images_of_one_shape(run):
    model = jdiff.load(run[0])
    for shape in (TALL, WIDE):
        result = model.evaluate(2, shape=shape, features="pixels", batch_size=2)
        numbers = from_config.shape_numbers(model.config, from_config.sources(model.config)[0])
        images = int((numbers == model.config.data.shapes.index(shape)).sum())
        assert result.facts["reference"]["count"] == images
        assert result.facts["reference"]["sides"] == list(shape)
        assert result["fd_pixels"] > 0

"""Sources and the pipeline."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from jdiff.common.errors import UserError
from jdiff.conditions.label import Label
from jdiff.data.augment import Turn
from jdiff.data.decode import decode
from jdiff.data.pipeline import fixed_batch, train_batches
from jdiff.data.resize import Resize
from jdiff.data.sources import Picture
from jdiff.data.sources.digits import Digits
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.tfds import Tfds
from jdiff.data.sources.wrapped import Wrapped
from jdiff.data.views import View


def view(shape, *, flip=False, conditions=()):
    height, width, _ = shape
    resize, turn = Resize("centre", height, width), Turn(horizontal=flip)
    return View(picture=Picture(shape), resize=resize, turn=turn, conditions=conditions)


DIGIT = Label(class_names=tuple("0123456789"))


def centred(image, height, width):
    return Resize("centre", height, width)({"image": image}, np.random.default_rng(0))["image"]


VIEW = view((8, 8, 1), flip=True, conditions=(DIGIT,))


def digest(batch):
    return hashlib.sha256(batch["x0"].tobytes() + batch["cond"]["label"].tobytes()).hexdigest()


def take(count, **options):
    batches = train_batches(Digits("train"), VIEW, batch_size=64, seed=5, **options)
    return [next(batches) for _ in range(count)]


def test_digits_hold_out_the_297():
    x, y = load_digits(return_X_y=True)
    _, test, _, y_test = train_test_split(x, y, test_size=297, random_state=0, stratify=y)
    ours = Digits("test")
    train = Digits("train")
    assert (len(train), len(ours)) == (1500, 297)
    for i in (0, 100, 296):
        assert ours[i]["label"] == y_test[i]
        np.testing.assert_allclose(ours[i]["image"].ravel() / 127.5 - 1, test[i] / 8 - 1, atol=0.5 / 127.5)
    held_out = {row.tobytes() for row in np.round(test * 255 / 16).astype(np.uint8)}
    seen = {train[i]["image"].tobytes() for i in range(1500)}
    assert not held_out & seen


def test_batches_are_a_function_of_seed_and_step():
    straight = [digest(batch) for batch in take(30)]
    resumed = [digest(batch) for batch in take(10, start=20)]
    assert straight[20:] == resumed
    other = train_batches(Digits("train"), VIEW, batch_size=64, seed=6)
    assert digest(next(other)) != straight[0]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_same_global_batch(processes):
    whole = take(4, start=22)
    shares = [take(4, start=22, process=p, processes=processes) for p in range(processes)]
    for step in range(4):
        for name in ("x0", "label"):
            pick = (lambda b: b["x0"]) if name == "x0" else (lambda b: b["cond"]["label"])
            np.testing.assert_array_equal(pick(whole[step]), np.concatenate([pick(share[step]) for share in shares]))


def test_workers_change_nothing():
    assert [digest(b) for b in take(6, workers=2)] == [digest(b) for b in take(6, threads=1, prefetch=1)]


class Failing(Wrapped):
    """Record 700 cannot be read."""

    def __getitems__(self, indices):
        if 700 in indices:
            raise UserError("700.png could be read at the start and cannot now")
        return super().__getitems__(indices)


def test_a_workers_error_is_the_users():
    def one_epoch():
        batches = train_batches(Failing(Digits("train")), VIEW, batch_size=64, seed=5, workers=1)
        return [next(batches) for _ in range(1500 // 64 + 1)]

    with pytest.raises(UserError, match=r"700\.png could be read"):
        one_epoch()


def test_every_example_once_an_epoch():
    source = Digits("train")
    batches = train_batches(source, view((8, 8, 1), conditions=(DIGIT,)), batch_size=100, seed=0)
    expected = Counter(source[i]["image"].tobytes() for i in range(1500))
    orders = []
    for _ in range(2):
        rows = [row.tobytes() for _ in range(15) for row in next(batches)["x0"]]
        assert Counter(rows) == expected
        orders.append(rows)
    assert orders[0] != orders[1]


def test_flips_mirror_half_of_the_images():
    source = Digits("train")
    flipped = take(20)
    plain = train_batches(source, view((8, 8, 1), flip=False, conditions=(DIGIT,)), batch_size=64, seed=5)
    mirrored = total = 0
    for batch in flipped:
        for ours, straight in zip(batch["x0"], next(plain)["x0"], strict=True):
            assert (ours == straight).all() or (ours == straight[:, ::-1]).all()
            mirrored += not (ours == straight).all()
            total += 1
    assert mirrored / total == pytest.approx(0.5, abs=0.07)


def test_held_out_batches_are_always_the_same():
    source = Digits("test")
    assert digest(fixed_batch(source, VIEW, 50)) == digest(fixed_batch(Digits("test"), VIEW, 50))
    assert len(fixed_batch(source, VIEW, 10_000)["x0"]) == 297


@pytest.fixture
def zoo(tmp_path):
    """Images of many formats, modes and sizes, red on the left and blue on the right where they have colour."""
    rgb = np.zeros((40, 60, 3), np.uint8)
    rgb[:, :30, 0] = 255
    rgb[:, 30:, 2] = 255
    image = Image.fromarray(rgb)
    image.save(tmp_path / "a.png")
    image.resize((100, 31)).save(tmp_path / "b.jpg", quality=95)
    image.convert("L").save(tmp_path / "c_grey.png")
    image.convert("P").save(tmp_path / "d_palette.gif")
    image.convert("CMYK").save(tmp_path / "e_cmyk.jpg")
    image.convert("1").save(tmp_path / "f_bits.png")
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray(np.tile(np.repeat([0, 255], 30).astype(np.uint8), (40, 1))))
    rgba.save(tmp_path / "g_rgba.png")
    rgba.save(tmp_path / "h.webp", lossless=True)
    Image.fromarray(np.full((17, 23), 40_000, np.uint16)).save(tmp_path / "i_16bit.png")
    Image.fromarray(np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)).save(tmp_path / "j_float.tiff")
    Image.fromarray(rgb[:1, :1]).save(tmp_path / "k_one_pixel.bmp")
    image.save(tmp_path / "l_no_ending_case.PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 270 degrees
    image.save(tmp_path / "m_turned.jpg", exif=exif, quality=95)
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_of_everything(zoo):
    source = Folder(str(zoo), "train")
    assert len(source) == 13
    assert source.class_names == ()
    batch = fixed_batch(source, view((16, 16, 3)), 13)
    assert batch["x0"].shape == (13, 16, 16, 3)
    assert batch["cond"] == {}
    for row, name in ((0, "a"), (1, "b"), (3, "palette"), (4, "cmyk"), (11, "ending")):
        left, right = batch["x0"][row, 8, 1].astype(int), batch["x0"][row, 8, 14].astype(int)
        assert left[0] > left[2] + 100, name
        assert right[2] > right[0] + 100, name


def test_modes_keep_their_meaning(zoo):
    transparent = decode(zoo / "g_rgba.png", 3)
    np.testing.assert_array_equal(transparent[0, 0], [255, 255, 255])  # see-through: the white behind it
    np.testing.assert_array_equal(transparent[0, -1], [0, 0, 255])
    np.testing.assert_array_equal(decode(zoo / "g_rgba.png", 4)[0, 0, 3], 0)
    assert decode(zoo / "i_16bit.png", 1)[0, 0, 0] == round(40_000 / 257)
    floats = decode(zoo / "j_float.tiff", 1)
    assert (floats.min(), floats.max()) == (0, 255)
    assert decode(zoo / "m_turned.jpg", 3).shape == (60, 40, 3)


def test_sub_folders_are_classes(tmp_path):
    for name in ("zebra", "ant"):
        (tmp_path / name / "deeper").mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / name / "1.png")
        Image.new("RGB", (8, 8), "red").save(tmp_path / name / "deeper" / "2.png")
    source = Folder(str(tmp_path), "train")
    assert source.class_names == ("ant", "zebra")
    assert [source[i]["label"] for i in range(4)] == [0, 0, 1, 1]


def test_a_share_is_held_out_and_a_test_folder_goes_before_it(tmp_path):
    def fill(folder, count):
        folder.mkdir(parents=True)
        for i in range(count):
            Image.new("L", (8, 8), i).save(folder / f"{i:03d}.png")

    fill(tmp_path / "flat", 100)
    train, test = Folder(str(tmp_path / "flat"), "train"), Folder(str(tmp_path / "flat"), "test")
    assert (len(train), len(test)) == (95, 5)
    values = [s[i]["image"][0, 0, 0] for s in (train, test) for i in range(len(s))]
    assert sorted(values) == list(range(100))
    fill(tmp_path / "split" / "train", 30)
    fill(tmp_path / "split" / "test", 7)
    root = str(tmp_path / "split")
    assert (len(Folder(root, "train")), len(Folder(root, "test"))) == (30, 7)


def test_bad_files_are_refused_by_name_or_skipped_and_counted(zoo):
    whole = (zoo / "b.jpg").read_bytes()
    (zoo / "x_truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (zoo / "y_empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"x_truncated\.jpg cannot be read: .*1 more like it.*skip"):
        Folder(str(zoo), "train")
    source = Folder(str(zoo), "train", on_bad_file="skip")
    assert len(source) == 13
    assert source.notes[0].endswith(": training on 15 images, no classes; held out: none")
    assert "not read, having no image's extension: 1 .txt" in source.notes[1]
    assert "skipped 2 unreadable of 15" in source.notes[-2]
    assert [Path(file).name for file, _ in source.left_out] == ["x_truncated.jpg", "y_empty.png"]
    assert all(why.startswith("cannot be read: ") for _, why in source.left_out)


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (("train", "test"), None),
        (("Training", "Validation"), None),
        (("train", "valid", "__MACOSX"), None),
        (("train", "bus", "car"), ("bus", "car", "train")),  # a kind of vehicle
        (("cat", "test"), ("cat", "test")),
    ],
)
def test_splits_and_classes_are_told_apart(tmp_path, folders, classes):
    for i, name in enumerate(folders):
        (tmp_path / name).mkdir()
        for k in range(3):
            ending = "db" if name.startswith("_") else "png"
            Image.new("L", (4, 4), i).save(tmp_path / name / f"{k}.{ending}", "PNG")
    train, test = Folder(str(tmp_path), "train"), Folder(str(tmp_path), "test")
    assert train.class_names == (classes or ())
    if not classes:
        assert {int(train[i]["image"].max()) for i in range(len(train))} == {0}
        assert {int(test[i]["image"].max()) for i in range(len(test))} == {1}


def test_what_lies_beside_splits_is_named(tmp_path):
    for name in ("train", "test", "annotations"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "0.png")
    source = Folder(str(tmp_path), "train")
    assert len(source) == 1
    assert source.notes[0].endswith(
        "train/: 1 image, no classes; held out: test/; not used: annotations/; data.splits chooses"
    )


def test_sixteen_bits_are_kept_where_they_are_asked_for(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (6, 5, 7), dtype=np.uint16)
    for i, value in enumerate(values):
        Image.fromarray(value).save(tmp_path / f"{i}.png")
    Image.new("L", (7, 5), 200).save(tmp_path / "8bit.png")
    deep = Folder(str(tmp_path), "train", channels=1, bits=16)
    assert deep.pictures["image"] == Picture((5, 7, 1), "uint16", high=65535.0)
    for i, value in enumerate(values):
        np.testing.assert_array_equal(deep[i]["image"][..., 0], value)
    np.testing.assert_array_equal(deep[6]["image"], np.uint16(200 * 257))
    shallow = Folder(str(tmp_path), "train", channels=1)
    np.testing.assert_array_equal(shallow[0]["image"][..., 0], np.rint(values[0] / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "ending", "says"),
    [
        (np.float32([[0, 255]]), "tiff", "floats from 0 to 255, and image files must hold 0 to 1"),
        (np.float32([[-1, 1]]), "tiff", "floats from -1 to 1"),
        (np.float32([[0, np.nan]]), "tiff", "floats from nan to nan"),
        (np.int32([[-1000, 3000]]), "tiff", "integers from -1000 to 3000, and image files must hold 0 to 65535"),
    ],
)
def test_values_whose_scale_cannot_be_known_are_refused(tmp_path, values, ending, says):
    """They were scaled by their own largest value once, each file in its own way."""
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    with pytest.raises(UserError, match=f"{says}.*data.name=arrays takes any range"):
        Folder(str(tmp_path), "train")


def test_folders_as_people_have_them(tmp_path):
    def image(*parts):
        path = tmp_path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path)

    image("one", "train", "a", "1.png")
    image("one", "train", "b", "1.png")
    source = Folder(str(tmp_path / "one"), "train")
    assert source.class_names == ("a", "b")  # "train" alone is a root, not a class
    (tmp_path / "one" / "train" / "c").mkdir()
    (tmp_path / "one" / "test").mkdir()
    source = Folder(str(tmp_path / "one"), "train")
    assert "sub-folder c" in source.notes[1]
    image("one", "test", "b", "2.png")
    test = Folder(str(tmp_path / "one"), "test")
    assert [test[i]["label"] for i in range(len(test))] == [1]  # numbered as in training
    image("one", "test", "d", "2.png")
    assert (
        "not used: test/ (classes that training images do not have: d)"
        in Folder(str(tmp_path / "one"), "train").notes[0]
    )
    assert len(Folder(str(tmp_path / "one"), "test")) == 0
    with pytest.raises(
        UserError, match=r"data.splits=.* test/ holds classes that training images do not have: d; leave"
    ):
        Folder(str(tmp_path / "one"), "test", splits=("train", "test"))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "x").symlink_to(tmp_path / "one" / "train" / "a")
    (tmp_path / "linked" / "x" / "round").symlink_to(tmp_path / "linked")
    source = Folder(str(tmp_path / "linked"), "train")
    assert (len(source), source.class_names) == (1, ())  # a folder that holds them all is no class


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        Folder(str(tmp_path / "nowhere"), "train")
    with pytest.raises(UserError, match="no images below"):
        Folder(str(tmp_path), "train")
    (tmp_path / "cats").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "cats" / "1.png")
    Image.new("L", (8, 8)).save(tmp_path / "2.png")
    with pytest.raises(UserError, match=r"both loose \(2.png, ...\) and in sub-folders \(cats/1.png"):
        Folder(str(tmp_path), "train")


def test_resize_covers_then_cuts_the_centre():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 255
    np.testing.assert_array_equal(centred(image, 20, 20), 255)
    assert centred(image, 10, 30).shape == (10, 30, 3)
    assert centred(image, 33, 47).shape == (33, 47, 3)
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    small = centred(checks.astype(np.uint8)[..., None], 16, 16)
    assert small[2:-2, 2:-2].std() < 2  # antialiased: a fine checkerboard becomes grey


def test_tfds_reads_prepared_sets(test_data):
    source = Tfds("fashion_mnist", "train", str(test_data / "tfds"))
    assert len(source) == 60_000
    assert source.shape == (28, 28, 1)
    assert source.class_names[9] == "Ankle boot"
    record = source[7]
    assert record["image"].shape == (28, 28, 1)
    assert record["image"].dtype == np.uint8
    assert set(record) == {"image", "label"}


def test_tfds_sets_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"not prepared.*tfds build cifar10 --file_format=array_record --data_dir="):
        Tfds("cifar10", "train", str(tmp_path))
    with pytest.raises(UserError, match="knows no data set 'cifar_ten'"):
        Tfds("cifar_ten", "train", str(tmp_path))


# What metadata says of images besides captions


def described(folder, rows):
    """A folder with an image for each row, whose metadata the rows are."""
    for row in rows:
        file = folder / row["file_name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (10, 20, 30)).save(file)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


ROWS = [
    {"file_name": "train/a.png", "tags": ["dog", "indoors"], "age": 3.5, "weight": 20},
    {"file_name": "train/b.png", "tags": "cat", "age": 1, "weight": 4},
    {"file_name": "train/c.png", "tags": [], "age": -2e-1, "weight": 0},
    {"file_name": "test/d.png", "tags": ["indoors", "cat", "indoors"], "age": 0, "weight": 7},
]


def test_a_folder_has_several_labels_and_numbers(tmp_path):
    root = described(tmp_path, ROWS)
    train, test = (Folder(root, split, labels="tags", scalars=("weight", "age")) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog", "indoors")
    assert train.labels_per_image == test.labels_per_image == 2
    assert [record["label"].tolist() for record in train] == [[1, 2], [0, -1], [-1, -1]]
    assert test[0]["label"].tolist() == [2, 0]
    assert [(record["weight"], record["age"]) for record in train] == [(20, 3.5), (4, 1), (0, np.float32(-0.2))]
    assert train.scalar_names == ("weight", "age")
    assert train.captions == ()


def test_one_label_in_metadata_is_a_class(tmp_path):
    rows = [{"file_name": f"{name}.png", "kind": kind} for name, kind in (("a", "x"), ("b", 7), ("c", ["x"]))]
    source = Folder(described(tmp_path, rows), "train", labels="kind")
    assert (source.class_names, source.labels_per_image) == (("7", "x"), 1)
    assert [record["label"] for record in source] == [1, 0, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tags": None}, "metadata.jsonl line 2 has no 'tags'"),
        ({"tags": ["a", 2.5]}, "line 2 has no 'tags', or one that is neither a label nor a list"),
        ({"age": "old"}, "line 2 has no 'age', or one that is not a number"),
        ({"age": float("nan")}, "line 2 has no 'age'"),
        ({"age": True}, "line 2 has no 'age'"),
    ],
)
def test_metadata_that_lacks_what_is_asked_for_is_refused(tmp_path, change, words):
    rows = [ROWS[0], {**ROWS[1], **change}, *ROWS[2:]]
    with pytest.raises(UserError, match=words):
        Folder(described(tmp_path, rows), "train", labels="tags", scalars=("age",))


def test_held_out_labels_must_be_known(tmp_path):
    for tags, why in (
        (["owl"], "classes that training images do not have: owl"),
        (["dog", "cat", "indoors"], "images of 3 labels, and training images have at most 2"),
    ):
        root = described(tmp_path, [*ROWS[:3], {**ROWS[3], "tags": tags}])
        assert f"not used: test/ ({why})" in Folder(root, "train", labels="tags").notes[0]
        with pytest.raises(UserError, match=f"test/ holds {why}; leave it out"):
            Folder(root, "test", labels="tags", splits=("train", "test"))


def test_columns_that_are_asked_for_need_metadata(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"no metadata\.jsonl or metadata\.csv.*columns tags, age"):
        Folder(str(tmp_path), "train", labels="tags", scalars=("age",))

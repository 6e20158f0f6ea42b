"""Data sets of the `datasets` library, from local files alone."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.kinds import flags
from jdiff.common.errors import UserError
from jdiff.data.decode import Reader
from jdiff.data.holdout import share_of
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.hf import HuggingFace
from tests.conftest import SMALL_DIT, TINY, config, refusal, run_here
from tests.records import assert_same, assert_source

datasets = pytest.importorskip("datasets")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_network_and_a_cache_of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def picture(seed, mode="RGB", size=(7, 6)):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return {"bytes": file.getvalue(), "path": None}


def table(rows=6, **columns):
    """A data set of `rows` rows; columns: name -> (feature, values)."""
    columns = {"image": (datasets.Image(), [encoded(picture(i)) for i in range(rows)])} | columns
    features = datasets.Features({name: feature for name, (feature, _) in columns.items()})
    return datasets.Dataset.from_dict({name: values for name, (_, values) in columns.items()}, features)


CLASSES = datasets.ClassLabel(names=["cat", "dog", "emu"])
FULL = {
    "label": (CLASSES, [0, 1, 2, 2, 1, 0]),
    "caption": (datasets.Value("string"), [f"animal {i}" for i in range(6)]),
    "age": (datasets.Value("float64"), [i / 3 for i in range(6)]),
    "mask": (datasets.Image(), [encoded(picture(i, "1")) for i in range(6)]),
}


def written(folder, **columns):
    folder.mkdir(parents=True, exist_ok=True)
    table(**columns).to_parquet(str(folder / "train.parquet"))
    return str(folder)


def parquet(folder):
    """For the tests of packing."""
    return HuggingFace(
        str(folder / "train.parquet") if (folder / "train.parquet").exists() else written(folder, **FULL),
        "train",
        scalars=("age",),
    )


def test_parquet_with_everything(tmp_path):
    source = HuggingFace(written(tmp_path, **FULL), "train", scalars=("age",))
    assert_source(source)
    assert (len(source), source.shape) == (6, (6, 7, 3))
    assert source.class_names == ("cat", "dog", "emu")
    assert source.captions[3] == "animal 3"
    assert source.pictures["mask"].kind == "mask"
    for i, record in enumerate(source):
        np.testing.assert_array_equal(record["image"], picture(i))
        np.testing.assert_array_equal(record["mask"][..., 0], picture(i, "1").convert("L"))
        assert record["label"] == FULL["label"][1][i]
        assert record["age"] == np.float32(i / 3)
    one_file = HuggingFace(str(tmp_path / "train.parquet"), "train", scalars=("age",))
    assert_same(source[5], one_file[5])


def test_images_are_decoded_as_a_folder_decodes_them(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0).save(files / "a.jpg", exif=exif)
    picture(1, "CMYK").save(files / "b.jpg")
    picture(2, "RGBA").save(files / "c.png")
    Image.fromarray(np.full((5, 5), 40_000, np.uint16)).save(files / "d.png")
    picture(3, "P").save(files / "e.gif")
    stored = [{"bytes": path.read_bytes(), "path": None} for path in sorted(files.iterdir())]
    root = written(tmp_path / "parquet", image=(datasets.Image(), stored))
    for channels in (1, 3, 4):
        ours, folder = HuggingFace(root, "train", channels=channels), Folder(str(files), "train", channels=channels)
        assert ours.shape == (None, None, channels)
        for record, other in zip(ours, folder, strict=True):
            assert_same(record, other)


def test_a_folder_of_images(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name in ("zebra", "ant"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                picture(i).save(tmp_path / split / name / f"{i}.png")
    train, test = (HuggingFace(str(tmp_path), split) for split in ("train", "test"))
    assert_source(test)
    assert (len(train), len(test), train.class_names) == (6, 4, ("ant", "zebra"))
    for record, other in zip(train, Folder(str(tmp_path), "train"), strict=True):
        assert_same(record, other)


def test_splits_saved_to_disk(tmp_path):
    splits = {"train": table(4), "validation": table(2)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both")
    assert [len(HuggingFace(str(tmp_path / "both"), split)) for split in ("train", "test")] == [4, 2]
    table(40).save_to_disk(tmp_path / "one")
    train, test = (HuggingFace(str(tmp_path / "one"), split, holdout=0.1) for split in ("train", "test"))
    assert (len(train), len(test)) == (36, 4)
    for record, row in zip(test, share_of(40, "test", 0.1), strict=True):
        np.testing.assert_array_equal(record["image"], picture(row))
    datasets.DatasetDict({"test": table(2)}).save_to_disk(tmp_path / "test_alone")
    source = HuggingFace(str(tmp_path / "test_alone"), "train")
    assert len(source) == 2
    assert "training on test, the only split: 2 images" in source.notes[0]


def test_columns_are_found_or_asked_for(tmp_path):
    pictures = [encoded(picture(i)) for i in range(6)]
    two = {"fine": (CLASSES, [0] * 6), "coarse": (CLASSES, [1] * 6)}
    root = written(tmp_path / "two", **two)
    source = HuggingFace(root, "train")
    assert source.class_names == ()
    assert "several labels, and none is read: choose with data.labels, fine or coarse" in source.notes[1]
    assert HuggingFace(root, "train", labels="coarse")[0]["label"] == 1
    with pytest.raises(UserError, match="has the labels fine, coarse"):
        HuggingFace(root, "train", labels="other")
    with pytest.raises(UserError, match="has no column 'age'; it has image, fine, coarse"):
        HuggingFace(root, "train", scalars=("age",))
    only = datasets.Dataset.from_dict({"scan": pictures}, datasets.Features({"scan": datasets.Image()}))
    only.save_to_disk(tmp_path / "only")
    assert set(HuggingFace(str(tmp_path / "only"), "train")[0]) == {"image"}
    none = datasets.Dataset.from_dict({"a": [1], "b": ["x"]})
    none.save_to_disk(tmp_path / "none")
    with pytest.raises(UserError, match="has no column 'image' of pictures; it has a, b"):
        HuggingFace(str(tmp_path / "none"), "train")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"image": (datasets.Image(), [encoded(picture(i)) for i in range(5)] + [None])}, "there is no picture"),
        (
            {"image": (datasets.Image(), [encoded(picture(i)) for i in range(5)] + [{"bytes": b"torn", "path": None}])},
            "cannot be read: it is not an image",
        ),
        ({"label": (CLASSES, [0, 1, 2, 0, 1, None])}, "has no 'label'"),
        ({"label": (CLASSES, [0, 1, 2, 0, 1, -1])}, "has no 'label'"),
        ({"text": (datasets.Value("string"), ["a"] * 5 + [None])}, "has no 'text'"),
        ({"age": (datasets.Value("float32"), [1.0] * 5 + [float("nan")])}, "has no 'age', or one that is not a finite"),
        (
            {
                "mask": (
                    datasets.Image(),
                    [encoded(picture(i, "1")) for i in range(5)] + [encoded(picture(0, "1", (14, 6)))],
                )
            },
            "aspect ratio",
        ),
        (
            {"mask": (datasets.Image(), [encoded(picture(i, "1")) for i in range(5)] + [encoded(picture(0, "L"))])},
            "holds .* where masks hold 0, 255",
        ),
    ],
)
def test_bad_rows_are_named_or_counted(tmp_path, column, words):
    root = written(tmp_path, **column)
    options = {"scalars": ("age",) if "age" in column else ()}
    with pytest.raises(UserError, match=rf"hf:{root}, train, row 5 .*{words}.*data\.on_bad_file=skip"):
        HuggingFace(root, "train", **options)
    source = HuggingFace(root, "train", on_bad_file="skip", **options)
    assert_source(source)
    assert len(source) == 5
    assert "skipped 1 of 6 rows" in source.notes[-1]


def test_what_is_missing_is_said_in_a_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="nowhere does not exist"):
        HuggingFace(str(tmp_path / "nowhere"), "train")
    with pytest.raises(
        UserError, match=r"'nobody/nothing' cannot be loaded: .*check its name on huggingface"
    ) as caught:
        HuggingFace("nobody/nothing", "train")
    assert "\n" not in str(caught.value)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1torn")
    with pytest.raises(UserError, match=r"torn\.parquet' cannot be loaded: ") as caught:
        HuggingFace(str(tmp_path / "torn.parquet"), "train")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'needs the library datasets: pip install "jdiff-diffusion\[hf\]"'):
        HuggingFace("mnist", "train")


# Splits


TEXT = datasets.Value("string")
INT = datasets.Value("int64")


def labelled(labels, feature=None, **columns):
    return table(len(labels), label=(feature or datasets.ClassLabel(names=["cat", "dog"]), labels), **columns)


def saved(folder, **splits):
    datasets.DatasetDict(splits).save_to_disk(folder / "set")
    return str(folder / "set")


def both(root, **options):
    return tuple(HuggingFace(root, split, **options) for split in ("train", "test"))


def train_rows():
    return labelled([0, 1] * 20)


SUITS = labelled([0, 1, 1])
HIDDEN = labelled([-1] * 5)


@pytest.mark.parametrize(
    ("splits", "count", "words"),
    [
        ({"train": train_rows(), "validation": SUITS, "test": HIDDEN}, 3, "validation; not used: test (hidden labels)"),
        ({"test": HIDDEN, "validation": SUITS, "train": train_rows()}, 3, "validation; not used: test (hidden labels)"),
        ({"train": train_rows(), "test": labelled([None] * 5)}, 2, "2 of them; not used: test (hidden labels)"),
        ({"train": train_rows(), "test": table(3)}, 2, "2 of them; not used: test (no column 'label')"),
        ({"train": train_rows(), "val": SUITS, "extra": SUITS}, 3, "held out: val; not used: extra"),
        ({"train": train_rows(), "test": SUITS, "validation": HIDDEN}, 3, "held out: test; not used: validation"),
        (
            {"train": train_rows(), "test": labelled([0, 1, 2], datasets.ClassLabel(names=["cat", "dog", "émeu 象"]))},
            2,
            "2 of them; not used: test (classes that train lacks: émeu 象)",
        ),
        ({"training": train_rows(), "testing": labelled([0, 1, -1, 1])}, None, "held out: testing"),
    ],
    ids=["hidden", "another order", "hidden as None", "no label", "extra", "both", "other classes", "one odd"],
)
def test_what_is_held_out_suits_what_is_trained_on(splits, count, words, tmp_path):
    root = saved(tmp_path, **splits)
    train = HuggingFace(root, "train")
    assert f"hf:{root}: training on train" in train.notes[0]
    assert "40 images, 2 classes from 'label'; held out: " in train.notes[0]
    assert words in train.notes[0]
    assert ("data.splits chooses" in train.notes[0]) == ("not used" in train.notes[0])
    if count is None:
        with pytest.raises(UserError, match=r"testing, row 2 has no 'label'.*data\.on_bad_file=skip"):
            HuggingFace(root, "test")
        test, count = HuggingFace(root, "test", on_bad_file="skip"), 3
    else:
        test = HuggingFace(root, "test")
    assert (len(test), len(train)) == (count, 38 if count == 2 else 40)
    assert_source(test)


def test_a_held_out_split_needs_captions_where_training_has_some(tmp_path):
    train = table(6, Caption=(TEXT, ["a cat"] * 6))
    root = saved(tmp_path, train=train, test=table(3, Caption=(TEXT, [None, "", ""])), valid=train.select([4, 2]))
    source, test = both(root)
    assert "no classes, captions from 'Caption'; held out: valid; not used: test (no captions)" in source.notes[0]
    assert test.captions == ("a cat", "a cat")


def test_classes_are_told_apart_by_name_in_each_split(tmp_path):
    turned = labelled([0, 0, 1], datasets.ClassLabel(names=["dog", "cat"]))
    train, test = both(saved(tmp_path, train=train_rows(), test=turned))
    assert train.class_names == test.class_names == ("cat", "dog")
    assert [test[i]["label"] for i in range(3)] == [1, 1, 0]


def test_named_splits(tmp_path):
    root = saved(tmp_path, train=train_rows(), validation=SUITS, test=HIDDEN, more=labelled([0, 1] * 10))
    train, test = both(root, splits=("more", "Validation"))
    assert (len(train), len(test)) == (20, 3)
    assert "training on more: 20 images" in train.notes[0]
    train, test = both(root, splits=("train",))
    assert (len(train), len(test)) == (38, 2)
    with pytest.raises(UserError, match="has no split 'trian'; it has train, validation, test, more; did you mean 'tr"):
        HuggingFace(root, "train", splits=("trian", "test"))
    with pytest.raises(UserError, match="one name, of the training split, or two"):
        HuggingFace(root, "train", splits=("train", "train"))
    # Each way out that the refusal names is one.
    for split in ("train", "test"):
        with pytest.raises(UserError, match="test has hidden labels; leave it out, and a share of train is held out"):
            HuggingFace(root, split, splits=("train", "test"))
    assert len(HuggingFace(root, "test", splits=("train", "test"), labels="none")) == 5
    with pytest.raises(
        UserError, match=r"it has a, b: name the one to train on, as in --config\.data\.splits=\"\('a',"
    ):
        HuggingFace(saved(tmp_path / "other", a=SUITS, b=SUITS), "train")
    assert len(HuggingFace(str(tmp_path / "other" / "set"), "train", splits=("a",))) == 3


def test_a_share_is_held_out_of_each_class_or_group(tmp_path):
    labels = [0] * 60 + [1] * 20
    patients = [f"p{i // 4}" for i in range(80)]
    root = saved(tmp_path, train=labelled(labels, patient=(TEXT, patients)))
    train, test = both(root, holdout=0.1)
    assert (train.class_counts, test.class_counts) == ((54, 18), (6, 2))
    train, test = both(root, holdout=0.1, group="patient")
    taken = {patients[row] for row in test._rows}
    assert len(test) == 8
    assert not taken & {patients[row] for row in train._rows}
    odd = saved(tmp_path / "odd", train=labelled(labels, patient=(TEXT, [*patients[:-1], None])))
    with pytest.raises(UserError, match="row 79 has no 'patient'"):
        HuggingFace(odd, "train", group="patient")
    train, test = both(odd, holdout=0.1, group="patient", on_bad_file="skip")
    assert len(train) + len(test) == 79
    with pytest.raises(UserError, match=r"no column 'patients' \(data\.group\).*did you mean 'patient'"):
        HuggingFace(root, "train", group="patients")


def test_a_column_is_stratified_by_and_no_group_is_on_both_sides(tmp_path):
    sites = ["a"] * 60 + ["b"] * 20
    patients = [f"p{i // 4}" for i in range(80)]
    columns = {"site": (TEXT, sites), "patient": (TEXT, patients)}
    root = saved(tmp_path / "one", train=labelled([0, 1] * 40, **columns))
    for options in ({"stratify": "site"}, {"stratify": "site", "group": "patient"}):
        train, test = both(root, holdout=0.2, **options)
        assert [sites[row] for row in test._rows] == ["a"] * 12 + ["b"] * 4
        assert not {*train.members.values()} & {*test.members.values()} - {""}
    with pytest.raises(UserError, match=r"no column 'sites' \(data.stratify\); .* did you mean 'site'"):
        HuggingFace(root, "train", stratify="sites")
    one = labelled([0, 1] * 4, patient=(TEXT, patients[:8]))
    other = labelled([0, 1] * 4, patient=(TEXT, patients[4:12]))
    for split in ("train", "test"):
        with pytest.raises(
            UserError, match=r"p1 is on both sides .*: train/4 is trained on and test/0 held out .1 group"
        ):
            HuggingFace(saved(tmp_path / "two", train=one, test=other), split, group="patient")
    assert len(HuggingFace(str(tmp_path / "two" / "set"), "test")) == 8
    lacking = saved(tmp_path / "three", train=one, test=labelled([0, 1] * 4))
    with pytest.raises(UserError, match="test has no column 'patient'; leave it out"):
        HuggingFace(lacking, "train", splits=("train", "test"), group="patient")


def test_a_test_split_with_hidden_labels_is_looked_at_and_trained_beside(tmp_path, test_data):
    given = test_data.parent / "field" / "hf_test_labels_hidden" / "data" / "set"
    apart = (datasets.Image(), [encoded(picture(100 + i)) for i in range(16)])
    made = saved(tmp_path, train=train_rows(), validation=labelled([0, 1] * 8, image=apart), test=HIDDEN)
    for root in (made, *([str(given)] if given.is_dir() else [])):
        keys = flags({**SMALL_DIT, "data.name": f"hf:{root}", "log.progress": False, "log.pictures": False})
        options = (config("digits"), *TINY, *keys)
        told = "training on train: 40 images, 2 classes from 'label'; held out: validation; not used: test (hidden"
        looked = run_here("--mode=inspect", *options, "--workdir=look", cwd=tmp_path)
        assert looked.status == 0, looked.err
        assert "40 train, 16 held-out" in looked.out
        assert "Nothing seems wrong" in looked.out
        assert told in " ".join(looked.out.split())
    trained = run_here(*options, "--config.train.steps=2", "--workdir=run", cwd=tmp_path)
    assert trained.status == 0, trained.err
    assert told in trained.out + trained.err
    assert "16 held out" in trained.out
    no = refusal(*options, "--config.data.splits=('train','test')", "--workdir=no", cwd=tmp_path)
    assert "test has hidden labels; leave it out" in no


# Labels


@pytest.mark.parametrize(
    ("feature", "values", "names"),
    [
        (TEXT, ["b", "a", "b", "c", "a", "a"], ("a", "b", "c")),
        (TEXT, ["10", "9", "9", "10", "9", "10"], ("9", "10")),
        (TEXT, ["象", "é", "é", "象", "象", "é"], ("é", "象")),
        (INT, [10, 2, 2, 2, 10, 7], ("2", "7", "10")),
        (INT, [1, 2, 1, 2, 3, 3], ("1", "2", "3")),
        (INT, [-5, 3, 3, -5, -5, 3], ("-5", "3")),
        (datasets.Value("uint8"), [1, 0, 1, 0, 1, 0], ("0", "1")),
        (datasets.Value("bool"), [True, False, True, False, True, True], ("False", "True")),
    ],
)
@pytest.mark.parametrize("column", ["label", "Labels"])
def test_values_that_recur_are_classes(feature, values, names, column, tmp_path):
    root = written(tmp_path, **{column: (feature, values)})
    source = HuggingFace(root, "train")
    assert_source(source)
    assert source.class_names == names
    assert [source.class_names[source[i]["label"]] for i in range(6)] == list(map(str, values))
    assert f"{len(names)} classes from {column!r}" in source.notes[0]
    (said,) = [note for note in source.notes if "which is no ClassLabel" in note]
    assert "data.labels=none reads none" in said
    assert HuggingFace(root, "train", labels="none").class_names == ()
    assert set(HuggingFace(root, "train", labels="none")[0]) == {"image"}


def test_values_that_hardly_recur_are_no_classes_unless_named(tmp_path):
    size = (datasets.Value("float64"), [0.5] * 6)
    root = written(tmp_path, label=(INT, [1, 2, 3, 4, 5, 5]), kind=(TEXT, list("abcdef")), size=size)
    source = HuggingFace(root, "train")
    assert source.class_names == ()
    (said,) = [note for note in source.notes if "too many to be classes" in note]
    assert "'label' holds 5 values in 6 rows" in said
    assert "data.labels=label takes them" in said
    assert HuggingFace(root, "train", labels="label").class_names == ("1", "2", "3", "4", "5")
    assert HuggingFace(root, "train", labels="kind").class_names == tuple("abcdef")
    with pytest.raises(UserError, match=r"data.labels='knd': .* has the labels label, kind; did you mean 'kind'"):
        HuggingFace(root, "train", labels="knd")
    with pytest.raises(UserError, match=r"data.labels='size': .* holds float64, and labels are whole numbers, strings"):
        HuggingFace(root, "train", labels="size")


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (datasets.List(CLASSES), [[0, 2], [2, -1], [], [1], [0, 0], [0, 1, 2]]),
        (datasets.List(TEXT), [["cat", "emu"], ["emu", None], [], ["dog"], ["cat", "cat"], ["cat", "dog", "emu"]]),
        (datasets.List(INT), [[3, 70], [70, -1], [], [8], [3, 3], [3, 8, 70]]),
    ],
)
def test_several_labels_of_a_picture(feature, values, tmp_path):
    source = HuggingFace(written(tmp_path, labels=(feature, values)), "train")
    assert_source(source)
    assert source.class_names in (("cat", "dog", "emu"), ("3", "8", "70"))
    assert source.labels_per_image == 3
    assert source.class_counts == (3, 2, 3)
    expected = [[0, 2, -1], [2, -1, -1], [-1] * 3, [1, -1, -1], [0, -1, -1], [0, 1, 2]]
    for i, labels in enumerate(expected):
        assert source[i]["label"].dtype == np.int32
        assert source[i]["label"].tolist() == labels


def test_labels_that_are_all_hidden_are_none(tmp_path):
    root = saved(tmp_path, test=HIDDEN)
    source = HuggingFace(root, "train")
    assert (len(source), source.class_names) == (5, ())
    assert any("all values of 'label' are missing or -1, so no label is read" in note for note in source.notes)
    with pytest.raises(UserError, match=r"all labels in .* are missing or -1; data.labels=none reads none"):
        HuggingFace(root, "train", labels="label")


def test_a_class_without_an_image_keeps_its_number(tmp_path):
    source = HuggingFace(written(tmp_path, label=(CLASSES, [0, 2, 2, 0, 0, 2])), "train")
    assert (source.class_names, source.class_counts) == (("cat", "dog", "emu"), (3, 0, 3))


# Captions


@pytest.mark.parametrize("column", ["text", "Caption", "captions", "PROMPT"])
def test_captions_alone_or_in_lists(column, tmp_path):
    one = ["a", "b\nc", "", "déjà vu 象", "e", "f"]
    source = HuggingFace(written(tmp_path / "one", **{column: (TEXT, one)}), "train")
    assert source.captions == ("a", "b c", "", "déjà vu 象", "e", "f")
    assert any("1 image with an empty caption (first: row 2)" in note for note in source.notes)
    lists = [["a", "b\nc"], ["d"], ["e", None], ["f", "g", "h"], [""], ["i"]]
    source = HuggingFace(written(tmp_path / "lists", **{column: (datasets.List(TEXT), lists)}), "train")
    assert_source(source)
    assert source.captions == ("a\nb c", "d", "e", "f\ng\nh", "", "i")
    assert any("2 images with several captions" in note for note in source.notes)
    assert f"captions from {column!r}" in source.notes[0]
    with pytest.raises(UserError, match=rf"row 1 has no {column!r}"):
        HuggingFace(written(tmp_path / "bad", **{column: (datasets.List(TEXT), [["a"], [], *[["b"]] * 4])}), "train")


# Pictures as numbers and as paths


def of_numbers(folder, feature, arrays, column="image", **columns):
    features = datasets.Features({column: feature} | {name: kind for name, (kind, _) in columns.items()})
    values = {column: [None if one is None else one.tolist() for one in arrays]}
    data = datasets.Dataset.from_dict(values | {name: given for name, (_, given) in columns.items()}, features)
    folder.mkdir(parents=True, exist_ok=True)
    data.to_parquet(str(folder / "train.parquet"))
    return str(folder)


def lists_of(kind, depth):
    feature = datasets.Value(kind)
    for _ in range(depth):
        feature = datasets.List(feature)
    return feature


ARRAYS = [
    (datasets.Array2D((5, 4), "uint8"), (5, 4), 255, "Image"),
    (datasets.Array3D((5, 4, 3), "uint8"), (5, 4, 3), 255, "img"),
    (datasets.Array3D((5, 4, 4), "int32"), (5, 4, 4), 255, "picture"),
    (lists_of("int64", 2), (5, 4), 255, "Pixels"),
    (lists_of("uint8", 3), (5, 4, 1), 255, "image"),
]


@pytest.mark.parametrize(("feature", "shape", "most", "column"), ARRAYS, ids=[str(one[0])[:30] for one in ARRAYS])
def test_arrays_are_read_as_a_folder_reads_their_files(feature, shape, most, column, tmp_path):
    arrays = [np.random.default_rng(i).integers(0, most + 1, shape).astype(np.uint8) for i in range(4)]
    (tmp_path / "files").mkdir()
    for i, array in enumerate(arrays):
        Image.fromarray(array.squeeze()).save(tmp_path / "files" / f"{i}.png")
    root = of_numbers(tmp_path / "set", feature, arrays, column)
    for channels in (1, 3, 4):
        ours = HuggingFace(root, "train", channels=channels)
        assert_source(ours)
        folder = Folder(str(tmp_path / "files"), "train", channels=channels)
        assert ours.pictures == folder.pictures
        for record, other in zip(ours, folder, strict=True):
            assert_same(record, other)


@pytest.mark.parametrize("feature", [datasets.Array2D((5, 4), "uint16"), lists_of("int64", 2)], ids=["array", "lists"])
def test_arrays_of_sixteen_bits(feature, tmp_path):
    arrays = [np.random.default_rng(i).integers(0, 4096, (5, 4)).astype(np.uint16) for i in range(4)]
    (tmp_path / "files").mkdir()
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / "files" / f"{i}.png")
    root = of_numbers(tmp_path / "set", feature, arrays)
    with pytest.raises(UserError, match=r"numbers from \d+ to \d+, not from 0 to 255: data\.bits=16 keeps") as caught:
        HuggingFace(root, "train")
    assert "on_bad_file" not in str(caught.value)  # it would leave nothing
    for channels in (1, 3):
        ours = HuggingFace(root, "train", bits=16, channels=channels)
        for record, other in zip(
            ours, Folder(str(tmp_path / "files"), "train", bits=16, channels=channels), strict=True
        ):
            assert_same(record, other)
    assert any("data.high=4095" in note for note in ours.notes)


def test_arrays_that_are_no_pictures_are_named(tmp_path):
    whole = [np.zeros((5, 4), np.uint8)] * 5
    for odd, words in (
        (np.full((5, 4), 300), "numbers from 300 to 300"),
        (np.full((5, 4), -1), "numbers from -1 to -1, not from 0 to 255"),
        (None, "there is no picture"),
    ):
        root = of_numbers(tmp_path / words[-6:], lists_of("int64", 2), [*whole, odd])
        with pytest.raises(UserError, match=rf"row 5 cannot be read: .*{words}"):
            HuggingFace(root, "train")
        assert len(HuggingFace(root, "train", on_bad_file="skip")) == 5
    for k, (feature, array, words) in enumerate(
        [
            (
                datasets.Array3D((3, 5, 4), "uint8"),
                np.zeros((3, 5, 7)),
                r"it is \[3, 5, 7\], and pictures are \[h, w\]",
            ),
            (lists_of("float32", 2), np.full((5, 4), 0.5), "numbers that are not whole"),
            (lists_of("uint8", 1), np.zeros(20), r"it is \[20\], and pictures"),
        ]
    ):
        feature = lists_of("uint8", 3) if array.ndim == 3 else feature
        with pytest.raises(UserError, match=words):
            HuggingFace(of_numbers(tmp_path / f"{k}", feature, [array.astype(np.uint8) if k != 1 else array]), "train")


def test_a_mask_as_an_array(tmp_path):
    arrays = [np.random.default_rng(i).integers(0, 256, (5, 4)).astype(np.uint8) for i in range(4)]
    masks = [(array % 3).tolist() for array in arrays]
    root = of_numbers(tmp_path, lists_of("uint8", 2), arrays, mask=(lists_of("int64", 2), masks))
    source = HuggingFace(root, "train")
    assert_source(source)
    assert (source.pictures["mask"].kind, source.pictures["mask"].high) == ("mask", 2)
    np.testing.assert_array_equal(source[2]["mask"][..., 0], masks[2])


def test_paths_start_from_the_data_sets_folder_and_stay_there(tmp_path):
    (tmp_path / "set" / "bilder é").mkdir(parents=True)
    names = [f"bilder é/{i}.png" for i in range(4)]
    for i, name in enumerate(names):
        picture(i).save(tmp_path / "set" / name)
    picture(0).save(tmp_path / "outside.png")
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "outside.png")  # its owner's, and followed as in a folder

    def root(paths):
        data = datasets.Dataset.from_dict({"image": paths})
        data.to_parquet(str(tmp_path / "set" / "train.parquet"))
        return str(tmp_path / "set" / "train.parquet")

    source = HuggingFace(root([*names, "link.png"]), "train")
    assert_source(source)
    for record, i in zip(source, (0, 1, 2, 3, 0), strict=True):
        np.testing.assert_array_equal(record["image"], picture(i))
    for path, words in (
        ("../outside.png", "does not lie in the data set's folder"),
        (str(tmp_path / "outside.png"), "does not lie in the data set's folder"),
        ("https://example.org/1.png", "is an address"),
        ("bilder é/9.png", "'bilder é/9.png': No such file"),
    ):
        bad = root([*names, path])
        with pytest.raises(UserError, match=rf"row 4 cannot be read: .*{words}"):
            HuggingFace(bad, "train")
        assert len(HuggingFace(bad, "train", on_bad_file="skip")) == 4


# As a folder, and from run to run


def test_the_same_files_give_the_bits_and_notes_of_a_folder(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    picture(0, size=(64, 48)).save(files / "a.jpg")
    picture(1, size=(64, 48)).save(files / "b.jpg", quality=30)
    picture(2, size=(64, 48)).save(files / "c.webp", lossless=True)
    frames = [picture(i, size=(64, 48)) for i in range(3)]
    frames[0].save(files / "d.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)).save(files / "e.png")
    stored = [{"bytes": path.read_bytes(), "path": None} for path in sorted(files.iterdir())]
    root = written(tmp_path / "parquet", image=(datasets.Image(), stored))
    for options in ({}, {"near": 8}, {"near": 8, "channels": 1}, {"bits": 16, "channels": 1}):
        ours, folder = HuggingFace(root, "train", **options), Folder(str(files), "train", **options)
        assert ours.pictures == folder.pictures
        np.testing.assert_array_equal(ours.sizes, folder.sizes)
        for record, other in zip(ours, folder, strict=True):
            assert_same(record, other)
        assert "1 image of 3 frames: the first is read" in ours.notes
        assert [note for note in ours.notes[1:] if "frames" not in note] == [
            note for note in folder.notes[1:] if "frames" not in note
        ]
    assert HuggingFace(root, "train", near=8)[0]["image"].shape == (24, 32, 3)


def test_no_picture_is_looked_at_twice(tmp_path, monkeypatch):
    bad = [encoded(picture(i)) for i in range(5)] + [{"bytes": b"torn", "path": None}]
    root = written(tmp_path, image=(datasets.Image(), bad))
    first = HuggingFace(root, "train", on_bad_file="skip")
    look = Reader.look
    looks = []  # at what cannot be read, which a library may read by now
    monkeypatch.setattr(Reader, "look", lambda self, stream: looks.append(1) or look(self, stream))
    again = HuggingFace(root, "train", on_bad_file="skip")
    assert (again.notes, again.pictures, again.left_out) == (first.notes, first.pictures, first.left_out)
    monkeypatch.setattr(Reader, "look", look)
    written(tmp_path, image=(datasets.Image(), [encoded(picture(i, size=(9, 9))) for i in range(6)]))
    assert HuggingFace(root, "train").shape == (9, 9, 3)

"""Data sets of the `datasets` library, from local files alone."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.sources.files import share_of
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.hf import HuggingFace
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
    with pytest.raises(UserError, match="has no split 'train'; it has test"):
        HuggingFace(str(tmp_path / "test_alone"), "train")


@pytest.mark.parametrize(
    ("kind", "values", "names"),
    [("string", ["b", "a", "b", "c", "a", "a"], ("a", "b", "c")), ("int64", [10, 2, 2, 2, 10, 7], ("2", "7", "10"))],
)
def test_a_column_of_values_is_taken_as_classes_where_it_is_named(kind, values, names, tmp_path):
    root = written(tmp_path, label=(datasets.Value(kind), values))
    source = HuggingFace(root, "train")
    assert source.class_names == ()
    (said,) = [note for note in source.notes if "is not a ClassLabel" in note]
    assert "set data.labels=label" in said
    source = HuggingFace(root, "train", labels="label")
    assert source.class_names == names
    assert [source.class_names[source[i]["label"]] for i in range(6)] == list(map(str, values))


def test_columns_are_found_or_asked_for(tmp_path):
    pictures = [encoded(picture(i)) for i in range(6)]
    two = {"fine": (CLASSES, [0] * 6), "coarse": (CLASSES, [1] * 6)}
    root = written(tmp_path / "two", **two)
    source = HuggingFace(root, "train")
    assert source.class_names == ()
    assert "several labels, and none is read: choose with data.labels, fine or coarse" in source.notes[0]
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

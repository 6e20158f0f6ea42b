"""Ten layouts of folders as people have them, each in five variations, read alike from a folder, a .zip and a .tar."""

import json
import os
import tarfile
import unicodedata
import zipfile

import fsspec
import numpy as np
import pytest
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.augment import Turn
from jdiff.data.layout import are_shards, in_order, split_kind, words_of
from jdiff.data.matching import matched
from jdiff.data.resize import Resize
from jdiff.data.sources import Picture
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.pairs import Pairs
from jdiff.data.sources.prepared import prepared
from jdiff.data.views import View
from jdiff.doctor import examine
from tests.records import assert_same, assert_source

PLAIN, UNICODE = ("cat", "dog"), ("żaba", "犬")


def images(folder, count, start=0, form="{:03d}"):
    prefix = f"{folder}/" if folder else ""
    return {f"{prefix}{form.format(i)}.png": i for i in range(start, start + count)}


def classes(folder, names, count=20, below=""):
    found = {}
    for k, name in enumerate(names):
        found |= images(f"{folder}/{name}{below}".lstrip("/"), count, 100 * k)
    return found


def in_file_names(names):
    return {f"{names[i % 2]}_{i:03d}.png": i for i in range(40)}


def dataset_json(names):
    files = images("00000", 20) | images("00001", 20, 20)
    return files | {"dataset.json": json.dumps({"labels": [[file, i % 2] for file, i in files.items()]})}


def sidecars(names):
    files = images("", 40)
    return files | {file.replace(".png", ".txt"): f"a {names[i % 2]}, no. {i}" for file, i in files.items()}


def spreadsheet(names):
    files = images("pictures", 40)
    lines = [f'"pictures\\{file.rpartition("/")[2]}";"a {names[i % 2]}, no. {i}"' for file, i in files.items()]
    return files | {"metadata.csv": "\r\n".join(["FILE_NAME;Text", *lines])}


# Name -> (names of classes -> {file: number of its image, or its text}, what is read).
LAYOUTS = {
    "val loose beside class folders": (
        lambda names: classes("train", names) | images("val", 10, 500),
        {"train": 38, "held_out": 2, "classes": "names", "says": "not used: val/ (10 images without classes)"},
    ),
    "val in one images folder": (
        lambda names: classes("train", names, below="/images") | images("val/images", 10, 500),
        {"train": 38, "held_out": 2, "classes": "names", "says": "not used: val/ (10 images without classes)"},
    ),
    "train beside test1": (
        lambda names: images("train", 30) | images("test1", 10, 500),
        {"train": 30, "held_out": 10, "classes": (), "says": "held out: test1/"},
    ),
    "train beside unlabeled": (
        lambda names: classes("train", names) | images("unlabeled", 10, 500),
        {"train": 38, "held_out": 2, "classes": "names", "says": "not used: unlabeled/"},
    ),
    "shards with dataset.json": (
        dataset_json,
        {"train": 38, "held_out": 2, "classes": ("0", "1"), "says": "2 classes from dataset.json"},
    ),
    "shards": (
        lambda names: images("00000", 20, 0, "{:05d}") | images("01000", 20, 1000, "{:05d}"),
        {"train": 38, "held_out": 2, "classes": (), "says": "look like shards of one set"},
    ),
    "class in file names": (
        in_file_names,
        {"train": 38, "held_out": 2, "classes": (), "says": "file names begin with 2 words"},
    ),
    "classes named by numbers": (
        lambda names: classes("", ("2", "10", "9")),
        {"train": 57, "held_out": 3, "classes": ("2", "9", "10"), "says": "3 classes from its sub-folders"},
    ),
    "captions beside images": (
        sidecars,
        {"train": 38, "held_out": 2, "classes": (), "says": "captions of 40 images from the .txt files", "texts": True},
    ),
    "metadata of a spreadsheet": (
        spreadsheet,
        {"train": 38, "held_out": 2, "classes": (), "says": "parted by semicolons", "texts": True},
    ),
}
VARIATIONS = ("order", "odd file", "nested", "unicode", "empty class")


def written(layout, variation, folder):
    """The names of classes of a layout written into `folder`."""
    names = UNICODE if variation == "unicode" else PLAIN
    files = LAYOUTS[layout][0](names)
    top = folder / "päck" if variation == "nested" else folder
    order = list(files.items())
    for name, content in reversed(order) if variation == "order" else order:
        path = top / (unicodedata.normalize("NFD", name) if variation == "unicode" else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            values = np.random.default_rng(content).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(values).save(path)
        else:
            path.write_text(content, "utf-8")
    if variation == "odd file":
        (top / "Thumbs.db").write_bytes(b"\0" * 10)
        (top / ".DS_Store").write_bytes(b"\0" * 10)
    if variation == "empty class":
        (next(path for path in (top / "train", top) if path.is_dir()) / "nothing").mkdir()
    return names


@pytest.mark.parametrize("variation", VARIATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_rightly(tmp_path, layout, variation):
    names = written(layout, variation, tmp_path / "data")
    expected = LAYOUTS[layout][1]
    train, test = (Folder(str(tmp_path / "data"), split) for split in ("train", "test"))
    assert_source(train)
    assert (len(train), len(test)) == (expected["train"], expected["held_out"]), train.notes
    assert train.class_names == test.class_names == (names if expected["classes"] == "names" else expected["classes"])
    assert expected["says"] in "\n".join(train.notes)
    assert bool(train.captions) == expected.get("texts", False)
    if train.captions:
        assert len(set(train.captions)) == 38
    if variation == "odd file":
        assert any("not read, having no image's extension: 1 .db" in note for note in train.notes)
    if variation == "empty class" and expected["classes"] == "names":
        assert any("sub-folder nothing" in note and "is not a class" in note for note in train.notes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_archives_are_read_in_place_and_alike(tmp_path, layout):
    written(layout, "nested", tmp_path / "data")
    files = [path for path in sorted((tmp_path / "data").rglob("*")) if path.is_file()]
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive, tarfile.open(tmp_path / "data.tar", "w") as tar:
        for file in reversed(files):
            archive.write(file, file.relative_to(tmp_path / "data"))
            tar.add(file, file.relative_to(tmp_path / "data"))
    for split in ("train", "test"):
        folder = Folder(str(tmp_path / "data"), split)
        for ending in ("zip", "tar"):
            packed = Folder(str(tmp_path / f"data.{ending}"), split)
            assert_source(packed)
            assert (len(packed), packed.class_names) == (len(folder), folder.class_names)
            assert packed.captions == folder.captions
            assert [note.replace("data.zip", "data").replace("data.tar", "data") for note in packed.notes] == list(
                folder.notes
            )
            for ours, theirs in zip(packed, folder, strict=True):
                assert_same(ours, theirs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "data.tar", "data.zip"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_doctor_finds_no_fault_in_them(tmp_path, layout):
    written(layout, "order", tmp_path / "data")
    train, test = (Folder(str(tmp_path / "data"), split) for split in ("train", "test"))
    findings = examine(train, test, names=train.names, held_out_names=test.names)
    assert not [one for one in findings.findings if one.severity != "fine"], findings.findings
    assert ": training on " in findings.notes[0]


def test_shards_of_webdataset(tmp_path):
    for k in range(3):
        with tarfile.open(tmp_path / f"set-{k:03d}.tar", "w") as tar:
            for i in range(20 * k, 20 * k + 20):
                stem = tmp_path / f"{i:06d}"
                Image.new("RGB", (8, 8), (i, 0, 0)).save(f"{stem}.png")
                stem.with_suffix(".cls").write_text(str(i % 3))
                stem.with_suffix(".json").write_text(json.dumps({"caption": f"number {i}", "age": i}))
                for ending in (".png", ".cls", ".json"):
                    tar.add(stem.with_suffix(ending), f"{i:06d}{ending}")
                    stem.with_suffix(ending).unlink()
    for where in ("set-{000..002}.tar", "set-*.tar", ""):
        source = Folder(str(tmp_path / where), "train", holdout=0.0, scalars=("age",))
        assert_source(source)
        assert (len(source), source.class_names) == (60, ("0", "1", "2"))
        record = source[41]
        assert (record["image"][0, 0, 0], record["label"], record["text"], record["age"]) == (41, 2, "number 41", 41)
    with pytest.raises(UserError, match=r"there is no .*set-003\.tar"):
        Folder(str(tmp_path / "set-{000..003}.tar"), "train")


def test_archives_by_address(tmp_path):
    """Of any file system that fsspec knows; this one lies in memory."""
    memory = fsspec.filesystem("memory")
    written("captions beside images", "order", tmp_path / "data")
    with memory.open("/set/x.zip", "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        for file in sorted((tmp_path / "data").iterdir()):
            archive.write(file, file.name)
    with memory.open("/set/x-000.tar", "wb") as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for file in sorted((tmp_path / "data").iterdir()):
            tar.add(file, file.name)
    folder = Folder(str(tmp_path / "data"), "train")
    for where in ("memory://set/x.zip", "memory://set/x-{000..000}.tar"):
        for ours, theirs in zip(Folder(where, "train"), folder, strict=True):
            assert_same(ours, theirs)
    with pytest.raises(UserError, match=r"memory://set/none\.zip cannot be read as a \.zip archive"):
        Folder("memory://set/none.zip", "train")
    with pytest.raises(UserError, match="no archive; give a"):
        Folder("memory://set", "train")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.tar.gz", "compressed as a whole.*unpack it"),
        ("a.rar", "compressed as a whole"),
        ("a.txt", "neither a folder nor an archive"),
        ("a.zip", "cannot be read as a .zip archive"),
        ("a.tar", "cannot be read as a .tar archive"),
    ],
)
def test_archives_that_cannot_be_read(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(UserError, match=words):
        Folder(str(tmp_path / name), "train")


def test_names_in_archives_are_names(tmp_path):
    """Nothing is extracted, links are not followed, and a name cannot reach a file outside."""
    Image.new("L", (8, 8), 7).save(tmp_path / "outside.png")
    inside = tmp_path / "a.png"
    Image.new("L", (8, 8), 9).save(inside)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(inside, "../outside.png")
        tar.add(inside, "/etc/a.png")
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside.png")
        tar.addfile(link)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(inside, "../outside.png")
        archive.write(inside, "/etc/a.png")
    for name in ("x.tar", "x.zip"):
        source = Folder(str(tmp_path / name), "train", labels="none")
        assert [int(record["image"][0, 0, 0]) for record in source] == [9, 9]
    assert "1 link or special file" in " ".join(Folder(str(tmp_path / "x.tar"), "train", labels="none").notes)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("10", "9", "2"), ("2", "9", "10")),
        (("b", "a", "10"), ("10", "a", "b")),
        (("01", "1", "2"), ("01", "1", "2")),
    ],
)
def test_whole_numbers_go_by_value(names, says):
    assert in_order(names) == says


def test_names_of_splits():
    kinds = {"train": "train", "Training_Set": "training", "test1": "test", "val2017": "val", "valid_images": "valid"}
    for name, kind in kinds.items():
        assert split_kind(name) == kind
    for name in ("trainer", "testament", "valley", "trains", "contest"):
        assert split_kind(name) == ""


def test_shards_and_classes_are_told_apart():
    digits = [f"{k}/{i}.png" for k in range(10) for i in range(5)]
    people = [f"{k:04d}/{i}.png" for k in range(1, 9) for i in range(5)]
    shards = [f"{k:05d}/img{1000 * k + i:08d}.png" for k in range(3) for i in range(5)]
    assert [are_shards(names) for names in (digits, people, shards)] == [False, False, True]


def test_words_need_several_files_each():
    assert dict(words_of([f"cat.{i}" for i in range(8)] + [f"great dane_{i}" for i in range(8)])) == {
        "cat": 8,
        "great dane": 8,
    }
    for stems in (
        [f"img{i}" for i in range(20)],
        [f"{i:03d}" for i in range(20)],
        [f"name{chr(97 + i)}{i}" for i in range(20)],
    ):
        assert not words_of(stems)


# Oddities of archives and names


def save(path, value=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


def test_names_of_zips_from_windows_and_macos(tmp_path):
    save(tmp_path / "a.png", 7)
    with zipfile.ZipFile(tmp_path / "win.zip", "w") as archive:
        for name in ("cat\\0.png", "dog\\1.png", "cat\\2.png"):
            info = zipfile.ZipInfo("x")
            info.filename = name  # as .NET once wrote it
            archive.writestr(info, (tmp_path / "a.png").read_bytes())
    assert Folder(str(tmp_path / "win.zip"), "train").class_names == ("cat", "dog")
    content = (tmp_path / "win.zip").read_bytes().replace(b"cat\\", "ä-".encode() + b"\\").replace(b"dog\\", b"dog/")
    (tmp_path / "mac.zip").write_bytes(content)  # UTF-8 without its flag
    assert Folder(str(tmp_path / "mac.zip"), "train", labels="none").names[-1].endswith("ä-\\2.png")


def test_hard_links_in_a_tar_are_files(tmp_path):
    save(tmp_path / "x" / "a" / "0.png", 5)
    (tmp_path / "x" / "b").mkdir()
    (tmp_path / "x" / "b" / "1.png").hardlink_to(tmp_path / "x" / "a" / "0.png")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "x", ".")
    source = Folder(str(tmp_path / "x.tar"), "train")
    assert [int(record["image"][0, 0, 0]) for record in source] == [5, 5]
    assert source.class_names == ("a", "b")


def test_a_tar_that_is_written_anew_is_looked_at_anew(tmp_path):
    for number, size in enumerate(((8, 16), (16, 8))):
        save(tmp_path / "0.bmp", 1, size)
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            info = tar.gettarinfo(tmp_path / "0.bmp", "0.bmp")
            info.mtime = 0
            tar.addfile(info, (tmp_path / "0.bmp").open("rb"))
        os.utime(tmp_path / "x.tar", ns=(number, number))
        assert Folder(str(tmp_path / "x.tar"), "train").shape == (*size[::-1], 3)


def test_shards_of_several_splits_and_of_equal_names(tmp_path):
    for split, value in (("train", 1), ("val", 2)):
        for k in range(2):
            with tarfile.open(tmp_path / f"set-{split}-{k:03d}.tar", "w") as tar:
                save(tmp_path / "a.png", value)
                tar.add(tmp_path / "a.png", "0000.png")
            (tmp_path / "a.png").unlink()
    train, test = (Folder(str(tmp_path), split) for split in ("train", "test"))
    assert [int(record["image"][0, 0, 0]) for record in train] == [1, 1]
    assert [int(record["image"][0, 0, 0]) for record in test] == [2, 2]
    assert train.class_names == ()


def test_two_links_to_a_folder_are_two_folders(tmp_path):
    save(tmp_path / "src" / "0.png")
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "src")
    assert Folder(str(tmp_path / "data"), "train").class_names == ("a", "b")


def test_a_folder_whose_name_looks_like_shards(tmp_path):
    save(tmp_path / "st*ar {0..1}" / "0.png")
    assert len(Folder(str(tmp_path / "st*ar {0..1}"), "train")) == 1


@pytest.mark.parametrize("kind", ["dataset.json", "metadata.jsonl"])
def test_a_label_of_minus_one_is_none(tmp_path, kind):
    def write(labels):
        for i in range(len(labels)):
            save(tmp_path / f"{i}.png", i)
        rows = [{"file_name": f"{i}.png", "kind": label} for i, label in enumerate(labels)]
        pairs = {"labels": [[f".\\{i}.png"[2:], label] for i, label in enumerate(labels)]}
        content = json.dumps(pairs) if kind == "dataset.json" else "\n".join(map(json.dumps, rows))
        (tmp_path / kind).write_text(content)
        return Folder(str(tmp_path), "train", labels="" if kind == "dataset.json" else "kind", on_bad_file="skip")

    assert write([3, 10, 2]).class_names == ("2", "3", "10")
    source = write([3, -1, 2])
    assert (len(source), source.class_names) == (2, ("2", "3"))
    source = write([-1, -1, -1])
    assert (len(source), source.class_names) == (3, ())
    assert "-1, which is none" in " ".join(source.notes)


def test_a_dataset_json_of_other_images_is_told(tmp_path):
    save(tmp_path / "00000" / "0.png")
    save(tmp_path / "00001" / "1.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["00000\\0.png", 1], ["00001\\1.png", 0]]}))
    assert Folder(str(tmp_path), "train").class_names == ("0", "1")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["img.png", 1]]}))
    assert "names none of the images (first: img.png)" in " ".join(Folder(str(tmp_path), "train").notes)


@pytest.mark.parametrize(
    ("train", "test", "classes"),
    [
        ("seg_train/seg_train/{}", "seg_test/seg_test/{}", ("sea", "street")),
        ("train/train/{}", "test/test/{}", ("sea", "street")),
        ("DIV2K_train_HR", "DIV2K_valid_HR", ()),
        ("Training Set/{}", "Validation Set/{}", ("sea", "street")),
    ],
)
def test_splits_by_other_names(tmp_path, train, test, classes):
    for form, count in ((train, 3), (test, 2)):
        for name in ("sea", "street"):
            for i in range(count):
                save(tmp_path / form.format(name) / f"{name}{i}.png", i)
    sources = [Folder(str(tmp_path), split) for split in ("train", "test")]
    assert [len(source) for source in sources] == [6, 4]
    assert sources[0].class_names == classes


def test_frames_are_not_masks_of_one_image():
    images = [f"i/f_{k}.png" for k in range(20)] + ["i/f.png"]
    found = matched(images, [f"m/f_{k}.png" for k in range(22)], ("i", "m"), ("", ""))
    assert len(found.pairs) == 20
    assert {name for name, _ in found.lone} == {"i/f.png", "m/f_20.png", "m/f_21.png"}


@pytest.mark.parametrize("raters", [2, 3, 4])
def test_examples_hold_one_raters_mask(tmp_path, raters):
    for i in range(2):
        save(tmp_path / "images" / f"{i}.png", i)
        for k in range(raters):
            mask = np.zeros((8, 8), np.uint8)
            mask[k] = 255
            path = tmp_path / "masks" / f"{i}_{k}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(mask).save(path)
    source = Pairs(str(tmp_path), "train", several="raters")
    masks = frozenset({"mask"})
    view = View(
        target="mask",
        picture=Picture((None, None, 1), kind="mask"),
        resize=Resize("centre", 8, 8, masks=masks),
        turn=Turn(),
        raters=masks,
    )
    for records in (source, prepared(source, view)):
        drawn = {int(view(records[0], np.random.default_rng(k))["x0"][:, 0, 0].argmax()) for k in range(60)}
        assert drawn == set(range(raters))
        assert view(records[0], None)["x0"].sum() == 8 * 255
    assert len(Pairs(str(tmp_path), "test", several="raters")) == 0


def test_no_metadata_in_a_test_folder_is_named(tmp_path):
    save(tmp_path / "train" / "a.png")
    save(tmp_path / "test" / "b.png")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,label\na.png,cat\n")
    source = Folder(str(tmp_path), "train", labels="label")
    assert "not used: test/ (images without metadata)" in source.notes[0]


def test_pairs_are_held_out_of_the_first_split_that_has_any(tmp_path):
    for split in ("train", "test", "val"):
        save(tmp_path / "set" / split / "images" / "a.png")
        if split != "test":
            (tmp_path / "set" / split / "masks").mkdir()
            Image.new("L", (8, 8)).save(tmp_path / "set" / split / "masks" / "a.png")
    (tmp_path / "set" / "test" / "masks").mkdir()
    source = Pairs(str(tmp_path), "train")
    assert "held out: set/val/images and set/val/masks" in source.notes[0]
    assert len(Pairs(str(tmp_path), "test")) == 1


def test_captions_by_other_names(tmp_path):
    for i in range(3):
        save(tmp_path / f"é{i}.png", i)
        (tmp_path / f"{unicodedata.normalize('NFD', f'é{i}')}.CAPTION").write_text(f"number {i}")
    assert Folder(str(tmp_path), "train").captions == ("number 0", "number 1", "number 2")


def test_what_an_empty_folder_holds_instead_is_told(tmp_path):
    for name, words in (("a.npy", "data.name=arrays"), ("a.heic", "convert them"), ("x/a.zip", "name one as data.dir")):
        folder = tmp_path / name.replace("/", "_")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"x")
        with pytest.raises(UserError, match=f"no images below .*{words}"):
            Folder(str(folder), "train")


# Pairs


def test_several_masks_of_an_image(tmp_path):
    """As BUSI has them: x.png, x_mask.png and x_mask_1.png in one folder."""
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"benign ({i}).png")
        for k in range(1 + i % 2):
            mask = np.zeros((8, 8), np.uint8)
            mask[:, k] = 255
            Image.fromarray(mask).save(tmp_path / f"benign ({i})_mask{f'_{k}' if k else ''}.png")
    options = {"folders": ("", ""), "suffixes": ("", "_mask")}
    with pytest.raises(UserError, match=r"benign \(1\)\.png has 2 masks.*data\.several=union"):
        Pairs(str(tmp_path), "train", **options)
    source = Pairs(str(tmp_path), "train", several="union", **options)
    assert_source(source)
    assert [int((record["mask"] > 0).sum()) for record in source] == [8, 16, 8, 16]
    with pytest.raises(UserError, match="as many masks for every image, and there are 1 to 2"):
        Pairs(str(tmp_path), "train", several="raters", **options)


def test_raters_are_kept(tmp_path):
    for i in range(3):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
        for rater in range(4):
            Image.fromarray(np.full((8, 8), 255 * (rater % 2), np.uint8)).save(tmp_path / "masks" / f"{i}_{rater}.png")
    source = Pairs(str(tmp_path), "train", several="raters")
    assert_source(source)
    assert source.pictures["mask"].shape == (8, 8, 4)
    assert source[1]["mask"][0, 0].tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize(
    ("first", "second", "suffixes", "pairs"),
    [
        (["i/1.png", "i/11.png"], ["m/1.png", "m/11.png"], ("", ""), 2),
        (["i/21_training.tif", "i/22_training.tif"], ["m/21_manual1.gif", "m/22_manual1.gif"], ("", ""), 2),
        (
            ["i/01_test.tif", "i/02_test.tif"],
            ["m/01_manual1.gif", "m/02_manual1.gif"],
            ("_training|_test", "_manual1"),
            2,
        ),
        (["i/a.png", "i/a_1.png"], ["m/a.png", "m/a_1.png"], ("", ""), 2),
        (["i/scan.nii.gz"], ["m/scan_seg.nii.gz"], ("", "_seg"), 1),
        (["i/1.png"], ["m/2.png"], ("", ""), 0),
    ],
)
def test_partners_by_name(first, second, suffixes, pairs):
    found = matched(first, second, ("i", "m"), suffixes)
    assert len(found.pairs) == pairs
    assert bool(found.lone) == (pairs == 0)


def test_patients_are_held_out_whole(tmp_path):
    for i in range(60):
        Image.new("L", (8, 8), i).save(tmp_path / f"p{i // 5:02d}_{i:03d}.png")
    train, test = (Folder(str(tmp_path), split, holdout=0.2, group=r"(p\d+)_") for split in ("train", "test"))
    patients = [{name.rpartition("/")[2][:3] for name in source.names} for source in (train, test)]
    assert not patients[0] & patients[1]
    assert (len(train), len(test)) == (50, 10)
    with pytest.raises(UserError, match=r"does not match data.group='\(q\\\\d\+\)_'"):
        Folder(str(tmp_path), "train", group=r"(q\d+)_")
    with pytest.raises(UserError, match="must have one group in parentheses"):
        Folder(str(tmp_path), "train", group="((a))")


def test_each_class_gives_its_share(tmp_path):
    for k, count in enumerate((80, 20)):
        for i in range(count):
            path = tmp_path / f"c{k}" / f"{i:03d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (4, 4), i).save(path)
    assert Folder(str(tmp_path), "test", holdout=0.1).class_counts == (8, 2)

"""Splits that do not cheat: whole groups, strata, published lists, and the split that a run keeps to."""

import csv

import numpy as np
import pytest
from PIL import Image

import jdiff.config
from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.data import split_file
from jdiff.data.holdout import kept_share, share_of
from jdiff.data.ids import Ids
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.pairs import Pairs
from jdiff.training import history
from tests.conftest import TINY_DIT, config, refusal, run_here

QUIET = ("--config.log.tensorboard=false", "--config.log.pictures=false", "--config.log.progress=false")
DATA = ("--config.data.dir=d", "--config.data.image_size=8", "--config.train.steps=1", "--workdir=run")
FOLDER = (config("folder"), *TINY_DIT, *QUIET, *DATA, "--config.data.holdout=0.2")
PAIRS = (*FOLDER, "--config.data.name=pairs")


def picture(path, number=0, mask=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray((values > 127).astype(np.uint8) * (255 if number % 4 else 0) if mask else values).save(path)


def folder(top, count=40, prefix=""):
    """Images of five a patient."""
    for i in range(count):
        picture(top / prefix / f"p{i // 5}_{i:02}.png", i)


def pairs(top, count=40, prefix="", start=0):
    """Pairs of five a patient, a fourth of them with empty masks."""
    for i in range(start, start + count):
        picture(top / prefix / "images" / f"p{i // 5}_{i:02}.png", i)
        picture(top / prefix / "masks" / f"p{i // 5}_{i:02}.png", i, mask=True)


def table(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n")


def names(source):
    return [name.rpartition("/")[2] for name in source.members]


def split_of(run):
    with (run / split_file.FILE).open() as file:
        return {row["image"]: (row["split"], row["group"]) for row in csv.DictReader(file)}


def trained(*arguments, cwd):
    result = run_here(*arguments, cwd=cwd)
    assert result.status == 0, result.err
    return result.out


@pytest.mark.parametrize(("kind", "fill", "key"), [(FOLDER, folder, "file_name"), (PAIRS, pairs, "image")])
def test_a_group_that_cannot_be_read_is_refused_and_each_way_out_works(kind, fill, key, tmp_path):
    fill(tmp_path / "d")
    files = [
        name.removeprefix("d/") for name in sorted(str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*.png"))
    ]
    files = [name for name in files if "masks" not in name]
    missing = refusal(*kind, "--config.data.group=patient", cwd=tmp_path)
    assert (
        "have the columns patient" in missing or "add one that names each image (columns image and patient)" in missing
    )
    table(tmp_path / "d" / "metadata.csv", f"{key},patient", [f"{name},{name[-6]}" for name in files])
    line = refusal(*kind, "--config.data.group=patients", cwd=tmp_path)
    assert "data.group='patients'" in line
    assert "has no such column; it has file_name, patient" in line
    assert "did you mean 'patient'?: name one of them, or leave data.group out" in line
    line = refusal(*kind, r"--config.data.group=(q\d)_", cwd=tmp_path)
    assert "does not match data.group='(q\\\\d)_', nor does another of 40" in line
    assert "change it, or leave it out" in line
    assert "must have one group in parentheses" in refusal(*kind, r"--config.data.group=((p)\d)_", cwd=tmp_path)
    make = Pairs if kind is PAIRS else Folder
    for group in ("patient", r"(p\d)_"):
        train, test = (make(str(tmp_path / "d"), split, group=group, holdout=0.2) for split in ("train", "test"))
        assert not set(train.members.values()) & set(test.members.values())
        assert "whole groups" in train.notes[0]
        assert len(train) + len(test) == 40


@pytest.mark.parametrize(("kind", "fill"), [(FOLDER, folder), (PAIRS, pairs)])
def test_a_split_with_a_group_on_both_sides_is_refused(kind, fill, tmp_path):
    fill(tmp_path / "d", 22, "train")
    inside = {"prefix": "test"} if kind is FOLDER else {"prefix": "test", "start": 20}
    fill(tmp_path / "d", 10, **inside)
    line = refusal(*kind, r"--config.data.group=(p\d)_", cwd=tmp_path)
    assert "is on both sides of the split: train/" in line
    assert ("(2 groups in all)" if kind is FOLDER else "(1 group in all)") in line
    assert "put each group on one side, or leave data.group out" in line
    make = Pairs if kind is PAIRS else Folder
    assert len(make(str(tmp_path / "d"), "test")) == 10  # left out
    for name in {name for name in (tmp_path / "d" / "test").rglob("*.png") if name.name[:2] in ("p0", "p1", "p4")}:
        name.unlink()
    if kind is PAIRS:
        assert len(make(str(tmp_path / "d"), "test", group=r"(p\d)_")) == 5


def test_tables_name_images_of_either_side(tmp_path):
    for prefix, start in (("train", 0), ("test", 20)):
        pairs(tmp_path, 10, prefix, start)
    files = sorted(str(one.relative_to(tmp_path)) for one in tmp_path.rglob("images/*.png"))
    table(tmp_path / "metadata.csv", "image_id;lesion", [f"{name[:-4]};{name[-6:-4]}" for name in files])
    train, test = (Pairs(str(tmp_path), split, group="lesion") for split in ("train", "test"))
    assert set(train.members.values()) == {f"{i:02}" for i in range(10)}
    assert set(test.members.values()) == {str(i) for i in range(20, 30)}
    table(tmp_path / "metadata.csv", "image_id;lesion", [f"{name[:-4]};{name[-6:-4]}" for name in files[1:]])
    with pytest.raises(UserError, match=r"has no 'lesion' in .*: give it one, or leave data.group='lesion' out"):
        Pairs(str(tmp_path), "train", group="lesion")


def test_each_value_gives_its_share_in_whole_groups_too(tmp_path):
    pairs(tmp_path, 80)
    grades = ["a" if i % 10 == 0 else "b" for i in range(80)]
    table(tmp_path / "metadata.csv", "id,grade,site", [f"p{i // 5}_{i:02},{g},{i}" for i, g in enumerate(grades)])
    test = Pairs(str(tmp_path), "test", holdout=0.25, stratify="grade")
    assert sorted(grades[int(name[-6:-4])] for name in names(test)) == ["a"] * 2 + ["b"] * 18
    test = Pairs(str(tmp_path), "test", holdout=0.25, stratify="grade", group=r"(p\d+)_")
    assert sorted(grades[int(name[-6:-4])] for name in names(test)) == ["a"] * 2 + ["b"] * 18
    assert len(set(test.members.values())) == 4
    test = Pairs(str(tmp_path), "test", holdout=0.25, stratify="empty")
    assert sum(int(name[-6:-4]) % 4 == 0 for name in names(test)) == 5
    with pytest.raises(
        UserError, match=r"80 values in 80 images, too many .*column of few values, or leave data.stratify"
    ):
        Pairs(str(tmp_path), "train", stratify="site")
    with pytest.raises(UserError, match=r"data.stratify='grades': .* did you mean 'grade'"):
        Pairs(str(tmp_path), "train", stratify="grades")
    for i in range(80):
        picture(tmp_path / "f" / ("ab"[i % 20 == 0]) / f"p{i // 5}_{i:02}.png", i)
    test = Folder(str(tmp_path / "f"), "test", holdout=0.25, stratify="class", group=r"(p\d+)_")
    assert test.class_counts == (19, 1)
    with pytest.raises(UserError, match="has no classes, or several an image: name a column, or leave it out"):
        Folder(str(tmp_path / "images"), "test", stratify="class")


def test_groups_without_strata_are_drawn_as_before():
    """By the rule that runs of earlier versions were split by."""
    groups = [i // 7 for i in range(200)]
    order = [list(range(7 * k, min(200, 7 * k + 7))) for k in np.random.default_rng(0).permutation(29)]
    chosen: list[int] = []
    for own in order:
        if not chosen or abs(len(chosen) + len(own) - 30) < abs(len(chosen) - 30):
            chosen += own
    assert share_of(200, "test", 0.15, groups=groups) == sorted(chosen)


@pytest.mark.parametrize("form", ["ids", "stems", "paths", "two files", "table", "no header", "semicolons"])
def test_published_lists_are_read(form, tmp_path):
    folder(tmp_path / "d")
    files = sorted(path.name for path in (tmp_path / "d").iterdir())
    held, rest = files[::4], [name for i, name in enumerate(files) if i % 4]
    (tmp_path / "a.txt").write_text("\n".join(rest))
    side = {name: "test" if name in held else "train" for name in files}
    text = {
        "ids": "\n".join(held),
        "stems": "image_id\r\n" + "\r\n".join(name[:-4] for name in held),
        "paths": "\n".join(f"C:\\data\\ISIC\\{name[:-4]}.jpg" for name in held),
        "two files": "\n".join(held) + "\n",
        "table": "split,slide\n" + "\n".join(f"{side[name]},{name}" for name in files),
        "no header": "\n".join(f"{name},{side[name]}" for name in files),
        "semicolons": "image;x;split\n" + "\n".join(f"{name};0;{side[name]}" for name in files),
    }[form]
    (tmp_path / "b.txt").write_text(text)
    paths = f"{tmp_path}/a.txt,{tmp_path}/b.txt" if form == "two files" else f"{tmp_path}/b.txt"
    train, test = (Folder(str(tmp_path / "d"), split, split_list=paths) for split in ("train", "test"))
    assert names(test) == held
    assert names(train) == rest
    assert f"held out: 10 of them, by {paths}" in train.notes[0]
    assert len(train.notes) == 1


def test_lists_that_do_not_fit_are_told_or_refused(tmp_path):
    pairs(tmp_path / "d", 8)
    files = sorted(path.name for path in (tmp_path / "d" / "images").iterdir())

    def asked(*rows, header="image,split", **options):
        table(tmp_path / "list.csv", header, rows)
        return [
            Pairs(str(tmp_path / "d"), side, split_list=str(tmp_path / "list.csv"), **options)
            for side in ("train", "test")
        ]

    rows = [f"{name},{'val' if i > 5 else 'test' if i > 3 else 'train'}" for i, name in enumerate(files)]
    train, test = asked(*rows[1:], "gone1,train", "gone2,test")
    assert (names(train), names(test)) == (files[1:4], files[4:6])
    assert train.notes[1].endswith("not used: val; data.splits chooses")
    assert train.notes[2].endswith(
        "2 ids not among the images (gone1, gone2); 1 image in none of its lists, left out (images/p0_00.png)"
    )
    assert not test.notes
    assert names(asked(*rows, splits=("train", "val"))[1]) == files[6:]
    for change, said in (
        (
            [*rows, f"{files[0]},test"],
            r"images/p0_00.png is in train and in test \(1 images? .*leave each in one of them",
        ),
        ([row for row in rows if "test" not in row and "val" not in row], "no split that is held out, such as 'test'"),
        (
            [*rows[:4], "gone,test"],
            "none of the 1 id of test is an image .the first is gone, the first image images/p0",
        ),
        ([f"{name},test" for name in files], "is left to train on|only split|no split"),
    ):
        with pytest.raises(UserError, match=said):
            asked(*change)
    (tmp_path / "held.txt").write_text(files[0])
    with pytest.raises(UserError, match=r"it names no splits for data.splits=.* to choose from: leave that out"):
        Pairs(str(tmp_path / "d"), "train", split_list=str(tmp_path / "held.txt"), splits=("train", "val"))
    assert names(Pairs(str(tmp_path / "d"), "test", split_list=str(tmp_path / "held.txt"))) == files[:1]
    with pytest.raises(UserError, match="must have an id on each line, or columns image and split"):
        asked(*rows, header="image,age")
    with pytest.raises(UserError, match="must have an id on each line, or columns image and split"):
        asked("test", header="split")
    with pytest.raises(
        UserError, match=r"data.group: p0 is on both sides .*images/p0_00.png is .* and images/p0_04.png"
    ):
        asked(*rows, group=r"(p\d)_")
    with pytest.raises(UserError, match=r"no/list.txt cannot be read: No such file"):
        Pairs(str(tmp_path / "d"), "train", split_list="no/list.txt")
    assert "data.name='digits' takes none; it is for folder, pairs" in refusal(
        config("digits"), *TINY_DIT, "--config.data.split_list=x", "--workdir=w", cwd=tmp_path
    )
    pairs(tmp_path / "e", 4, "train")
    pairs(tmp_path / "e", 4, "test")
    table(tmp_path / "list.csv", "image,split", rows)
    with pytest.raises(
        UserError, match=r"a split of their own, test/images/, too: name one folder of images as data.dir"
    ):
        Pairs(str(tmp_path / "e"), "train", split_list=str(tmp_path / "list.csv"))


def test_an_id_that_may_be_two_files_is_refused():
    ids = Ids(["a/1.png", "b/1.png", "b/2.x.png"])
    assert [ids.find(one, "L") for one in ("a/1", "./b/1.png", "2.x", "x/b/2.x.tif", "2")] == [
        *("a/1.png", "b/1.png", "b/2.x.png", "b/2.x.png", "")
    ]
    with pytest.raises(UserError, match=r"L: 1 may be a/1.png and b/1.png: write it with its folder"):
        ids.find("1", "L")


def sources(run, **data):
    """As --mode=evaluate of the run, and a start with these keys, reads its data."""
    settings = jdiff.config.of_run(run)
    settings.data.update(dir=str(run.parent / "d"), **data)
    return from_config.sources(settings)


def test_a_run_keeps_its_split_and_tells_what_came_and_went(tmp_path):
    folder(tmp_path / "d")
    run = tmp_path / "run"
    trained(*FOLDER, cwd=tmp_path)
    first = split_of(run)
    assert sorted(side for side, _ in first.values()) == ["test"] * 8 + ["train"] * 32
    gone = next(name for name, (side, _) in first.items() if side == "test")
    (tmp_path / "d" / gone).unlink()
    for i in range(3):
        picture(tmp_path / "d" / f"a_{i}.png", 50 + i)  # before the others: a share drawn anew would be another
    said = trained(*FOLDER, "--config.train.steps=2", cwd=tmp_path)
    assert (
        "from step 1 on, the split is kept, of other images: 3 images new, 0 of them held out (a_0.png, a_1.png, "
        f"a_2.png); 1 image gone ({gone})"
    ) in said
    assert "the split is kept" in (run / history.FILE).read_text()
    now = split_of(run)
    assert all(now[name] == one for name, one in first.items() if name != gone)
    assert {now[f"a_{i}.png"][0] for i in range(3)} == {"train"}
    kept = split_file.split_of(*sources(run))
    assert {name: (row.split, row.group) for name, row in kept.items()} == now
    assert not split_file.changed(split_file.read(run), kept)
    # Other keys that decide of it draw it anew, and that is told.
    told = split_file.changed(split_file.read(run), split_file.split_of(*sources(run, group=r"([ap]\d?)_")))
    assert "the split is another: " in told
    assert "changed sides" in told
    # It is a list that another run is split by.
    other = split_file.split_of(*sources(run, split_list=str(run / "split.csv"), holdout=0.5))
    assert {name: row.split for name, row in other.items()} == {name: side for name, (side, _) in now.items()}
    (run / "split.csv").write_text("torn")
    line = refusal(*FOLDER, "--config.train.steps=3", cwd=tmp_path)
    assert "split.csv is damaged" in line
    assert "copy it again, or remove it, and the split is drawn anew" in line
    (run / "split.csv").unlink()
    assert [len(side) for side in sources(run)] == [34, 8]


def test_a_new_image_joins_its_group_and_other_data_are_drawn_anew():
    kept = {f"p{i // 5}_{i}": "test" if i < 5 else "train" for i in range(20)}
    names = [*kept, "p0_x", "p1_x", "q_x"]
    groups = [name.partition("_")[0] for name in names]
    assert [names[row] for row in kept_share(names, "test", kept, groups)] == [*list(kept)[:5], "p0_x"]
    assert kept_share(names, "test", kept) == [0, 1, 2, 3, 4]
    assert kept_share(list(kept)[11:], "test", kept) is None
    assert kept_share(names, "test", {}) is None

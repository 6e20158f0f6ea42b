"""Configs of data sets: each reads a folder of the form that its docstring draws, and makes its task of it."""

import ast
import itertools
import re
import sys
import textwrap
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from jdiff import config, from_config
from jdiff.common.errors import UserError
from jdiff.data.pipeline import fixed_batch
from jdiff.resolve import resolve
from tests.conftest import REPOSITORY

ANIMALS, WOMEN_AND_MEN = ("cat", "dog", "wild"), ("female", "male")
TEN = ("class0", "class1", "class9")  # those that the docstring names
THOUSANDS = ("00000", "01000", "69000")

# name, (width, height) and mode of its pictures, x0, the picture that conditions, class names, whether they condition
FOLDERS = [
    ("ffhq", (128, 128), "RGB", (64, 64, 3), None, (), False),
    ("afhq", (96, 96), "RGB", (64, 64, 3), None, ANIMALS, True),
    ("celeb_a", (178, 218), "RGB", (64, 64, 3), None, (), False),
    ("celeb_a_hq", (256, 256), "RGB", (256, 256, 3), None, (), False),
    ("gender_faces", (75, 91), "RGB", (64, 64, 3), None, WOMEN_AND_MEN, True),
    ("landscape", (150, 90), "RGB", (64, 64, 3), None, (), False),
    ("anime_faces", (90, 93), "RGB", (64, 64, 3), None, (), False),
    ("cifar10_64", (64, 64), "RGB", (64, 64, 3), None, TEN, True),
    ("knee_mri", (160, 160), "L", (128, 128, 1), None, (), False),
    ("brain_mri", (160, 192), "L", (128, 128, 1), None, (), False),
    ("isic2018", (200, 150), "RGB", (128, 128, 1), (128, 128, 3), (), False),
    ("cvc_clinicdb", (192, 144), "RGB", (128, 128, 1), (128, 128, 3), (), False),
    ("facades", (256, 128), "RGB", (128, 128, 3), (128, 128, 3), (), False),
    ("lidc", (128, 128), "L", (128, 128, 1), (128, 128, 1), (), False),
    ("busi", (200, 150), "L", (128, 128, 1), (128, 128, 1), (), False),
    ("drive", (113, 117), "RGB", (512, 512, 1), (512, 512, 3), (), False),
    ("pairs", (200, 150), "RGB", (128, 128, 1), (128, 128, 3), (), False),
]
PREPARED = [("mnist", (28, 28, 1)), ("fashion_mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))]
NAMES = [row[0] for row in (*FOLDERS, *PREPARED)]


def docstring(name):
    return ast.get_docstring(ast.parse((REPOSITORY / "configs" / f"{name}.py").read_text()))


def form(name):
    """The lines of the docstring that draw the folder, {a,b} written out."""
    for line in re.findall(r"^    PATH/(.*?)(?:  .*)?$", docstring(name), re.MULTILINE):
        parts = re.split(r"\{(.*?)\}", line)
        choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
        yield from ("".join(chosen) for chosen in itertools.product(*choices) if "..." not in chosen)


def code(name):
    """The program in the docstring."""
    return textwrap.dedent(re.search(r"(?:^    (?:import|from) .*\n)(?:^    .*\n|^\n)*", docstring(name), re.M)[0])


def picture(size, mode, number):
    """Noise, brighter in a rectangle off the middle; and that rectangle as a mask."""
    rng = np.random.default_rng(number)
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    mask[height // 8 : height // 3 + number % 7, width // 10 : width // 2] = 255
    image = rng.integers(0, 100, (height, width, 3), np.uint8) + (mask[..., None] > 0) * np.uint8(120)
    return Image.fromarray(image).convert(mode), Image.fromarray(mask)


def fill(name, top, size, mode):
    """A folder of the docstring's form; the number of images in it, without their masks."""
    patterns = list(form(name))
    files = 4 if any(pattern.startswith("train") for pattern in patterns) else 20  # of so many, one is held out
    masks = [pattern for pattern in patterns if any(word in pattern for word in ("mask", "Truth", "manual"))]
    for pattern in patterns:
        for number in range(files):
            file = top / pattern.replace("*", f"{number:07}")
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(size, mode, number)[pattern in masks].save(file)
    if name == "cvc_clinicdb":
        rows = [f"{number:07},{number // 4}" for number in range(files)]
        (top / "metadata.csv").write_text("\n".join(["frame_id,sequence_id", *rows]))
    return files * (len(patterns) - len(masks))


def loaded(name, folder, /, **data):
    settings = config.load(REPOSITORY / "configs" / f"{name}.py")
    settings.data.update(dir=str(folder), **data)
    settings.machine.cache = 0.0
    config.check(settings)
    return settings


def assert_task(settings, x0, given, classes, conditions):
    """Both splits give batches of the form that the config promises, and a network takes them. Returns the sources and
    a training batch.
    """
    train, held_out = sources = from_config.sources(settings)
    settings = resolve(settings, train)
    assert (settings.data.shape, settings.data.class_names) == (x0, classes)
    assert settings.model.conditions == conditions
    for source, training in ((held_out, False), (train, True)):
        odd = [note for note in source.notes if ": training on " not in note and "shards of one set" not in note]
        assert not odd
        view = from_config.view(settings, train=training)
        batch = fixed_batch(source, view, 4)
        rows = min(4, len(source))
        assert jax.tree.map(np.shape, batch) == jax.tree.map(np.shape, view.example(rows))
        assert batch["x0"].shape == (rows, *x0)
        assert batch["x0"].dtype == np.uint8
        assert ("image" in batch["cond"]) == (given is not None)
        if given:
            assert batch["cond"]["image"].shape == (rows, *given)
        if "label" in conditions:
            assert set(batch["cond"]["label"]) <= set(range(len(classes)))
    assert from_config.task(settings).network is not None  # sides and heads that divide; else a UserError
    return *sources, batch


@pytest.mark.parametrize(("name", "size", "mode", "x0", "given", "classes", "by_class"), FOLDERS)
def test_a_folder_of_the_docstrings_form_is_read(name, size, mode, x0, given, classes, by_class, tmp_path):
    count = fill(name, tmp_path, size, mode)
    conditions = ("label",) * by_class + ("image",) * (given is not None)
    settings = loaded(name, tmp_path, **({"name": "folder"} if name == "celeb_a" else {}))
    train, held_out, batch = assert_task(settings, x0, given, classes, conditions)
    assert len(train) + len(held_out) == count
    if settings.data.target == "mask":
        mask, image = batch["x0"], batch["cond"]["image"].mean(-1, keepdims=True)
        assert set(np.unique(mask)) == {0, 255}
        assert image[mask == 255].mean() > image[mask == 0].mean() + 80  # flipped and scaled alike


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_give_the_command(name):
    folder = " --config.data.dir=PATH" if list(form(name)) and name != "celeb_a" else ""
    assert f"    python -m jdiff.main --config=configs/{name}.py{folder}\n" in docstring(name) + "\n"


@pytest.mark.parametrize(("name", "x0"), PREPARED)
def test_prepared_sets_are_read(name, x0, test_data):
    settings = loaded(name, test_data / "tfds")
    train, held_out, _ = assert_task(settings, x0, None, from_config.sources(settings)[0].class_names, ("label",))
    assert len(train.class_names) == 10
    assert len(train) > len(held_out) >= 2_000


@pytest.mark.parametrize("name", [*(name for name, _ in PREPARED), "celeb_a"])
def test_sets_that_are_not_prepared_say_the_docstrings_command(name, tmp_path):
    command = f"tfds build {name} --file_format=array_record"
    assert command in docstring(name)
    with pytest.raises(UserError, match=command):
        from_config.sources(loaded(name, tmp_path))


@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_digits_are_never_mirrored(name):
    data = loaded(name, "").data
    assert not any((data.flip, data.flip_vertical, data.quarter_turns, data.augment))


def test_cvc_clinicdb_is_split_by_sequence_or_as_others_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for frame in range(1, 127):  # six sequences
        for kind, of in (("Original", 0), ("Ground Truth", 1)):
            file = tmp_path / "PATH" / "PNG" / kind / f"{frame}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture((16, 12), "RGB", frame)[of].save(file)
    with pytest.raises(UserError, match=r"data.group='sequence_id': .* have no metadata.jsonl or .*add one that names"):
        from_config.sources(loaded("cvc_clinicdb", "PATH"))
    exec(code("cvc_clinicdb"), {})
    rows = [line.split(",") for line in (tmp_path / "PATH" / "metadata.csv").read_text().splitlines()[1:]]
    assert len(rows) == 612
    assert {int(sequence) for _, sequence in rows} == set(range(1, 30))
    ours = [source.members for source in from_config.sources(loaded("cvc_clinicdb", "PATH"))]
    assert {len(set(side.values())) for side in ours} == {1, 5}
    assert not set(ours[0].values()) & set(ours[1].values())
    assert sum(map(len, ours)) == 126
    theirs = [source.members for source in from_config.sources(loaded("cvc_clinicdb", "PATH", group="", holdout=0.1))]
    assert list(map(len, theirs)) == [113, 13]


def test_lidcs_program_keeps_every_radiologists_mask(tmp_path, monkeypatch):
    for patient, nodule, number in itertools.product(("LIDC-IDRI-0001", "LIDC-IDRI-0010"), range(2), range(3)):
        image, mask = picture((128, 128), "L", number)
        folder = tmp_path / "LIDC-IDRI-slices" / patient / f"nodule-{nodule}"
        for part, content in (("images", image), *((f"mask-{rater}", mask) for rater in range(4))):
            (folder / part).mkdir(parents=True, exist_ok=True)
            content.save(folder / part / f"slice-{number}.png")
    monkeypatch.chdir(tmp_path)
    exec(code("lidc"), {})
    train, test, _ = assert_task(loaded("lidc", "PATH"), (128, 128, 1), (128, 128, 1), (), ("image",))
    assert len(train) == len(test) == 2 * 3
    assert train[0]["mask"].shape == (128, 128, 4)
    assert "LIDC-IDRI-0001_nodule-0_slice-0.png" in train.names[0]
    assert "LIDC-IDRI-0010" in test.names[0]


def test_knees_program_makes_images_of_volumes(tmp_path, monkeypatch):
    volume = np.random.default_rng(0).uniform(0, 3e-4, (5, 160, 160)).astype(np.float32)
    for split in ("train", "val"):
        (tmp_path / f"multicoil_{split}").mkdir()
        (tmp_path / f"multicoil_{split}" / "file1.h5").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=lambda file: {"reconstruction_rss": volume}))
    exec(code("knee_mri"), {})
    train, val, _ = assert_task(loaded("knee_mri", "PATH"), (128, 128, 1), None, (), ())
    assert len(train) == len(val) == 5
    np.testing.assert_allclose(train[3]["image"][..., 0], 255 * volume[3] / volume.max(), atol=0.51)

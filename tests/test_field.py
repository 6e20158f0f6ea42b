"""Folders as people have them: each is read rightly, or refused in one line, by the command."""

import pytest

import jdiff
from jdiff import from_config
from jdiff.config import load, override
from jdiff.resolve import resolve
from tests.conftest import TINY_DIT, config, refusal, run_here

SHORT = (*TINY_DIT, "--config.train.steps=2", "--config.checkpoint.every=2", "--config.log.pictures=false")


@pytest.fixture(scope="module")
def field(test_data):
    folder = test_data.parent / "field"
    if not folder.is_dir():
        pytest.skip(f"no folders as people have them in {folder}")
    return folder


@pytest.fixture
def read(field, tmp_path):
    """read(name, *options): (what --mode=inspect says of a folder, what training says, the trained model)."""

    def read(name, *options, size=16):
        options, looked = looked_at(field / name, size, options, tmp_path)
        trained = run_here(*options, *SHORT, "--workdir=run", cwd=tmp_path)
        assert trained.status == 0, trained.err
        return looked, trained.out, jdiff.load(tmp_path / "run")

    return read


@pytest.fixture
def seen(field, tmp_path):
    """seen(name, *options): (what --mode=inspect says of a folder, what its sources say, the config they resolve)."""

    def seen(name, *options, size=16):
        options, looked = looked_at(field / name, size, options, tmp_path)
        settings = override(load("folder"), options[1:])
        train, held_out = from_config.sources(settings)
        notes = (*train.notes, *(held_out.notes if held_out else ()))
        return looked, "\n".join(notes), resolve(settings, train)

    return seen


def looked_at(folder, size, options, cwd):
    """(the arguments of commands on a folder, what --mode=inspect says of it)."""
    data = (f"--config.data.dir={folder}", f"--config.data.image_size={size}", "--config.log.progress=false")
    arguments = (config("folder"), *data, *options)
    looked = run_here("--mode=inspect", *arguments, "--workdir=look", cwd=cwd)
    assert looked.status == 0, looked.err
    return arguments, looked.out


def both(looked, trained, words):
    """Both say it, whatever the lines are broken to."""
    assert words in " ".join(looked.split()), looked
    assert words in " ".join(trained.split()), trained


DEEP = ("--config.data.bits=16", "--config.data.high=4095.0")
TEXTS = ("--config.model.conditions=('text',)", "--config.condition.text.width=8", "--config.condition.text.heads=2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("all_of_one_wide_size", (), (16, 32, 3)),
        ("captions_beside_images/data/txt", TEXTS, (16, 16, 3)),
        ("class_in_file_name", ("--config.data.label_pattern=(.+?)[ _.-]*\\d+",), (16, 16, 3)),
        ("colour_where_sixteen_bits_are_asked", (DEEP[0], "--config.data.channels=3"), (16, 16, 3)),
    ],
)
def test_they_are_trained_on_and_drawn(read, name, options, shape):
    _, trained, model = read(name if "/" in name else f"{name}/data", *options, size=0 if shape[1] == 32 else 16)
    assert f"images {'x'.join(map(str, shape))}" in trained
    assert model.sample(2).shape == (2, *shape)


def test_images_of_one_wide_size(seen):
    *_, settings = seen("all_of_one_wide_size/data", size=0)
    assert tuple(settings.data.shape) == (16, 32, 3)
    assert settings.data.num_images == 38


def test_two_sides_are_taken_too(seen):
    *_, settings = seen("all_of_one_wide_size/data", size="(8,16)")
    assert tuple(settings.data.shape) == (8, 16, 3)


def test_captions_in_files_beside_images(seen):
    looked, trained, settings = seen("captions_beside_images/data/txt", *TEXTS)
    for words in (
        "captions of 39 images from the .txt files",
        "no .txt beside it: 1 image, so the caption is empty (first: ",
        "a .txt read as cp1252, not being UTF-8: 1 image",
        "an empty .txt: 1 image",
        "several captions, one a line, of which each epoch draws one: 1 image",
    ):
        both(looked, trained, words)
    assert settings.data.captions_per_image == 3


def test_lists_of_captions(seen):
    looked, trained, settings = seen("captions_beside_images/data/lists", *TEXTS)
    both(looked, trained, "40 images have several captions, of which each epoch draws one")
    assert settings.data.captions_per_image == 2


def test_the_class_in_a_files_name(seen):
    looked, trained, settings = seen("class_in_file_name/data")
    both(looked, trained, "file names begin with 2 words (cat 20, dog 20)")
    assert settings.data.class_names == ()
    pattern = trained.partition("data.label_pattern='")[2].partition("'")[0]
    _, trained, settings = seen("class_in_file_name/data", f"--config.data.label_pattern={pattern}")
    assert settings.data.class_names == ("cat", "dog")
    assert "2 classes from file names" in trained


def test_classes_named_by_numbers_go_by_value(seen):
    *_, settings = seen("classes_named_by_numbers/data", size=8)
    assert settings.data.class_names == tuple(map(str, range(12)))


def test_colour_where_sixteen_bits_are_asked(seen):
    looked, trained, _ = seen("colour_where_sixteen_bits_are_asked/data", DEEP[0])
    both(looked, trained, "read as grey: data.channels=3 keeps it")
    both(looked, trained, "8 bits a channel in 13 of 28 files")
    *_, settings = seen("colour_where_sixteen_bits_are_asked/data", DEEP[0], "--config.data.channels=3")
    assert (settings.data.dtype, tuple(settings.data.shape)) == ("uint16", (16, 16, 3))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("semicolons", "its columns are parted by semicolons"),
        ("cp1252", "is read as cp1252, not being UTF-8"),
        ("backslashes", "backslashes in 20 file names are read as slashes"),
        ("capitals", "captions"),
    ],
)
def test_metadata_of_spreadsheets(seen, kind, words):
    looked, trained, _ = seen(f"metadata_of_spreadsheets/data/{kind}", *TEXTS)
    both(looked, trained, words)
    assert "20 different" in looked or "19 different" in looked


def test_numbered_shards(seen):
    *_, settings = seen("numbered_shards/data/with_json")
    assert settings.data.class_names == ("0", "1")
    looked, trained, settings = seen("numbered_shards/data/without", size=8)
    both(looked, trained, "look like shards of one set")
    assert settings.data.class_names == ()


def test_pages_and_frames(seen):
    looked, trained, _ = seen("pages_and_frames/data")
    both(looked, trained, "of 4 or 5 pages or frames: the first is read; data.pages=all takes each as a record")
    _, trained, settings = seen("pages_and_frames/data", "--config.data.pages=all", "--config.data.holdout=0.0")
    assert settings.data.num_images == 20 * 5 + 3 * 4


def test_training_folders_beside_others(seen):
    looked, trained, settings = seen("train_beside_other_folders/data/test1")
    both(looked, trained, "training on train/: 30 images, no classes; held out: test1/")
    looked, trained, settings = seen("train_beside_other_folders/data/unlabeled", size=8)
    both(looked, trained, "training on train/: 40 images, 2 classes from its sub-folders; held out: 2 of them")
    both(looked, trained, "not used: unlabeled/")
    assert settings.data.class_names == ("a", "b")


def test_twelve_bits_in_sixteen(seen):
    looked, trained, settings = seen("twelve_bits_in_sixteen/data", *DEEP)
    assert "reach" not in trained
    assert float(looked.partition("model.sigma_data=")[2].split()[0]) == pytest.approx(0.58, abs=0.02)
    assert tuple(settings.data.range) == (0, 4095)


def test_twelve_bits_whose_range_is_not_told(seen):
    looked, trained, _ = seen("twelve_bits_in_sixteen/data", DEEP[0])
    both(looked, trained, "--config.data.high=4095 uses the whole range")


@pytest.mark.parametrize("name", ["val_and_test_in_one_images_folder", "val_loose_beside_class_folders"])
def test_held_out_images_without_classes_are_named(read, field, tmp_path, name):
    looked, trained, model = read(f"{name}/data", size=8)
    assert len(model.config.data.class_names) == 2
    both(looked, trained, " of them; not used: ")
    both(looked, trained, "val/ (2")
    options = (config("folder"), f"--config.data.dir={field / name / 'data'}", "--config.data.splits=('train','val')")
    assert "val/ holds 2" in refusal(*options, *SHORT, "--workdir=other", cwd=tmp_path)


def test_masks_whose_partner_ends_otherwise(seen):
    pairs = ("--config.data.name=pairs", "--config.data.folders=('images','1st_manual')")
    looked, trained, _ = seen("masks_whose_partner_ends_otherwise_in_test/data", *pairs)
    both(looked, trained, "training on 20 pairs of training/images and training/1st_manual; held out: test/images")
    both(looked, trained, "are paired by names without '_training' and '_manual1'")
    both(looked, trained, "are paired by names without '_test' and '_manual1'")

"""Arrays of images in .npy and .npz files."""

import pickle

import numpy as np
import pytest

from jdiff.common.errors import UserError
from jdiff.data.holdout import share_of
from jdiff.data.sources import arrays
from jdiff.data.sources.arrays import Arrays
from tests.records import assert_source

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 6, 5, 4), np.uint8)
LABELS = np.arange(30) % 3


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", ">u2", ">f8", "float16"])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed, "npy"])
def test_numbers_are_kept(tmp_path, dtype, write):
    images = IMAGES.astype(dtype) * (257 if np.dtype(dtype).name == "uint16" else 1)
    path = tmp_path / ("a.npy" if write == "npy" else "a.npz")
    if write == "npy":
        np.save(path, images)
    else:
        write(path, images=images)
    source = Arrays(str(path), "train", holdout=0)
    assert_source(source)
    wanted = {"u": np.dtype(dtype).newbyteorder("="), "f": np.dtype("float32")}[np.dtype(dtype).kind]
    assert source.pictures["image"].dtype == wanted.name
    assert source.shape == (6, 5, 4)
    for i in (0, 17, 29):
        np.testing.assert_array_equal(source[i]["image"], images[i].astype(wanted))
    assert any("compressed" in note for note in source.notes) == (write is np.savez_compressed)


@pytest.mark.parametrize("compressed", [False, True])
def test_files_are_mapped_and_workers_open_them_anew(tmp_path, compressed):
    images = RNG.integers(0, 256, (200, 32, 32, 3), np.uint8)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", images=images, labels=np.arange(200) % 5)
    source = Arrays(str(tmp_path / "a.npz"), "train", holdout=0)
    assert isinstance(source._open.base, np.memmap) != compressed
    pickled = pickle.dumps(source)
    assert len(pickled) < 10_000
    np.testing.assert_array_equal(pickle.loads(pickled)[150]["image"], images[150])


def test_grey_images_and_other_orders_of_memory(tmp_path):
    images = np.asfortranarray(RNG.integers(0, 256, (7, 4, 3), np.uint8))
    np.save(tmp_path / "a.npy", images)
    source = Arrays(str(tmp_path / "a.npy"), "train")
    assert source.shape == (4, 3, 1)
    np.testing.assert_array_equal(source[6]["image"][..., 0], images[6])


def test_labels_and_names_of_classes(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS[:, None])
    source = Arrays(str(tmp_path / "a.npz"), "train", holdout=0)
    assert source.class_names == ("0", "1", "2")
    assert [record["label"] for record in source] == LABELS.tolist()
    np.savez(tmp_path / "b.npz", images=IMAGES, labels=LABELS, class_names=np.array(["ant", "bee", "cat", "dog"]))
    named = Arrays(str(tmp_path / "b.npz"), "train")
    assert_source(named)
    assert named.class_names == ("ant", "bee", "cat", "dog")


def test_a_share_is_held_out_as_of_a_folder(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    train, test = (Arrays(str(tmp_path / "a.npy"), split, holdout=0.2) for split in ("train", "test"))
    assert (len(train), len(test)) == (24, 6)
    for i, row in enumerate(share_of(30, "test", 0.2)):
        np.testing.assert_array_equal(test[i]["image"], IMAGES[row])


SPLIT_NAMES = {
    "medmnist": ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
    "keras": ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
}


@pytest.mark.parametrize("form", ["files", *SPLIT_NAMES])
def test_splits_of_their_own(tmp_path, form):
    parts = [IMAGES[:20], LABELS[:20], IMAGES[20:24], LABELS[20:24], IMAGES[24:], LABELS[24:]]
    path = tmp_path
    if form == "files":
        for k, split in enumerate(("train", "val", "test")):
            np.savez(tmp_path / f"{split}.npz", images=parts[2 * k], labels=parts[2 * k + 1])
    else:
        path = tmp_path / "all.npz"
        np.savez(path, **dict(zip(SPLIT_NAMES[form], parts, strict=True)))
    train, test = Arrays(str(path), "train"), Arrays(str(path), "test")
    assert (len(train), len(test)) == (20, 6)
    np.testing.assert_array_equal(test[5]["image"], IMAGES[29])
    assert test[5]["label"] == LABELS[29]
    assert_source(test)


def test_the_range_of_floats_is_given_or_found(tmp_path, monkeypatch):
    images = np.linspace(-3, 5, 30 * 16, dtype=np.float32).reshape(30, 4, 4)
    np.save(tmp_path / "train.npy", images[:20])
    np.save(tmp_path / "test.npy", images[20:])
    for split in ("train", "test"):  # both as the training images are
        picture = Arrays(str(tmp_path), split).pictures["image"]
        assert (picture.low, picture.high) == (-3, float(images[19].max()))
    assert "20 of 20 images" in Arrays(str(tmp_path), "train").notes[0]
    given = Arrays(str(tmp_path), "train", low=-10, high=10)
    assert (given.pictures["image"].low, given.pictures["image"].high, given.notes) == (-10, 10, ())
    monkeypatch.setattr(arrays, "SAMPLED_BYTES", 5 * 64)
    sampled = Arrays(str(tmp_path), "train")
    assert "5 of 20 images" in sampled.notes[0]
    assert sampled.pictures["image"].low == -3
    np.save(tmp_path / "bits12.npy", np.full((3, 4, 4), 4095, np.uint16))
    twelve = Arrays(str(tmp_path / "bits12.npy"), "train", high=4095).pictures["image"]
    assert (twelve.low, twelve.high) == (0, 4095)
    with pytest.raises(UserError, match=r"data\.low=5 must be less than data\.high=5"):
        Arrays(str(tmp_path), "train", low=5, high=5)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_floats_that_are_not_finite_are_refused(tmp_path, value):
    images = RNG.random((30, 4, 4))
    images[7, 0, 0] = value
    np.save(tmp_path / "a.npy", images)
    if np.isfinite(value):  # it fits no float32
        source = Arrays(str(tmp_path / "a.npy"), "train", holdout=0)
    else:
        with pytest.raises(UserError, match=r"a\.npy holds numbers that are not finite, as in rows \d+ to \d+"):
            Arrays(str(tmp_path / "a.npy"), "train")
        source = Arrays(str(tmp_path / "a.npy"), "train", low=0, high=1, holdout=0)
    source[6]
    with pytest.raises(UserError, match=r"a\.npy row 7 holds numbers that are not finite"):
        source[7]


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"images": np.array([{}, []], dtype=object)}, "holds pickled objects, which are not read"),
        ({"images": IMAGES, "labels": np.array([None] * 30)}, r"'labels'\) is object"),
        ({"images": IMAGES.astype(np.int64)}, "holds int64; save images as uint8, uint16 or float32"),
        ({"images": IMAGES[0, 0]}, r"is \[5, 4\]; images are"),
        ({"images": IMAGES[:0]}, r"is \[0, 6, 5, 4\]; images are"),
        ({"images": np.zeros((2, 3, 32, 32), np.uint8)}, r"channels first; save it as \[n, h, w, c\]"),
        ({"a": IMAGES, "b": IMAGES}, "holds 'a', 'b': call that of the images 'images'"),
        ({"labels": LABELS}, "holds no array"),
        ({"images": IMAGES, "labels": LABELS[1:]}, r"is int64 \[29\]; labels are whole numbers \[30\]"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels are whole numbers"),
        ({"images": IMAGES, "labels": LABELS - 1}, r"holds -1 to 1; classes are 0, 1"),
        ({"images": IMAGES, "labels": LABELS + 2**40}, "classes are 0, 1"),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.array(["a", "b"])}, "the label 2, and there are 2"),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.arange(3)}, "must be text"),
    ],
)
def test_what_are_no_images_is_refused_by_name(tmp_path, contents, words):
    np.savez(tmp_path / "a.npz", **contents)
    with pytest.raises(UserError, match=rf"a\.npz.*{words}"):
        Arrays(str(tmp_path / "a.npz"), "train")


def test_damaged_files_are_refused_by_name(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    np.savez(tmp_path / "a.npz", images=IMAGES)
    np.savez_compressed(tmp_path / "c.npz", images=IMAGES)
    for name in ("a.npy", "a.npz", "c.npz"):
        whole = (tmp_path / name).read_bytes()
        for cut in (0, 5, 50, len(whole) // 2, len(whole) - 1):
            (tmp_path / f"cut_{name}").write_bytes(whole[:cut])
            with pytest.raises(UserError, match=rf"cut_{name}.* cannot be read"):
                Arrays(str(tmp_path / f"cut_{name}"), "train")
    damaged = bytearray((tmp_path / "c.npz").read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (tmp_path / "c.npz").write_bytes(damaged)
    with pytest.raises(UserError, match=r"c\.npz.* cannot be read"):
        Arrays(str(tmp_path / "c.npz"), "train")
    (tmp_path / "p.npy").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match=r"p\.npy cannot be read as a NumPy file"):
        Arrays(str(tmp_path / "p.npy"), "train")


@pytest.mark.parametrize("free", [ValueError("unrecognized configuration name"), None, -1, 0, 1])
def test_compressed_images_are_read_where_the_system_does_not_tell_its_free_memory(tmp_path, monkeypatch, free):
    """macOS knows no SC_AVPHYS_PAGES, Windows no sysconf; -1 is "not told". Too little memory is refused."""

    def sysconf(name):
        if isinstance(free, Exception):
            raise free
        return 4096 if name == "SC_PAGE_SIZE" else free

    if free is None:
        monkeypatch.delattr("os.sysconf")
    else:
        monkeypatch.setattr("os.sysconf", sysconf)
    np.savez_compressed(tmp_path / "c.npz", images=np.zeros((64, 32, 32, 3), np.uint8))
    if isinstance(free, int) and free >= 0:
        with pytest.raises(UserError, match=r"0\.0 GiB of memory are free: save it with np\.savez"):
            Arrays(str(tmp_path / "c.npz"), "train")
        return
    assert len(Arrays(str(tmp_path / "c.npz"), "train", holdout=0.0)) == 64


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_any_damage_is_read_as_it_stands_or_refused_in_one_line(tmp_path, save):
    """Bytes changed in the header and in a zip's directory: 100 files a format."""
    file, rng = tmp_path / ("a.npy" if save is np.save else "a.npz"), np.random.default_rng(0)
    save(file, IMAGES)
    whole, said = file.read_bytes(), []
    for _ in range(100):
        damaged = np.frombuffer(whole, np.uint8).copy()
        for _ in range(3):
            damaged[rng.choice([rng.integers(200), -rng.integers(1, 200)])] = rng.integers(256)
        file.write_bytes(damaged.tobytes())
        try:
            source = Arrays(str(file), "train")
            source.__getitems__(range(len(source)))
        except UserError as error:
            said.append(str(error))
    assert len(said) > 30
    assert all("a.np" in words and "\n" not in words for words in said)


def test_paths_that_are_no_arrays(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Arrays(str(tmp_path / "nowhere.npz"), "train")
    with pytest.raises(UserError, match=r"holds neither train\.npz nor train\.npy"):
        Arrays(str(tmp_path), "train")
    np.savez(tmp_path / "train.npz", images=IMAGES, labels=LABELS)
    np.savez(tmp_path / "test.npz", images=IMAGES)
    with pytest.raises(UserError, match=r"train\.npz \('images'\) has labels and .*test\.npz.* has none"):
        Arrays(str(tmp_path), "test")
    np.savez(tmp_path / "test.npz", images=IMAGES, labels=LABELS + 1)
    with pytest.raises(UserError, match=r"test\.npz.*holds the label 3, and training images have 3 classes"):
        Arrays(str(tmp_path), "test")
    np.savez(tmp_path / "test.npz", images=IMAGES[..., :1], labels=LABELS)
    with pytest.raises(UserError, match="differ in their channels"):
        Arrays(str(tmp_path), "test")

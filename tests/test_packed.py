"""Records packed into array_record files."""

import json
import pickle
import shutil
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.sources import Picture, SplitMissingError
from jdiff.data.sources.arrays import Arrays
from jdiff.data.sources.captioned import encode
from jdiff.data.sources.digits import Digits
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.packed import INDEX, Packed, pack
from jdiff.data.sources.pairs import Pairs
from jdiff.data.sources.tfds import Tfds
from tests.memory_source import Records
from tests.records import assert_same, assert_source

RNG = np.random.default_rng(0)


class Zoo:
    """A source of everything that a record may hold; heights and widths vary."""

    pictures: ClassVar = {
        "image": Picture((None, None, 3)),
        "mask": Picture((None, None, 1), kind="mask", high=7.0),
        "depth": Picture((4, 5, 1), "float32", low=-1.5, high=2.25),
        "scan": Picture((None, 3, 6), "uint16", high=65535.0),
    }
    shape = (None, None, 3)
    class_names = ("a", "b", "\udcff☃")
    labels_per_image = 3
    scalar_names = ("age", "weight")
    notes = ("skipped 1 of 14 files",)
    captions = tuple(f"text {i} é\n" * (i % 3) for i in range(13))

    def __len__(self):
        return 13

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        return {
            "image": rng.integers(0, 256, (i + 1, 3, 3), np.uint8),
            "mask": rng.integers(0, 8, (i + 1, 3, 1), np.uint8),
            "depth": rng.normal(size=(4, 5, 1)).astype(np.float32),
            "scan": rng.integers(0, 65536, (2 * i + 1, 3, 6), np.uint16),
            "label": np.array([i % 3, -1, -1], np.int32),
            "text": self.captions[i],
            "age": np.float32(i / 3),
            "weight": np.float32(-i),
        }

    def __getitems__(self, indices):
        return [self[i] for i in indices]


def zoo(tmp_path):
    return Zoo()


def digits(tmp_path):
    return Digits("test")


def folder(tmp_path):
    rows = []
    for i in range(5):
        Image.fromarray(RNG.integers(0, 256, (6 + i, 7, 3), np.uint8)).save(tmp_path / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": f"number {i}", "age": i / 7, "kind": ["x", "y"][: i % 3]})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Folder(str(tmp_path), "train", labels="kind", scalars=("age",))


def pairs(tmp_path):
    for half, mode in (("images", "RGB"), ("masks", "1")):
        (tmp_path / half).mkdir()
        for i in range(4):
            Image.fromarray(RNG.integers(0, 256, (9, 8, 3), np.uint8)).convert(mode).save(tmp_path / half / f"{i}.png")
    return Pairs(str(tmp_path), "train")


def arrays(tmp_path):
    np.savez(tmp_path / "a.npz", images=RNG.normal(size=(9, 4, 5, 7)), labels=np.arange(9) % 4)
    return Arrays(str(tmp_path / "a.npz"), "train")


def huggingface(tmp_path):
    pytest.importorskip("datasets")
    from tests.test_hf import parquet

    return parquet(tmp_path)


SAID = ("shape", "pictures", "class_names", "labels_per_image", "captions", "scalar_names", "notes")


@pytest.mark.parametrize("make", [zoo, digits, folder, pairs, arrays, huggingface], ids=lambda make: make.__name__)
def test_what_is_packed_is_what_was(tmp_path, make):
    (tmp_path / "source").mkdir()
    source = make(tmp_path / "source")
    assert_source(source)
    pack({"train": source}, tmp_path / "packed", shard_bytes=4_000)
    packed = Packed(str(tmp_path / "packed"), "train")
    assert_source(packed)
    for name in SAID:
        assert getattr(packed, name) == getattr(source, name), name
    everything = range(len(source))
    for record, other in zip(source.__getitems__(everything), packed.__getitems__(everything), strict=True):
        assert_same(record, other)
    backwards = list(everything)[::-1]
    assert_same(packed.__getitems__(backwards)[0], packed[len(source) - 1])


def test_a_prepared_set_of_tfds_is_packed(tmp_path, test_data):
    source = Tfds("cifar10", "test", str(test_data / "tfds"))
    assert_source(source)
    pack({"train": source}, tmp_path / "packed")
    packed = Packed(str(tmp_path / "packed"), "train")
    for name in SAID:
        assert getattr(packed, name) == getattr(source, name), name
    for record, other in zip(source.__getitems__(range(500)), packed.__getitems__(range(500)), strict=True):
        assert_same(record, other)


def test_encoded_captions_are_not_packed(tmp_path):
    source = Digits("test")
    (encoded,) = encode([source], lambda texts: np.arange(len(texts)))
    assert encoded.pictures == source.pictures
    with pytest.raises(ValueError, match="another text than its source's captions, or an encoded one"):
        pack({"train": encoded}, tmp_path / "p")


def test_workers_read_without_jax(tmp_path):
    """Nor do they import the libraries of one source or one transform."""
    pack({"train": Digits("test")}, tmp_path / "p")
    (tmp_path / "source").write_bytes(pickle.dumps(Packed(str(tmp_path / "p"), "train")))
    code = (
        "import pickle, sys; source = pickle.load(open('source', 'rb')); assert len(source.__getitems__([3, 5])) == 2; "
        "import jdiff.data.sources.arrays, jdiff.data.sources.hf, jdiff.data.sources.pairs; "
        "import jdiff.data.edges, jdiff.data.pipeline, jdiff.data.views; "
        "print({'jax', 'torch', 'tensorflow', 'tensorflow_datasets', 'datasets', 'grain', 'pandas', 'scipy', 'sklearn'}"
        " & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr


def test_splits_shards_and_progress(tmp_path):
    seen = []

    def progress(items, total):
        for item in items:
            seen.append(total)
            yield item

    pack({"train": Digits("train"), "test": Digits("test")}, tmp_path / "p", shard_bytes=300 * 72, progress=progress)
    assert seen == [1797] * 1797
    assert len(list((tmp_path / "p").glob("train-*-of-00005.array_record"))) == 5
    train, test = (Packed(str(tmp_path / "p"), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1500, 297)
    assert_same(train[1499], Digits("train")[1499])
    assert_same(test[296], Digits("test")[296])


@pytest.mark.parametrize("varying", [False, True])
def test_few_large_records_are_held_at_a_time(tmp_path, varying):
    class Photos(Records):
        def __getitems__(self, indices):
            asked.append(len(indices))
            return super().__getitems__(indices)

    asked = []
    shape = (None, None, 3) if varying else (1000, 1000, 3)
    photos = Photos([{"image": np.full((1000, 1000, 3), i, np.uint8)} for i in range(12)], {"image": Picture(shape)})
    pack({"train": photos}, tmp_path / "p")
    assert max(asked) == (1 if varying else 5)  # of 16 MiB
    np.testing.assert_array_equal(Packed(str(tmp_path / "p"), "train")[11]["image"], 11)


@pytest.mark.parametrize("folder", ["/proc/nope/x", "/dev/null/x"])
def test_a_folder_that_cannot_be_written_is_named(folder):
    with pytest.raises(UserError, match=f"cannot write to {folder}: .*; make room, or give another folder with --out"):
        pack({"train": Digits("test")}, folder)


def test_a_missing_or_empty_test_set_is_no_fault(tmp_path):
    class Nothing(Zoo):
        def __len__(self):
            return 0

    pack({"train": Zoo(), "test": Nothing()}, tmp_path / "p", shard_bytes=1)
    assert len(Packed(str(tmp_path / "p"), "train")) == 13
    with pytest.raises(SplitMissingError, match="no split 'test'; it has train"):
        Packed(str(tmp_path / "p"), "test")


def test_all_is_written_or_nothing(tmp_path):
    class Breaks(Zoo):
        def __getitem__(self, i):
            if i == 12:
                raise UserError("file 12 is gone")
            return super().__getitem__(i)

    for sources in ({"train": Breaks()}, {"train": Zoo(), "test": Breaks()}):
        with pytest.raises(UserError, match="file 12 is gone"):
            pack(sources, tmp_path / "p")
        assert list(tmp_path.iterdir()) == []
    (tmp_path / ".p.partial").mkdir()  # of a run that was killed
    (tmp_path / ".p.partial" / "train-00000-of-00001.array_record").write_bytes(b"half")
    with pytest.raises(UserError, match=r"holds no index\.json, so it was not packed, or not to the end"):
        Packed(str(tmp_path / ".p.partial"), "train")
    (tmp_path / "p").mkdir()
    pack({"train": Zoo()}, tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    with pytest.raises(UserError, match="exists already"):
        pack({"train": Zoo()}, tmp_path / "p")
    assert_same(Packed(str(tmp_path / "p"), "train")[3], Packed(str(tmp_path / "p"), "train")[3])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": np.zeros((4, 3, 1), np.int64)}, r"record \d+: 'mask' is int64 \[4, 3, 1\], not uint8"),
        ({"depth": np.zeros((4, 6, 1), np.float32)}, r"'depth' is float32 \[4, 6, 1\], not float32 \[4, 5, 1\]"),
        ({"extra": 1}, r"record \d+ holds \['age', 'depth', 'extra', "),
        ({"text": "another"}, "has another text than its source's captions"),
        ({"label": np.array([2**31, 0, 0])}, r"record \d+: "),
    ],
)
def test_a_source_whose_records_are_not_what_it_says(tmp_path, change, words):
    class Wrong(Zoo):
        def __getitem__(self, i):
            return super().__getitem__(i) | change

    with pytest.raises(ValueError, match=words):
        pack({"train": Wrong()}, tmp_path / "p")


@pytest.fixture
def packed(tmp_path):
    pack({"train": Digits("test")}, tmp_path / "p", shard_bytes=150 * 72)
    return tmp_path / "p"


def test_damaged_folders_are_refused_by_name(packed):
    def again():
        Packed(str(packed), "train")

    with pytest.raises(UserError, match="is not a folder"):
        Packed(str(packed / "nowhere"), "train")
    shard = packed / "train-00001-of-00002.array_record"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=rf"00001-of-00002\.array_record has {len(whole) - 1} bytes and should have"):
        again()
    shard.write_bytes(bytes(len(whole)))
    with pytest.raises(UserError, match="p is damaged"):
        again()
    shard.unlink()
    with pytest.raises(UserError, match=r"00001-of-00002\.array_record is missing"):
        again()
    shutil.copy(packed / "train-00000-of-00002.array_record", shard)
    with pytest.raises(UserError):
        again()
    shard.write_bytes(whole)
    again()
    index = json.loads((packed / INDEX).read_text())
    for text, words in (
        ("", r"index\.json is damaged"),
        ("{}", r"index\.json is damaged"),
        ("[1]", r"index\.json is damaged"),
        (json.dumps(index | {"version": 99}), "version 99; this reads .*, version 1"),
        (json.dumps(index | {"splits": {"train": {}}}), r"index\.json is damaged"),
        (json.dumps(index | {"splits": {"train": index["splits"]["train"] | {"captions": ["a"]}}}), "1 texts"),
    ):
        (packed / INDEX).write_text(text)
        with pytest.raises(UserError, match=words):
            again()


def test_a_flipped_bit_is_found_when_it_is_read(packed):
    source = Packed(str(packed), "train")
    shard = packed / "train-00001-of-00002.array_record"
    image = source[200]["image"].tobytes()
    whole = bytearray(shard.read_bytes())
    whole[whole.index(image) + 5] ^= 4
    shard.write_bytes(whole)
    fresh = Packed(str(packed), "train")
    fresh[199]
    with pytest.raises(UserError, match=r"train-00001-of-00002\.array_record is damaged \(.*hash mismatch"):
        fresh.__getitems__([3, 200, 4])

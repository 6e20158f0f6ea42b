"""Records kept in memory: the same ones, read once, and no more than fit."""

import numpy as np
import pytest

from jdiff.data.sources.cached import OVERHEAD, Cached
from jdiff.data.sources.digits import Digits
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.wrapped import Wrapped
from tests.records import assert_same


class Counted(Wrapped):
    """How often each record is read."""

    def __init__(self, source):
        super().__init__(source)
        self.reads = [0] * len(source)

    def __getitems__(self, indices):
        for i in indices:
            self.reads[i] += 1
        return super().__getitems__(indices)


def test_records_are_those_of_the_source():
    source = Digits("test")
    cached = Cached(source, 1e9)
    for name in ("shape", "pictures", "class_names", "labels_per_image", "captions", "scalar_names", "notes"):
        assert getattr(cached, name) == getattr(source, name)
    assert len(cached) == len(source)
    for _ in range(2):
        assert_same(cached[17], source[17])
        for ours, i in zip(cached.__getitems__([5, 3, 5, 296]), (5, 3, 5, 296), strict=True):
            assert_same(ours, source[i])
    with pytest.raises(IndexError):
        cached[297]


def test_each_is_read_once():
    counted = Counted(Digits("test"))
    cached = Cached(counted, 1e9)
    for _ in range(3):
        cached.__getitems__(range(len(cached)))
    assert counted.reads == [1] * 297


def test_no_more_is_kept_than_fits():
    counted = Counted(Digits("test"))
    cached = Cached(counted, 10 * (64 + OVERHEAD))
    for _ in range(3):
        cached.__getitems__(range(len(cached)))
    assert counted.reads == [1] * 10 + [3] * 287


def test_what_is_kept_cannot_be_written_to():
    cached = Cached(Digits("test"), 1e9)
    cached[0]
    with pytest.raises(ValueError, match="read-only"):
        cached[0]["image"][:] = 0


def test_pictures_of_many_sizes(tmp_path):
    from PIL import Image

    for side in (4, 5):
        Image.new("L", (side, side), side).save(tmp_path / f"{side}.png")
    source = Folder(str(tmp_path), "train", channels=1)
    cached = Cached(source, 1e9)
    for _ in range(2):
        assert [record["image"].shape for record in cached.__getitems__([1, 0])] == [(5, 5, 1), (4, 4, 1)]
    assert np.array_equal(cached[0]["image"], source[0]["image"])

"""What every source must do, checked on any of them."""

import pickle

import numpy as np

from jdiff.data.sources import Picture, Source


def assert_same(ours, theirs):
    """The same record, bit for bit, and of the same types."""
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        other = theirs[name]
        if isinstance(value, np.ndarray):
            assert (value.dtype, value.shape) == (other.dtype, other.shape), name
            assert value.tobytes() == other.tobytes(), name
        else:
            assert value == other, name
            assert isinstance(other, type(value)) or isinstance(value, type(other)), name


def assert_source(source):
    """The protocol holds: records are what the source says, read alone, together, and by a copy in another process."""
    assert isinstance(source, Source)
    assert source.shape == source.pictures["image"].shape
    fields = {*source.pictures, *source.scalar_names}
    fields |= {"label"} if source.class_names else set()
    fields |= {"text"} if source.captions else set()
    count = len(source)
    rows = [*range(min(count, 8)), count - 1, 0]
    together = source.__getitems__(rows)
    copy = pickle.loads(pickle.dumps(source))
    for row, record, other in zip(rows, together, copy.__getitems__(rows), strict=True):
        assert set(record) == fields
        assert_same(record, source[row])
        assert_same(record, other)
        for name, picture in source.pictures.items():
            assert isinstance(picture, Picture)
            assert record[name].dtype == picture.dtype
            assert record[name].ndim == 3
            for size, said in zip(record[name].shape, picture.shape, strict=True):
                assert said in (None, size)
        if source.captions:
            assert record["text"] == source.captions[row]
        if source.class_names and source.labels_per_image == 1:
            assert 0 <= record["label"] < len(source.class_names)
        for name in source.scalar_names:
            assert isinstance(record[name], np.float32)

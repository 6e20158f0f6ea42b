"""The order of training images: every one an epoch, no batch of two buckets, classes as often as asked for."""

import pickle
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from jdiff.data.order import Order, Shuffled
from jdiff.data.pipeline import train_batches
from jdiff.data.sources.digits import Digits
from jdiff.data.sources.wrapped import Wrapped, labels
from tests.memory_source import Records

BUCKET = np.repeat([0, 1, 2], [70, 25, 5])
SIZE = 8


def bucketed(seed=0, size=SIZE):
    return Order(BUCKET, np.zeros(100, int), batch_size=size, seed=seed)


def test_shuffled_is_a_new_order_every_epoch():
    stream = Shuffled(10, 3)
    epochs = stream[np.arange(40)].reshape(4, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    np.testing.assert_array_equal(stream[np.array([25, 3, 17])], epochs.ravel()[[25, 3, 17]])


@pytest.mark.parametrize("size", [1, 3, 8, 64, 130])
def test_no_batch_is_mixed_and_every_image_comes_once_an_epoch(size):
    order, epochs = bucketed(size=size), 30
    seen, batches = np.zeros(100, int), Counter()
    for k in range(epochs * 100 // size):
        rows = order[k]
        assert len(set(BUCKET[rows])) == 1
        assert rows.shape == (size,)
        np.add.at(seen, rows, 1)
        batches[int(BUCKET[rows[0]])] += 1
    left_over = 1 + size * 3  # of each bucket less than a batch is carried over
    for number, count in enumerate((70, 25, 5)):
        own = seen[number == BUCKET]
        assert np.ptp(own) <= 1  # within a bucket all are seen alike
        assert abs(own.sum() - epochs * count) < left_over
        assert batches[number] * size == own.sum()


def test_batches_of_buckets_are_mixed_within_an_epoch():
    order = bucketed(size=1)
    first = [int(BUCKET[order[k][0]]) for k in range(100)]
    assert Counter(first) == {0: 70, 1: 25, 2: 5}
    assert first != sorted(first)
    assert first != [int(BUCKET[order[k][0]]) for k in range(100, 200)]


def test_batch_k_is_a_function_of_seed_and_k():
    order = bucketed()
    forwards = [order[k] for k in range(60)]
    fresh = pickle.loads(pickle.dumps(bucketed()))
    for k in (59, 0, 31, 30, 7):
        np.testing.assert_array_equal(fresh[k], forwards[k])
    assert any((bucketed(seed=1)[k] != forwards[k]).any() for k in range(10))
    assert order[10**9].shape == (SIZE,)  # as fast as the first


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_are_drawn_in_proportion_to_a_power_of_their_size(power):
    sizes = np.array([300, 40, 7, 1])
    group = np.repeat([2, 5, 7, 9], sizes)
    order, batches = Order(np.zeros(348, int), group, power=power, batch_size=12, seed=4), 1000
    seen = np.zeros(348, int)
    for k in range(batches):
        np.add.at(seen, order[k], 1)
    drawn = np.array([seen[group == one].sum() for one in (2, 5, 7, 9)])
    wanted = sizes ** (1 - power) / (sizes ** (1 - power)).sum()
    # A class's share of an epoch is off by less than one image over all epochs together, and the last is not whole.
    np.testing.assert_allclose(drawn, 12_000 * wanted, atol=0.5 * 348 * np.sqrt(wanted.max()))
    for one in (2, 5, 7, 9):
        assert np.ptp(seen[group == one]) <= 1 + 348 // (group == one).sum() * (power > 0)


def test_classes_are_exact_over_whole_epochs():
    """348 * 1000 draws: each class has its share to one image, and each image of a class its share of that."""
    sizes = np.array([300, 40, 7, 1])
    group = np.repeat(np.arange(4), sizes)
    order = Order(np.zeros(348, int), group, power=0.5, batch_size=348, seed=4)
    seen = np.zeros(348, int)
    for k in range(50):
        np.add.at(seen, order[k], 1)
    wanted = np.sqrt(sizes) / np.sqrt(sizes).sum()
    drawn = np.array([seen[group == one].sum() for one in range(4)])
    assert (np.abs(drawn - 50 * 348 * wanted) <= 1).all()
    assert all(np.ptp(seen[group == one]) <= 1 for one in range(4))


def test_without_power_a_balanced_order_shows_every_image_once_an_epoch():
    order = Order(np.zeros(100, int), BUCKET, power=0.0, batch_size=10, seed=0)
    for epoch in range(3):
        rows = np.concatenate([order[k] for k in range(10 * epoch, 10 * epoch + 10)])
        np.testing.assert_array_equal(np.sort(rows), np.arange(100))


def test_balance_holds_over_all_buckets():
    """Class 1 is rare and stands in one bucket alone: that bucket comes oftener."""
    bucket, group = np.repeat([0, 1, 1], [60, 30, 10]), np.repeat([0, 0, 1], [60, 30, 10])
    order = Order(bucket, group, power=1.0, batch_size=5, seed=2)
    rows = np.concatenate([order[k] for k in range(400)])
    counts = np.bincount(group[rows])
    assert abs(counts[0] / counts.sum() - 0.5) < 0.01
    in_first = (bucket[rows] == 0).mean()
    assert abs(in_first - 0.5 * 60 / 90) < 0.01
    assert all(len(set(bucket[order[k]])) == 1 for k in range(400))


class Plain:
    """An example is its record."""

    is_random = True

    def __call__(self, record, rng):
        return {"row": record["row"], "drawn": rng.integers(2**31)}


def test_batches_are_the_same_for_all_processes_workers_and_starts():
    source = Records([{"row": np.int64(i), "image": np.zeros((1, 1, 3), np.uint8)} for i in range(100)])

    def batches(start=0, count=20, **how):
        ahead = train_batches(source, Plain(), batch_size=SIZE, seed=5, order=bucketed(5), start=start, **how)
        return list(islice(ahead, count))

    whole = batches()
    for batch, k in zip(whole, range(20), strict=True):
        np.testing.assert_array_equal(batch["row"], bucketed(5)[k])
    for later, first in zip(batches(start=13, count=7), whole[13:], strict=True):
        np.testing.assert_array_equal(later["row"], first["row"])
        np.testing.assert_array_equal(later["drawn"], first["drawn"])
    for processes in (2, 4):
        parts = [batches(process=i, processes=processes, threads=1) for i in range(processes)]
        for k, batch in enumerate(whole):
            for name in ("row", "drawn"):
                np.testing.assert_array_equal(np.concatenate([part[k][name] for part in parts]), batch[name])


def test_labels_are_told_as_records_have_them():
    for source in (Digits("train"), Wrapped(Digits("test"))):
        told = labels(source)
        assert told.dtype == np.int32
        assert told.tolist() == [source[i]["label"] for i in range(len(source))]
    read = Records([{"label": i % 3, "image": np.zeros((1, 1, 3), np.uint8)} for i in range(9)], class_names=("a",) * 3)
    assert labels(read).tolist() == [0, 1, 2] * 3

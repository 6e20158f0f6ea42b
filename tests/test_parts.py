"""Large records are read a few at a time."""

import numpy as np

from jdiff.data.pipeline import fixed_batch
from jdiff.data.resize import Resize
from jdiff.data.sources import Picture
from jdiff.data.sources.in_parts import MOST_BYTES, in_parts
from jdiff.data.views import View
from tests.memory_source import Records


class Measured(Records):
    """The most bytes that were asked for at a time."""

    def __getitems__(self, indices):
        records = super().__getitems__(indices)
        most.append(sum(record["image"].nbytes for record in records))
        return records


most: list[int] = []


def test_no_more_than_so_many_bytes_at_a_time():
    most.clear()
    pictures = {"image": Picture((500, 700, 3))}
    photos = Measured([{"image": np.full((500, 700, 3), i, np.uint8)} for i in range(40)], pictures)
    parts = [part for _, part in in_parts(photos, range(40), photos.__getitems__)]
    assert [record["image"][0, 0, 0] for part in parts for record in part] == list(range(40))
    assert max(most) <= MOST_BYTES
    assert len(most) == len(parts) == 3


def test_a_batch_of_photos_is_never_whole_in_memory():
    most.clear()
    sides = [10] * 20 + [2000] * 20  # small ones first: they say nothing of the others
    photos = Measured([{"image": np.full((side, side, 3), i, np.uint8)} for i, side in enumerate(sides)])
    view = View(picture=Picture((None, None, 3)), resize=Resize("centre", 8, 8))
    batch = fixed_batch(photos, view, 40)
    np.testing.assert_array_equal(batch["x0"][:, 0, 0, 0], range(40))
    assert max(most) == 2000 * 2000 * 3
    held = [
        sum(record["image"].nbytes for record in part) for _, part in in_parts(photos, range(40), photos.__getitems__)
    ]
    assert max(held) < MOST_BYTES + 2000 * 2000 * 3


def test_unreadable_ones_take_nothing():
    nothing = Records([None] * 10)
    assert [part for part, _ in in_parts(nothing, range(10), lambda rows: [None] * len(rows))] == [list(range(10))]

"""uint8 at the border, and grids that a person can see."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jdiff.common import pictures
from jdiff.common.ranges import SCREEN


def test_all_levels_survive_the_way_in_and_out():
    levels = jnp.arange(256, dtype=jnp.uint8)
    inside = SCREEN.to_model(levels)
    assert (float(inside.min()), float(inside.max())) == (-1, 1)
    np.testing.assert_array_equal(SCREEN.from_model(inside), levels)
    np.testing.assert_array_equal(SCREEN.from_model(jnp.array([-3.0, 3.0])), [0, 255])


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 4), (7, 3)])
def test_grids_of_any_channels(tmp_path, channels, shown):
    images = np.full((10, 8, 8, channels), 200, np.uint8)
    grid = pictures.grid(images, columns=5)
    assert grid.shape == (2 * 34 + 2, 5 * 34 + 2, shown)  # 8 pixels are shown as 32
    pictures.save_png(tmp_path / "deep" / "grid.png", grid)
    assert Image.open(tmp_path / "deep" / "grid.png").size == (172, 70)


def test_images_stand_row_by_row():
    images = (np.arange(6, dtype=np.uint8) * 40).reshape(6, 1, 1, 1).repeat(32, 1).repeat(32, 2)
    grid = pictures.grid(images, columns=3)[..., 0]
    assert [grid[18, 18 + 34 * i] for i in range(3)] == [0, 40, 80]
    assert [grid[52, 18 + 34 * i] for i in range(3)] == [120, 160, 200]

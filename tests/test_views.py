"""Views: which picture is modelled, what conditions it, and what its values become."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from jdiff.common.ranges import Range
from jdiff.conditions.image import Image
from jdiff.conditions.label import Label
from jdiff.conditions.scalars import Scalars
from jdiff.data.augment import NonLeaky, Turn
from jdiff.data.edges import XDoG
from jdiff.data.resize import Resize
from jdiff.data.sources import Picture
from jdiff.data.transforms import Grey, Thumbnail
from jdiff.data.views import View
from tests.random_pictures import rng

MASK = Picture((8, 8, 1), kind="mask")
PHOTO = Picture((8, 8, 3))
IMAGE = Image(of="image", picture=PHOTO, sides=(16, 16))


def record(seed=0, side=16):
    """A photo whose red is where its mask is."""
    rng = np.random.default_rng(seed)
    mask = np.where(rng.random((side, side, 1)) < 0.5, 255, 0).astype(np.uint8)
    image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    image[..., :1] = mask
    return {"image": image, "mask": mask, "label": 3, "age": np.float32(0.5)}


def whole(masks=()):
    return Resize("centre", 16, 16, masks=frozenset(masks))


def test_a_mask_is_modelled_and_its_photo_conditions():
    view = View(
        target="mask",
        picture=MASK,
        resize=whole(["mask"]),
        conditions=(IMAGE,),
        turn=Turn(),
    )
    example = view(record(), rng())
    np.testing.assert_array_equal(example["x0"], record()["mask"])
    np.testing.assert_array_equal(example["cond"]["image"], record()["image"])
    assert example["cond"].keys() == {"image"}


@pytest.mark.parametrize("seed", range(8))
def test_what_is_done_is_done_to_both(seed):
    """Mirrored, turned and augmented alike: the photo's red is still where the mask is."""
    view = View(
        target="mask",
        picture=MASK,
        resize=whole(["mask"]),
        turn=Turn(horizontal=True, vertical=True, quarters=True),
        conditions=(IMAGE,),
    )
    example = view(record(seed), rng(seed))
    np.testing.assert_array_equal(example["cond"]["image"][..., :1], example["x0"])


def test_augmentation_is_told_and_leaves_masks_their_values():
    view = View(
        target="mask",
        picture=MASK,
        resize=whole(["mask"]),
        augment=NonLeaky(1.0, frozenset({"mask"})),
        conditions=(IMAGE,),
    )
    example = view(record(), rng(1))
    assert set(np.unique(example["x0"])) <= {0, 255}
    assert example["cond"]["augment"].shape == (9,)
    assert np.abs(example["cond"]["augment"]).max() > 0
    assert view.example(2)["cond"]["augment"].shape == (2, 9)


@pytest.mark.parametrize("make", [Thumbnail(4), Grey(), XDoG()])
def test_what_is_made_of_a_picture_conditions_it(make):
    """Of the picture as it is modelled, after whatever was done to it."""
    view = View(
        picture=PHOTO,
        resize=whole(),
        turn=Turn(horizontal=True),
        conditions=(replace(IMAGE, make=make),),
    )
    for seed in range(4):
        example = view(record(), rng(seed))
        np.testing.assert_array_equal(example["cond"]["image"], make(example["x0"]))


def test_an_example_has_the_form_of_what_comes():
    view = View(
        picture=PHOTO,
        resize=Resize("adm", 8, 12),
        conditions=(
            Label(class_names=tuple("abcd")),
            Image(of="mask", picture=MASK, sides=(8, 12)),
            Scalars(names=("age",)),
        ),
        augment=NonLeaky(0.5),
    )
    made, expected = view(record(), rng()), view.example(1)
    for got, want in (
        (made["x0"], expected["x0"]),
        *((made["cond"][name], expected["cond"][name]) for name in made["cond"]),
    ):
        assert (got.shape, got.dtype) == (want.shape[1:], want.dtype)
    assert made["cond"].keys() == expected["cond"].keys()
    assert pickle.loads(pickle.dumps(view)) == view


@pytest.mark.parametrize(
    ("picture", "values", "expected"),
    [
        (Picture((1, 3, 1), "uint16", high=65535.0), np.uint16([0, 32768, 65535]), [-1, 1 / 65535, 1]),
        (Picture((1, 3, 1), "uint16", high=4095.0), np.uint16([0, 1, 4095]), [-1, 2 / 4095 - 1, 1]),
        (Picture((1, 3, 1), "float32", low=-1000.0, high=3000.0), np.float32([-1000, 1000, 3000]), [-1, 0, 1]),
        (Picture((1, 3, 1), "uint8", kind="mask", high=2.0), np.uint8([0, 1, 2]), [-1, 0, 1]),
    ],
)
def test_other_ranges_are_floats_to_the_model_and_come_back(picture, values, expected):
    floats = picture.range.to_model(values.reshape(1, 3, 1))
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats.ravel(), expected, atol=1e-6)
    back = Range(picture.dtype, picture.low, picture.high)
    np.testing.assert_array_equal(back.from_model(floats).ravel(), values)
    np.testing.assert_allclose(back.to_model(values), floats.ravel(), atol=1e-7)
    assert back.from_model(np.float32([7.0, -7.0])).tolist() == [picture.high, picture.low]


def test_sixteen_bits_all_come_back():
    every = np.arange(65536, dtype=np.uint16)
    values = Range("uint16", 0.0, 65535.0)
    np.testing.assert_array_equal(values.from_model(values.to_model(every)), every)

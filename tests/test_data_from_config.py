"""From a config's keys to batches: what the data say of themselves holds, whatever they are kept in."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jdiff.config
from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.common.ranges import Range
from jdiff.data.pipeline import fixed_batch
from jdiff.data.sources.packed import pack
from jdiff.resolve import resolve
from tests.conftest import REPOSITORY

SIDE = 16


def configured(**data):
    """configs/folder.py with keys of its data group changed, and conditions left out."""
    settings = jdiff.config.load(REPOSITORY / "configs" / "folder.py")
    settings.data.update(image_size=SIDE, holdout=0.0, **data)
    settings.model.conditions = ()
    return settings


def first(settings, count=8):
    """(the resolved config, its first training batch, as held-out ones are)."""
    source, _ = from_config.sources(settings)
    resolved = resolve(settings, source)
    batch = fixed_batch(source, from_config.view(resolved, train=False), count)
    values = Range(resolved.data.dtype, *resolved.data.range)
    assert batch["x0"].dtype == values.dtype
    return resolved, batch


def seen(resolved, images):
    """As the model sees them."""
    return np.asarray(from_config.space(resolved).encode(None, jnp.asarray(images), None))


@pytest.fixture
def pairs(tmp_path):
    """Photos and masks of 0 and 1, of 20x20."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
        mask = (rng.random((4, 4)) < 0.5).repeat(5, axis=0).repeat(5, axis=1)
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    return tmp_path


def of_pairs(pairs, target, **data):
    settings = configured(name="pairs", dir=str(pairs), names=("image", "lesion"), masks=("lesion",), **data)
    settings.data.target = target
    settings.model.conditions = ("image",)
    settings.condition.image.update(of="image" if target == "lesion" else "lesion", view="as_is")
    return settings


def packed(settings, folder):
    source, _ = from_config.sources(settings)
    pack({"train": source}, folder)
    again = settings.copy_and_resolve_references()
    again.data.update(name="array_record", dir=str(folder))
    return again


def test_packed_masks_are_masks_whatever_they_are_called(pairs, tmp_path):
    settings = of_pairs(pairs, "lesion")
    (resolved, straight), (_, batch) = first(settings), first(packed(settings, tmp_path / "packed"))
    assert resolved.data.masks == ("lesion",)
    assert set(np.unique(seen(resolved, batch["x0"]))) == {-1, 1}
    np.testing.assert_array_equal(batch["x0"], straight["x0"])
    np.testing.assert_array_equal(batch["cond"]["image"], straight["cond"]["image"])


def test_a_mask_that_conditions_is_given_to_samples_as_the_data_have_it(pairs):
    resolved, batch = first(of_pairs(pairs, "image"))
    (condition,) = from_config.conditions(resolved)
    masks = batch["cond"]["image"]
    assert set(np.unique(condition.encode(masks))) == {-1, 1}
    np.testing.assert_array_equal(condition.of_caller(masks.astype(int)), masks)
    with pytest.raises(UserError, match="condition images are uint8 from 0 to 255; give uint8 from 0 to 1"):
        condition.of_caller(255 * masks)


def test_grey_is_asked_of_what_conditions_too(pairs, tmp_path):
    settings = of_pairs(pairs, "lesion", channels=1)
    (_, straight), (_, batch) = first(settings), first(packed(of_pairs(pairs, "lesion"), tmp_path / "packed"))
    assert straight["cond"]["image"].shape == (8, SIDE, SIDE, 1)
    assert batch["cond"]["image"].shape == (8, SIDE, SIDE, 3)
    again = of_pairs(pairs, "lesion", channels=1)
    again.data.update(name="array_record", dir=str(tmp_path / "packed"))
    np.testing.assert_array_equal(first(again)[1]["cond"]["image"], straight["cond"]["image"])


def test_opacity_is_weighed_alike_in_every_kind_of_source(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    for i in range(6):
        image = np.random.default_rng(i).integers(0, 256, (24, 24, 4), np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / "train" / f"{i}.png")
    settings = configured(dir=str(tmp_path / "images"), channels=4)
    _, expected = first(settings, 6)
    kinds = [packed(settings, tmp_path / "packed")]
    if pytest.importorskip("datasets"):
        kinds.append(settings.copy_and_resolve_references())
        kinds[-1].data.name = f"hf:{tmp_path / 'images'}"
    for kind in kinds:
        np.testing.assert_array_equal(first(kind, 6)[1]["x0"], expected["x0"])


def arrays(tmp_path, values, **data):
    np.save(tmp_path / "train.npy", values)
    return configured(name="arrays", dir=str(tmp_path / "train.npy"), channels=0, **data)


def test_what_is_beside_a_padded_picture_is_its_darkest_value(tmp_path):
    values = np.random.default_rng(0).uniform(10, 20, (6, 8, 16, 2)).astype(np.float32)
    resolved, batch = first(arrays(tmp_path, values, resize="pad", low=10.0, high=20.0))
    x0 = seen(resolved, batch["x0"])
    np.testing.assert_array_equal(x0[:, :4], -1)
    assert x0.min() == -1


@pytest.mark.parametrize("view", ["xdog", "grey", "thumbnail"])
def test_sketches_are_black_to_white_whatever_the_photos_range(tmp_path, view):
    values = np.random.default_rng(0).integers(0, 101, (6, SIDE, SIDE, 3), np.uint8)
    settings = arrays(tmp_path, values, low=0.0, high=100.0)
    settings.model.conditions = ("image",)
    settings.condition.image.view = view
    resolved, batch = first(settings)
    (condition,) = from_config.conditions(resolved)
    image = condition.encode(batch["cond"]["image"])
    assert -1 <= image.min() < image.max() <= 1
    assert (
        batch["cond"]["image"].shape[1:] == from_config.view(resolved, train=True).example(1)["cond"]["image"].shape[1:]
    )


@pytest.mark.parametrize(("channels", "view"), [(2, "grey"), (5, "xdog"), (2, "canny")])
def test_sketches_of_other_channels_are_refused_at_the_start(tmp_path, channels, view):
    settings = arrays(tmp_path, np.zeros((6, SIDE, SIDE, channels), np.uint8))
    settings.model.conditions = ("image",)
    settings.condition.image.view = view
    with pytest.raises(UserError, match=f"has {channels} channels: set --config.condition.image.view=as_is"):
        first(settings)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"bits": 12}, "data.bits=12 must be 8 or 16"),
        ({"bits": 16, "channels": 4}, "are read as grey .1. or colour .3."),
        ({"name": "digits:small"}, "digits takes no name"),
        ({"low": 5.0, "high": 5.0}, "data.low=5 must be below data.high=5"),
        ({"name": "pairs", "folders": ("images",)}, "data.folders=.*two are needed"),
        ({"name": "pairs", "suffixes": ("", "", "_m")}, "data.suffixes=.*two are needed"),
        ({"name": "pairs", "mask_values": (0, 300)}, "data.mask_values=.*at least two whole numbers from 0 to 255"),
    ],
)
def test_keys_that_cannot_be_are_refused(pairs, data, says):
    data = {"name": "folder", "dir": str(pairs / "images"), **data}
    if data["name"] == "pairs":
        data["dir"] = str(pairs)
    with pytest.raises(UserError, match=says):
        first(configured(**data))

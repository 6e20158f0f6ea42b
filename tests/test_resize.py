"""Resize rules, against their definitions restated here, and against coordinates planted in the pictures."""

import pickle
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jdiff.common.errors import UserError
from jdiff.data.resize import Resize
from tests.random_pictures import noise, rng

RULES = ("centre", "adm", "random_crop", "pad", "squash")
SIZES = [(37, 53), (64, 64), (200, 90), (5, 7), (16, 24), (1, 1)]


def resized(picture, rule, height, width, seed=0, **options):
    return Resize(rule, height, width, **options)({"image": picture}, rng(seed))["image"]


def coordinates(h, w, by=1.0):
    """Every pixel holds where its middle lies, in pixels of a picture `by` times as large."""
    return ((np.stack(np.mgrid[:h, :w], axis=-1) + 0.5) * by).astype(np.float32)


def bicubic(plane, size, box):
    """Keys' interpolation (a = -1/2), its kernel widened where it shrinks, by matrices in double precision."""

    def weights(length, wanted, first, last):
        scale = (last - first) / wanted
        widening = max(scale, 1)
        at = first + (np.arange(wanted)[:, None] + 0.5) * scale - (np.arange(length) + 0.5)
        d = np.abs(at / widening)
        kernel = np.where(d < 1, 1.5 * d**3 - 2.5 * d**2 + 1, np.where(d < 2, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, 0))
        return kernel / kernel.sum(axis=1, keepdims=True)

    top, left, bottom, right = box
    down, across = weights(plane.shape[0], size[0], top, bottom), weights(plane.shape[1], size[1], left, right)
    return down @ plane.astype(np.float64) @ across.T


def adm(picture, size, shorter, y=None, x=None):
    """Dhariwal & Nichol's crop of an RGB picture: the shorter side brought to `shorter`, then size x size of it."""
    image = Image.fromarray(picture)
    while min(image.size) // (2 * shorter):
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    factor = shorter / min(image.size)
    image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    y, x = ((image.height - size) // 2, (image.width - size) // 2) if y is None else (y, x)
    if y + size > image.height or x + size > image.width:
        return None
    return np.asarray(image.crop((x, y, x + size, y + size)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wanted", [8, 24, 64])
def test_adm_is_the_published_crop(size, wanted):
    picture = noise(*size, 3)
    np.testing.assert_array_equal(resized(picture, "adm", wanted, wanted), adm(picture, wanted, wanted))


def test_random_crop_is_one_of_the_published_crops_and_each_comes():
    picture, wanted = noise(23, 31, 3), 8  # halved to 11 x 15 where the drawn side is 8 .. 11
    crops = {}
    for shorter in (8, 9, 10):
        for y, x in product(range(8), range(8)):
            crop = adm(picture, wanted, shorter, y, x)
            if crop is not None:
                crops[crop.tobytes()] = (shorter, y, x)
    drawn = [crops[resized(picture, "random_crop", wanted, wanted, seed).tobytes()] for seed in range(2500)]
    shares = [np.mean([d[0] == shorter for d in drawn]) for shorter in (8, 9, 10)]
    np.testing.assert_allclose(shares, 1 / 3, atol=4 * np.sqrt(2 / 9 / 2500))
    assert set(drawn) == set(crops.values())


@pytest.mark.parametrize(("height", "width"), [(12, 24), (30, 20), (40, 40)])
def test_adm_of_an_oblong_covers_it_and_cuts_the_middle(height, width):
    """The middle of the picture stays in the middle, and one side is kept whole."""
    h, w = 60, 90
    y, x = np.moveaxis(resized(coordinates(h, w), "adm", height, width), -1, 0)
    scale = max(height / h, width / w)
    inner = np.s_[3:-3, 3:-3]
    np.testing.assert_allclose(np.diff(y, axis=0)[inner], 1 / scale, atol=0.05)
    np.testing.assert_allclose(np.diff(x, axis=1)[inner], 1 / scale, atol=0.05)
    assert y[height // 2 - 1 : height // 2 + 1].mean() == pytest.approx(h / 2, abs=0.5 / scale)
    assert x[:, width // 2 - 1 : width // 2 + 1].mean() == pytest.approx(w / 2, abs=0.5 / scale)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wanted", [(16, 16), (12, 30), (16, 24)])
def test_centre_is_the_largest_central_box(size, wanted):
    picture = noise(*size, 3)
    (h, w), (height, width) = size, wanted
    if h * width > w * height:  # too tall
        box = (0, (h - w * height / width) / 2, w, (h + w * height / width) / 2)
    else:
        box = ((w - h * width / height) / 2, 0, (w + h * width / height) / 2, h)
    want = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC, box))
    assert np.abs(resized(picture, "centre", height, width).astype(int) - want).max() <= 1  # the box is in floats


@pytest.mark.parametrize(("size", "wanted", "inside"), [
    ((40, 20), (10, 10), np.s_[:, 2:7]),
    ((20, 40), (10, 10), np.s_[2:7]),
    ((3, 4), (12, 30), np.s_[:, 7:23]),
    ((500, 2), (8, 8), np.s_[:, 3:4]),  # a line stays a pixel wide
])  # fmt: skip
def test_pad_shows_all_in_the_middle_of_what_is_filled(size, wanted, inside):
    picture = noise(*size, 3)
    padded = resized(picture, "pad", *wanted, fill={"image": 77})
    kept = padded[inside]
    image = Image.fromarray(picture).resize(kept.shape[1::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(kept, np.asarray(image))
    padded = padded.copy()
    padded[inside] = 77
    assert (padded == 77).all()
    assert (resized(picture, "pad", *wanted)[0, -1] == 0).all() or size == (20, 40)


def test_squash_takes_all_of_it():
    picture = noise(50, 20, 3)
    want = np.asarray(Image.fromarray(picture).resize((30, 10), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resized(picture, "squash", 10, 30), want)


@pytest.mark.parametrize("rule", RULES)
def test_a_picture_of_the_wanted_size_stays_as_it_is(rule):
    for dtype, channels in (("uint8", 3), ("uint8", 5), ("uint16", 1), ("float32", 2)):
        picture = noise(16, 24, channels, dtype)
        whole = resized(picture, rule, 16, 24, seed=next(s for s in range(99) if rng(s).integers(5) == 0))
        np.testing.assert_array_equal(whole, picture)


@pytest.mark.parametrize("wanted", [(13, 29), (80, 90)])
def test_16_bits_and_floats_are_interpolated_in_their_own_range(wanted):
    want = bicubic(noise(60, 60, 1, "uint16")[..., 0], wanted, (0, 0, 60, 60))
    got = resized(noise(60, 60, 1, "uint16"), "squash", *wanted)[..., 0]
    assert got.dtype == np.uint16
    np.testing.assert_allclose(got, np.clip(want, 0, 65535), atol=0.51)
    floats = noise(60, 60, 2, "float32")
    want = np.stack([bicubic(floats[..., i], wanted, (0, 0, 60, 60)) for i in range(2)], axis=-1)
    want = np.clip(want, floats.min((0, 1)), floats.max((0, 1)))  # no overshoot
    np.testing.assert_allclose(resized(floats, "squash", *wanted), want, atol=0.01)


def test_adm_halves_16_bits_without_rounding_between():
    picture = noise(64, 64, 1, "uint16")
    want = picture.reshape(8, 8, 8, 8).mean((1, 3))
    np.testing.assert_allclose(resized(picture, "adm", 8, 8)[..., 0], want, atol=0.51)
    assert np.ptp(want.astype(int)) > 1000


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_channels_do_not_mix_however_many(rule, dtype):
    picture = noise(41, 30, 16, dtype)
    whole = resized(picture, rule, 16, 20)
    assert whole.shape == (16, 20, 16)
    for some in (np.s_[:1], np.s_[3:6], np.s_[5:9], np.s_[4:6]):
        np.testing.assert_array_equal(whole[..., some], resized(picture[..., some], rule, 16, 20))


def test_opacity_weighs_colours_where_it_is_opacity():
    """A red disc on transparent green: without weights the rim would be tainted by a colour that nobody sees."""
    y, x = np.mgrid[:64, :64] - 31.5
    disc = (y**2 + x**2 < 400)[..., None]
    picture = np.where(disc, [255, 0, 0, 255], [0, 255, 0, 0]).astype(np.uint8)
    weighed = resized(picture, "centre", 20, 20, alpha=frozenset({"image"}))
    rim = (weighed[..., 3] > 20) & (weighed[..., 3] < 235)
    assert rim.sum() > 20
    assert (weighed[rim][:, 0] > 230).all()
    assert (weighed[rim][:, 1] < 25).all()
    alike = resized(picture, "centre", 20, 20)
    assert alike[rim][:, 1].max() > 100
    with pytest.raises(ValueError, match=r"opacity needs uint8 \[h, w, 4\]; the picture is uint8 \[8, 8, 3\]"):
        resized(noise(8, 8, 3), "pad", 4, 4, alpha=frozenset({"image"}))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("h", "w"), [(90, 120), (31, 23)])
def test_pictures_of_a_record_keep_together(rule, h, w):
    """Each holds its coordinates: wherever one shows a place, so do a mask, and a picture and a mask twice as large."""
    record = {
        "image": coordinates(h, w),
        "mask": coordinates(h, w),
        "large": coordinates(2 * h, 2 * w, 0.5),
        "large_mask": coordinates(2 * h, 2 * w, 0.5),
    }
    for seed in range(6):
        resize = Resize(rule, 24, 20, masks=frozenset({"mask", "large_mask"}), fill=dict.fromkeys(record, -1e6))
        shown = resize(record, rng(seed))
        inner = np.s_[4:-4, 4:-4] if rule != "pad" else np.s_[9:-9, 7:-7]
        pixel = max(h / 24, w / 20, 1)
        where = shown["image"][inner]
        np.testing.assert_allclose(shown["large"][inner], where, atol=0.15 * pixel)
        np.testing.assert_allclose(shown["mask"][inner], where, atol=0.5 + 0.15 * pixel)
        np.testing.assert_allclose(shown["large_mask"][inner], where, atol=0.25 + 0.15 * pixel)
        np.testing.assert_array_equal(shown["image"] < -1e5, shown["mask"] < -1e5)
        assert where[0, 0, 0] < where[-1, 0, 0]


def test_the_rule_is_worked_out_for_the_first_that_is_no_mask():
    image, mask = noise(31, 47, 3), noise(62, 94, 1)
    resize = Resize("adm", 16, 16, masks=frozenset({"mask"}))
    together = resize({"mask": mask, "image": image}, rng())
    np.testing.assert_array_equal(together["image"], resized(image, "adm", 16, 16))
    alone = resize({"mask": mask}, rng())["mask"]
    assert alone.shape == (16, 16, 1)
    assert set(alone.ravel()) <= set(mask.ravel())


@pytest.mark.parametrize("size", [(61, 65), (37, 53), (10, 11)])  # no two pixels are equally near
def test_masks_take_the_nearest_pixel(size):
    mask = noise(*size, 1, "uint16")
    want = Image.fromarray(mask[..., 0].astype(np.float32)).resize((24, 16), Image.Resampling.NEAREST)
    got = Resize("squash", 16, 24, masks=frozenset({"mask"}))({"mask": mask}, rng())["mask"]
    np.testing.assert_array_equal(got[..., 0], np.asarray(want))


@given(
    rule=st.sampled_from(RULES),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    wanted=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    channels=st.integers(1, 5),
    level=st.integers(0, 255),
    seed=st.integers(0, 9),
)
def test_whatever_the_sizes(rule, size, wanted, dtype, channels, level, seed):
    """Shapes and dtypes are right, a constant stays one to the bit, a mask keeps its set of values."""
    constant = np.full((*size, channels), level, dtype)
    mask = rng(seed).choice(np.array([3, 70, 255], np.uint8), (*size, 1))
    resize = Resize(rule, *wanted, masks=frozenset({"mask"}), fill={"image": level, "mask": 3})
    shown = resize({"image": constant, "mask": mask}, rng(seed))
    assert shown["image"].dtype == dtype
    np.testing.assert_array_equal(shown["image"], np.full((*wanted, channels), level))
    assert shown["mask"].shape == (*wanted, 1)
    assert set(shown["mask"].ravel()) <= {3, *mask.ravel()}


def test_draws_are_the_generators_and_only_random_crop_draws():
    picture = noise(50, 60, 3)
    first, again, other = (resized(picture, "random_crop", 16, 16, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    for rule in RULES:
        state = rng(3)
        pickle.loads(pickle.dumps(Resize(rule, 16, 16)))({"image": picture}, state)
        assert (state.bit_generator.state == rng(3).bit_generator.state) == (rule != "random_crop")


def test_what_cannot_be_resized_is_refused():
    with pytest.raises(ValueError, match="to 0 x 8"):
        Resize("adm", 0, 8)
    with pytest.raises(ValueError, match="a picture of float64; allowed: uint8, uint16, float32"):
        resized(np.zeros((9, 9, 1)), "adm", 4, 4)
    record = {"image": noise(64, 64, 3), "mask": noise(64, 48, 1)}
    with pytest.raises(UserError, match="image and mask of one record are 64 x 64 and 64 x 48"):
        Resize("centre", 8, 8, masks=frozenset({"mask"}))(record, rng())


def test_odd_sizes_have_the_aspect_of_their_halves():
    for h, w in ((301, 201), (33, 1001), (7, 3)):
        record = {"image": noise(h, w, 1), "half": noise(h // 2, w // 2, 1), "other": noise(-(-h // 2), w // 2, 1)}
        assert {p.shape for p in Resize("pad", 8, 8)(record, rng()).values()} == {(8, 8, 1)}

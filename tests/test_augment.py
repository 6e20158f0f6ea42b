"""Flips, turns and EDM's non-leaky augmentation, recovered from coordinates and waves planted in the pictures."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jdiff.common.errors import UserError
from jdiff.data.augment import CONDITION_SIZE, Motion, NonLeaky, Turn, moved
from tests.random_pictures import noise, rng

MOTIONS = {
    "x_flip": Motion(x_flip=1),
    "scale": Motion(scale=1.5),
    "shrink": Motion(scale=-1.5),
    "rotation": Motion(angle=0.4),
    "stretch": Motion(direction=0.7, stretch=1.2),
    "squeeze": Motion(direction=0.7, stretch=-1.2),
    "translation": Motion(right=0.3, down=-0.7),
    "all": Motion(1, 0, -0.4, 2.5, -2.0, 0.8, 0.5, -0.3),
    "all, both flips": Motion(1, 1, 0.6, -1.2, 1.0, -0.9, -0.2, 0.4),
}


def planted(h, w):
    """Every pixel holds its own (x, y) from the picture's middle, x to the right, y down."""
    y, x = np.mgrid[:h, :w]
    return np.stack([x - (w - 1) / 2, y - (h - 1) / 2], axis=-1).astype(np.float32)


def forward(motion, h, w):
    """(G, t): the pixel at p from the middle moves to G p + t: the paper's table, one factor after the other."""
    c, s = math.cos(-motion.angle), math.sin(-motion.angle)
    flip = np.diag([1.0 - 2 * motion.x_flip, 1.0 - 2 * motion.y_flip])
    turn = np.array([[c, -s], [s, c]])
    along = np.array([math.cos(motion.direction), -math.sin(motion.direction)])  # y is down
    across = np.array([-along[1], along[0]])
    factor = (2**0.2) ** motion.stretch
    stretch = factor * np.outer(along, along) + np.outer(across, across) / factor
    return stretch @ turn @ flip * (2**0.2) ** motion.scale, np.array([w * motion.right, h * motion.down]) / 8


def inside(motion, h, w, margin):
    """Output pixels whose origin lies within the picture, `margin` from its rim; and those origins."""
    matrix, shift = forward(motion, h, w)
    origins = (planted(h, w).astype(np.float64) - shift) @ np.linalg.inv(matrix).T
    limit = np.array([w / 2, h / 2]) - margin
    return (np.abs(origins) < limit).all(axis=-1), origins


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
@pytest.mark.parametrize(("h", "w"), [(48, 48), (40, 64)])
def test_pictures_move_as_the_paper_says(motion, h, w):
    ours = moved({"image": planted(h, w)}, motion)["image"]
    here, origins = inside(motion, h, w, 6)
    assert here.sum() > 200
    np.testing.assert_allclose(ours[here], origins[here], atol=0.03)


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
def test_masks_move_with_them(motion):
    picture = planted(48, 48)
    record = {"image": picture, "mask": picture, "small": planted(24, 24) * 2}
    ours = moved(record, motion, frozenset({"mask"}))
    here, _ = inside(motion, 48, 48, 6)
    assert np.abs(ours["mask"] - ours["image"])[here].max() <= 0.5 + 0.03
    coarse = (
        ours["image"][::2, ::2] + ours["image"][1::2, ::2] + ours["image"][::2, 1::2] + ours["image"][1::2, 1::2]
    ) / 4
    here, _ = inside(motion, 24, 24, 6)
    np.testing.assert_allclose(ours["small"][here], coarse[here], atol=0.15)


@pytest.mark.parametrize("seed", range(12))
def test_the_condition_tells_what_was_done(seed):
    """From the output alone: the affine map is fitted to the planted coordinates, and compared with the condition's."""
    augment = NonLeaky(0.7)
    pictures, told = augment({"image": planted(64, 64)}, rng(seed))
    far = np.abs(planted(64, 64)).max(axis=-1) < 12  # shifted pictures are seen reflected elsewhere
    motion = augment.draw(rng(seed))
    here = inside(motion, 64, 64, 6)[0]
    if (here & far).sum() < 50:
        pytest.skip("moved out of sight")
    here &= far
    design = np.concatenate([planted(64, 64)[here], np.ones((here.sum(), 1))], axis=1)
    fitted = np.linalg.lstsq(design, pictures["image"][here].astype(np.float64), rcond=None)[0]
    matrix = np.linalg.inv(fitted[:2].T)
    shift = -matrix @ fitted[2]
    np.testing.assert_allclose(shift / 8, told[7:9], atol=0.02)
    assert (np.linalg.det(matrix) < 0) == (told[0] != told[1])
    assert math.sqrt(abs(np.linalg.det(matrix))) == pytest.approx(2 ** (0.2 * told[2]), abs=0.01)
    stretch = math.hypot(told[5], told[6])
    singular = np.linalg.svd(matrix, compute_uv=False)
    assert math.sqrt(singular[0] / singular[1]) == pytest.approx(2 ** (0.2 * stretch), abs=0.01)
    # What is left when stretch, scale and flips are taken back is the turn. (a5, a4) is told up to a common sign.
    found = []
    for sign in (1, -1):
        factors = Motion(int(told[0]), int(told[1]), float(told[2]), 0.0, math.atan2(told[6], told[5]), sign * stretch)
        flip = np.diag(1.0 - 2 * told[:2])
        turn = np.linalg.inv(forward(factors, 64, 64)[0] @ flip) @ matrix @ flip
        found.append(np.abs([turn[0, 0] - 1 - told[3], turn[0, 1] - told[4]]).max())
    assert min(found) < 0.02


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
def test_waves_are_interpolated_well(motion):
    """A wave of a tenth of a cycle a pixel, against its formula."""
    h = w = 64

    def wave(at):
        return np.cos(2 * np.pi * 0.1 * (at @ [0.6, 0.8]) + 0.3)

    ours = moved({"image": wave(planted(h, w))[..., None].astype(np.float32)}, motion)["image"][..., 0]
    here, origins = inside(motion, h, w, 10)
    assert here.sum() > 200
    np.testing.assert_allclose(ours[here], wave(origins)[here], atol=0.01)


def test_what_shrinks_is_not_aliased():
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    small = moved({"image": checks}, Motion(scale=-4.0))["image"]  # 0.57 of the size
    assert small.std() < 4
    assert small.mean() == pytest.approx(127.5, abs=1)


def test_quarters_and_whole_pixels_are_exact():
    for dtype in ("uint8", "uint16"):
        picture = noise(32, 32, 3, dtype)
        for turns in (1, 2, 3):
            ours = moved({"image": picture}, Motion(angle=turns * math.pi / 2))["image"]
            np.testing.assert_array_equal(ours, np.rot90(picture, turns))
        ours = moved({"image": picture}, Motion(right=1.25, down=-0.5))["image"]  # 5 to the right, 2 up
        want = np.pad(picture, ((2, 2), (5, 5), (0, 0)), "reflect")[4:, :32]
        np.testing.assert_array_equal(ours, want)
    oblong = noise(20, 30, 1, "float32")
    ours = moved({"image": oblong}, Motion(x_flip=1, y_flip=1))["image"]
    np.testing.assert_array_equal(ours, oblong[::-1, ::-1])


def test_bits_are_kept():
    """16-bit pictures keep to theirs what 8-bit ones lose; floats in another unit come out in that unit."""
    motion = MOTIONS["all"]
    picture = noise(40, 40, 2, "uint16") // 16 + 20_000  # a narrow range: it would be 16 levels of 8 bits
    ours = moved({"image": picture}, motion)["image"]
    assert len(np.unique(ours)) > 1000
    as_floats = moved({"image": picture.astype(np.float32)}, motion)["image"]
    in_range = np.clip(ours, picture.min((0, 1)), picture.max((0, 1)))  # integers may overshoot, floats do not
    np.testing.assert_allclose(in_range, as_floats, atol=0.51, rtol=0)
    in_kilometres = moved({"image": picture.astype(np.float32) / 1000 - 7}, motion)["image"]
    np.testing.assert_allclose(in_kilometres, as_floats / 1000 - 7, atol=1e-5)


@given(
    numbers=st.tuples(*[st.floats(-3, 3)] * 6),
    flips=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
)
@settings(max_examples=50)
def test_whatever_the_motion(numbers, flips, size, dtype):
    """A constant stays one to the bit, a mask keeps its set of values, nothing leaves the picture's range."""
    record = {
        "constant": np.full((*size, 2), 201, dtype),
        "noise": noise(*size, 1, dtype),
        "mask": rng(1).choice(np.array([3, 70, 255], dtype), (*size, 1)),
    }
    ours = moved(record, Motion(*flips, *numbers), frozenset({"mask"}))
    assert {name: (p.shape, p.dtype) for name, p in ours.items()} == {n: (p.shape, p.dtype) for n, p in record.items()}
    assert (ours["constant"] == 201).all()
    assert set(ours["mask"].ravel()) <= set(record["mask"].ravel())
    if dtype == "float32":
        assert record["noise"].min() <= ours["noise"].min()
        assert ours["noise"].max() <= record["noise"].max()


def test_probability_zero_and_draws_of_nothing_leave_the_bits():
    picture = noise(17, 23, 3, "float32")
    for seed in range(20):
        ours, told = NonLeaky(0.0)({"image": picture}, rng(seed))
        assert ours["image"] is picture
        np.testing.assert_array_equal(told, np.zeros(CONDITION_SIZE, np.float32))
    idle = 0
    for seed in range(200):
        ours, told = NonLeaky(0.12)({"image": picture}, rng(seed))
        if not told.any():
            np.testing.assert_array_equal(ours["image"], picture)
            idle += 1
        elif not told[1:].any():
            np.testing.assert_array_equal(ours["image"], picture[:, ::-1])
        else:
            assert (ours["image"] != picture).any()
    assert idle / 200 == pytest.approx(0.5 * 0.94 * 0.88**4, abs=0.12)


def test_the_condition_is_distributed_as_the_paper_says():
    count, probability = 20_000, 0.3
    draw, state = NonLeaky(probability).draw, rng(8)
    told = np.stack([draw(state).condition for _ in range(count)])
    assert told.dtype == np.float32
    assert told.shape == (count, CONDITION_SIZE)
    done = {"scale": told[:, 2] != 0, "turn": told[:, 4] != 0, "stretch": told[:, 5] != 0, "shift": told[:, 7] != 0}
    np.testing.assert_array_equal(done["shift"], told[:, 8] != 0)  # together
    error = 4 * math.sqrt(0.25 / count)
    assert told[:, 0].mean() == pytest.approx(0.5, abs=error)
    assert told[:, 1].mean() == pytest.approx(0.5 * probability, abs=error)
    assert {tuple(row) for row in told[:, :2]} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for first, one in done.items():
        assert one.mean() == pytest.approx(probability, abs=error)
        for second, other in done.items():
            if first != second:
                assert (one & other).mean() == pytest.approx(probability**2, abs=error)
    for number in (told[done["scale"], 2], told[done["shift"], 7], told[done["shift"], 8]):
        assert stats.kstest(number, "norm").pvalue > 1e-3
    turns = told[done["turn"]]
    np.testing.assert_allclose((turns[:, 3] + 1) ** 2 + turns[:, 4] ** 2, 1, atol=1e-5)
    angle = np.arctan2(turns[:, 4], turns[:, 3] + 1)
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    stretches = told[done["stretch"]]
    assert stats.kstest(np.hypot(stretches[:, 5], stretches[:, 6]), "halfnorm").pvalue > 1e-3
    slanted = stretches[stretches[:, 6] != 0]
    assert len(slanted) / len(stretches) == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / len(stretches)))
    around = np.arctan2(slanted[:, 6], slanted[:, 5])
    assert stats.kstest(around, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3


def test_draws_are_the_generators():
    augment = pickle.loads(pickle.dumps(NonLeaky(0.5, frozenset({"mask"}))))
    record = {"image": noise(16, 16, 3), "mask": noise(16, 16, 1)}
    first, again = augment(record, rng(4)), augment(record, rng(4))
    np.testing.assert_array_equal(first[1], again[1])
    for name in record:
        np.testing.assert_array_equal(first[0][name], again[0][name])
    states = []
    for probability in (0.0, 0.5, 1.0):
        state = rng(4)
        NonLeaky(probability).draw(state)
        states.append(state.bit_generator.state)
    assert states[0] == states[1] == states[2]
    with pytest.raises(ValueError, match=r"augmentation is 1\.2; it must be in \[0, 1\]"):
        NonLeaky(1.2)


def test_turns_are_each_of_their_kind_and_as_often():
    picture = np.arange(9, dtype=np.uint16).reshape(3, 3, 1)
    kinds = {
        Turn(): [picture],
        Turn(horizontal=True): [picture, picture[:, ::-1]],
        Turn(vertical=True): [picture, picture[::-1]],
        Turn(horizontal=True, vertical=True): [np.rot90(picture, k)[:, ::s] for k in (0, 2) for s in (1, -1)],
        Turn(quarters=True): [np.rot90(picture, k) for k in range(4)],
        Turn(horizontal=True, quarters=True): [np.rot90(picture, k)[:, ::s] for k in range(4) for s in (1, -1)],
    }
    for turn, all_of_them in kinds.items():
        state = rng(2)
        drawn = [turn({"image": picture}, state)["image"].tobytes() for _ in range(2000)]
        assert set(drawn) == {one.tobytes() for one in all_of_them}
        for one in all_of_them:
            share = 1 / len(all_of_them)
            assert drawn.count(one.tobytes()) / 2000 == pytest.approx(share, abs=4 * math.sqrt(share / 2000))


def test_turns_are_joint_and_want_squares():
    turn = Turn(horizontal=True, vertical=True, quarters=True)
    image = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    for seed in range(30):
        ours = turn(
            {"image": image, "mask": image.astype(np.uint8), "large": image.repeat(2, 0).repeat(2, 1)}, rng(seed)
        )
        np.testing.assert_array_equal(ours["image"], ours["mask"])
        np.testing.assert_array_equal(ours["image"], ours["large"][::2, ::2])
    with pytest.raises(UserError, match="image is 4 x 6: only square pictures can be turned by quarters"):
        turn({"image": np.zeros((4, 6, 1), np.uint8)}, rng())
    flips = Turn(horizontal=True, vertical=True)({"image": np.zeros((4, 6, 1), np.uint8)}, rng())
    assert flips["image"].shape == (4, 6, 1)

"""Power-function averages: their mathematics, any width made of two that are kept, and their snapshots in a run."""

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import quad

import jdiff
import jdiff.config
from jdiff.common.errors import UserError
from jdiff.training import snapshots
from jdiff.training.ema import Ema, PowerEma, images_of
from jdiff.training.profiles import Profile, combination, gamma_of, inner_products, width_of
from jdiff.training.step import init_state, train_step
from tests.conftest import TINY_DIT, config, refusal, run_command, run_here

KEPT, FIVE = (0.05, 0.1), (0.03, 0.04, 0.07, 0.15, 0.2)
QUIET = ("--config.log.tensorboard=false", "--config.log.pictures=false", "--config.log.progress=false")
RUN = (config("digits"), *TINY_DIT, *QUIET, "--config.train.holdout_images=0")
WITH = f"--config.train.ema_widths={KEPT}".replace(" ", "")


def density(profile, t):
    gamma, end = profile
    return (gamma + 1) * t**gamma / end ** (gamma + 1) if t <= end else 0.0


def densities(profile, t):
    return np.where(t <= profile.end, (profile.gamma + 1) * (t / profile.end) ** profile.gamma / profile.end, 0.0)


def off(made, tracked):
    """How far weights are off, relative to their norm."""
    pairs = list(zip(jax.tree.leaves(made), jax.tree.leaves(tracked), strict=True))
    gap = sum(float(np.square(np.asarray(a, np.float64) - b).sum()) for a, b in pairs)
    return np.sqrt(gap / sum(float(np.square(np.asarray(b, np.float64)).sum()) for _, b in pairs))


@pytest.mark.parametrize("width", [0.001, 0.03, 0.05, 0.1, 0.25, 0.28])
def test_a_width_is_the_deviation_of_its_profile(width):
    profile = Profile(gamma_of(width), 3.0)
    assert width_of(profile.gamma) == pytest.approx(width, rel=1e-9)
    if width > 0.01:
        mean, square = (quad(lambda t, k=k: density(profile, t) * t**k, 0, 3)[0] for k in (1, 2))
        assert np.sqrt(square - mean**2) / 3 == pytest.approx(width, rel=1e-6)
        assert quad(lambda t: density(profile, t), 0, 3)[0] == pytest.approx(1)


def test_the_widths_of_the_paper():
    """Those of gamma = 16.97 and 6.94, section 3.1."""
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.005)


def test_inner_products_are_integrals():
    some = [Profile(gamma_of(width), end) for width in (0.05, 0.2) for end in (1.0, 2.5)]
    for a, row in zip(some, inner_products(some, some), strict=True):
        for b, product in zip(some, row, strict=True):
            exact = quad(lambda t, a=a, b=b: density(a, t) * density(b, t), 0, min(a.end, b.end))[0]
            assert product == pytest.approx(exact, rel=1e-6)


def test_a_combination_is_the_least_square_one():
    kept = [Profile(gamma_of(width), end) for width in KEPT for end in (4e5, 7e5, 1e6)]
    wanted = Profile(gamma_of(0.07), 1e6)
    c, left = combination(kept, wanted)
    grid = (np.arange(200_000) + 0.5) * 5
    columns, target = np.array([densities(one, grid) for one in kept]).T, densities(wanted, grid)
    gap = lambda c: np.sqrt(np.mean((columns @ c - target) ** 2) / np.mean(target**2))  # noqa: E731
    assert c.sum() == pytest.approx(1, abs=1e-12)
    assert left == pytest.approx(gap(c), rel=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = rng.normal(size=len(c))
        assert gap(c + 0.01 * (other - other.mean())) > left  # no other sum of weights 1 is nearer
    own, none = combination(kept, kept[2])
    np.testing.assert_allclose(own, np.eye(6)[2], atol=1e-6)
    assert none < 1e-6


def test_an_average_is_the_integral_over_the_images_whatever_the_batches():
    """theta(t) is the weights of the step that t falls in: they count by p's integral over it."""
    ema, rng = PowerEma(widths=(0.05, 0.2)), np.random.default_rng(0)
    kept, t, edges, values = ema.init({"w": jnp.float32(9.0)}), 0, [0], []
    update = jax.jit(ema.update, static_argnums=2)
    for size in [8] * 20 + [24] * 10 + [4] * 30:
        t += size
        edges.append(t)
        values.append(rng.normal())
        kept = update(kept, {"w": jnp.float32(values[-1])}, size)
        assert images_of(kept) == t
        if len(values) == 1:
            assert float(kept["averages"][0]["w"]) == np.float32(values[0])  # not of the weights before training
    for width, average in zip(ema.widths, kept["averages"], strict=True):
        share = np.diff((np.array(edges) / t) ** (gamma_of(width) + 1))
        assert float(average["w"]) == pytest.approx(share @ np.array(values), abs=1e-5)


def test_images_are_counted_beyond_32_bits():
    ema = PowerEma(widths=(0.1,))
    kept = ema.init({"w": jnp.float32(0.0)})
    kept["images"] = jnp.array([2**32 - 10, 1], jnp.uint32)
    kept = ema.update(kept, {"w": jnp.float32(1.0)}, 2**31)
    assert images_of(kept) == 2**33 - 10 + 2**31
    expected = 1 - (1 - 2**31 / images_of(kept)) ** (gamma_of(0.1) + 1)
    assert float(kept["averages"][0]["w"]) == pytest.approx(expected, rel=1e-5)


def trajectory(steps):
    """Weights that drift and jitter as those of a training do."""
    rng = np.random.default_rng(0)
    now, made = rng.normal(size=300), []
    for k in range(steps):
        now = now * (1 - 0.002) + 0.02 * rng.normal(size=300) * (1 - k / steps)
        made.append(now + 1)
    return np.array(made, np.float32)


def test_five_widths_made_of_two_are_those_tracked(tmp_path):
    """Through snapshots on disk, from 32 moments; the batch triples half way."""
    both = PowerEma(widths=(*KEPT, *FIVE))
    weights = trajectory(800)
    kept, updates = both.init({"w": jnp.zeros(300)}), jax.jit(both.update, static_argnums=2)
    for step, now in enumerate(weights, 1):
        kept = updates(kept, {"w": jnp.asarray(now)}, 8 if step <= 400 else 24)
        if step % 25 == 0:
            two = {"images": kept["images"], "averages": kept["averages"][:2]}
            snapshots.write(tmp_path / "ema", step, two, KEPT)
    found = snapshots.found(tmp_path / "ema", before=801)
    assert len(found) == 32
    profiles = [Profile(gamma_of(width), one.images) for one in found for width in KEPT]
    for width, tracked in zip(FIVE, kept["averages"][2:], strict=True):
        c, left = combination(profiles, Profile(gamma_of(width), found[-1].images))
        arrays = [dict(snapshots.read(one))[f"{own:g}/w"] for one in found for own in KEPT]
        made = sum(share * array for share, array in zip(c, arrays, strict=True))
        error = off(made, tracked["w"])
        print(f"width {width}: off by {error:.1e}, of the profile {left:.1e}")
        assert error < 1e-3
        apart = min(off(average["w"], tracked["w"]) for average in kept["averages"][:2])
        assert error < 0.05 * apart  # and not because all widths are alike


def test_skipped_steps_skip_them():
    def loss(params, state, batch, key, step):
        return params["w"] * batch["x"].mean(), (state, {})

    ema, optimizer = PowerEma(widths=KEPT), optax.sgd(0.1)
    step = jax.jit(partial(
        train_step, loss=loss, optimizer=optimizer, ema=Ema(halflife_images=10.0), profiles=ema, batch_size=4
    ))  # fmt: skip
    state = init_state({"w": jnp.float32(2.0)}, {}, optimizer, jax.random.key(0), profiles=ema)
    state, _ = step(state, {"x": jnp.ones(4)})
    after, _ = step(state, {"x": jnp.full(4, jnp.nan)})
    jax.tree.map(np.testing.assert_array_equal, after.profiles, state.profiles)
    assert images_of(step(after, {"x": jnp.ones(4)})[0].profiles) == 8


def test_without_widths_a_state_is_what_it_was():
    state = init_state({"w": jnp.float32(2.0)}, {}, optax.sgd(0.1), jax.random.key(0))
    assert len(jax.tree.leaves(state)) == 6  # step, key, params, ema and the two counters


def trained(*arguments, cwd):
    result = run_here(*RUN, *arguments, cwd=cwd)
    assert result.status == 0, result.err
    return result.out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of 64 steps that keeps two widths, and one that keeps five others."""
    folder = tmp_path_factory.mktemp("posthoc")
    said = trained(WITH, "--config.train.steps=64", "--config.checkpoint.every=32", "--workdir=run", cwd=folder)
    assert "averages of the widths 0.05, 0.1: a snapshot every 2 steps in " in said
    five = f"--config.train.ema_widths={FIVE}".replace(" ", "")
    trained(five, "--config.train.steps=64", "--config.checkpoint.every=32", "--workdir=five", cwd=folder)
    return folder


@pytest.fixture
def run(runs, tmp_path):
    shutil.copytree(runs / "run", tmp_path / "run")
    return tmp_path / "run"


def steps_in(folder):
    return [int(file.stem) for file in sorted(folder.glob("*.safetensors"))]


@pytest.mark.parametrize("width", FIVE)
def test_a_run_gives_widths_that_it_did_not_keep(width, runs):
    made, tracked = (jdiff.load(runs / name, ema=width).params for name in ("run", "five"))
    error = off(made, tracked)
    print(f"width {width}: off by {error:.1e}")
    assert error < 1e-3
    own = [jdiff.load(runs / "run", ema=kept).params for kept in KEPT]
    assert error < 0.3 * min(off(one, tracked) for one in own)


def test_at_an_earlier_checkpoint_the_width_is_of_the_training_until_then(runs):
    made, tracked = (jdiff.load(runs / name, 32, ema=0.07) for name in ("run", "five"))
    assert made.step == 32
    assert off(made.params, tracked.params) < 1e-3
    assert off(made.params, jdiff.load(runs / "five", ema=0.07).params) > 0.05


def test_the_ordinary_average_is_as_without_widths(runs, tmp_path):
    trained("--config.train.steps=64", "--config.checkpoint.every=32", "--workdir=run", cwd=tmp_path)
    assert not (tmp_path / "run" / "ema").exists()
    jax.tree.map(
        np.testing.assert_array_equal, jdiff.load(tmp_path / "run").params, jdiff.load(runs / "run", ema=0).params
    )


def test_a_run_that_goes_on_has_the_same_averages(run, runs, tmp_path):
    """After a kill between a snapshot and its checkpoint, too; and from a step that it goes back to."""
    snapshot = run / "ema" / "000000064.safetensors"
    expected, jittered = snapshot.read_bytes(), (run / "ema" / "000000063.safetensors")
    shutil.rmtree(run / "checkpoints" / "64")
    shutil.copy(snapshot, jittered)  # of a step that the run to come writes no snapshot of
    trained(WITH, "--config.train.steps=64", "--config.checkpoint.every=32", "--workdir=run", cwd=tmp_path)
    assert steps_in(run / "ema") == list(range(2, 65, 2))
    assert snapshot.read_bytes() == expected
    back = ("--config.checkpoint.resume_from=32", "--config.train.learning_rate=0.001")
    trained(WITH, *back, "--config.train.steps=40", "--workdir=run", cwd=tmp_path)
    assert steps_in(run / "set_aside" / "after_step_32" / "ema") == list(range(34, 65, 2))
    assert steps_in(run / "ema") == [*range(2, 33, 2), 34, 36, 38, 40]
    other = "--config.train.ema_widths=(0.05,)"
    line = refusal(*RUN, other, "--config.train.steps=44", "--workdir=run", cwd=tmp_path)
    assert "train.ema_widths is (0.05, 0.1) there, (0.05,) here" in line


def test_a_snapshot_that_is_damaged_is_told(run):
    file = run / "ema" / "000000030.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(UserError, match=r"000000030.safetensors is damaged \(0.1/.* is not as it was saved\): copy it"):
        jdiff.load(run, ema=0.07)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"000000030.safetensors is damaged"):
        jdiff.load(run, ema=0.07)
    assert jdiff.load(run, ema=0.1).step == 64  # a width that was kept needs none of them
    file.unlink()
    assert jdiff.load(run, ema=0.07).step == 64


def test_a_width_far_from_those_kept_is_warned_of(run):
    with pytest.warns(UserWarning, match=r"ema=0.005 is made of the widths 0.05, 0.1 at 32 moments .* left over"):
        jdiff.load(run, ema=0.005)
    shutil.rmtree(run / "ema")
    with pytest.warns(UserWarning, match=r"at 1 moment of training up to step 64"):
        jdiff.load(run, ema=0.07)


def test_widths_that_cannot_be(run, dit_run, tmp_path):
    with pytest.raises(UserError, match=r"keeps no averages to make this width of: leave sample.ema out .*, or train"):
        jdiff.load(dit_run.workdir, ema=0.07)
    with pytest.raises(UserError, match=r"ema=0.05 is chosen where weights are loaded: jdiff.load\(FOLDER, ema=0.05\)"):
        jdiff.load(run).sample(1, ema=0.05)
    with pytest.raises(UserError, match=r"sample.ema=0.4 must lie in \[0, 0.28\]"):
        jdiff.load(run, ema=0.4)
    jdiff.load(run, ema=0.07).export(tmp_path / "exported")
    made = jdiff.load(tmp_path / "exported").params
    jax.tree.map(np.testing.assert_array_equal, made, jdiff.load(run, ema=0.07).params)
    with pytest.raises(UserError, match=r"holds exported weights, which are one average: leave sample.ema out"):
        jdiff.load(tmp_path / "exported", ema=0.05)
    line = refusal("--mode=sample", f"--workdir={dit_run.workdir}", "--config.sample.ema=0.07", cwd=tmp_path)
    assert "sample.ema=0.07: the run in" in line
    swept = refusal("--mode=evaluate", f"--workdir={dit_run.workdir}", "--config.sample.ema=(None,0.07)", cwd=tmp_path)
    assert "sample.ema=0.07: the run in" in swept
    assert not (dit_run.workdir / "evaluation" / "ema=None").exists()
    twice = refusal(*RUN, "--config.train.ema_widths=(0.05,0.05)", "--workdir=other", cwd=tmp_path)
    assert "train.ema_widths=(0.05, 0.05) holds a width twice: leave one out" in twice


def test_an_evaluation_sweeps_the_width(run, tmp_path):
    settings = ("--config.eval.features=pixels", "--config.eval.num_images=40", "--config.log.progress=false")
    widths = "--config.sample.ema=(None,0.05,0.07)"
    result = run_here("--mode=evaluate", "--workdir=run", widths, *settings, cwd=tmp_path)
    assert result.status == 0, result.err
    rows = (run / "evaluation" / "sweep.csv").read_text().splitlines()
    assert rows[0].startswith("ema,nfe,passes,fd_pixels")
    assert [row.split(",")[0] for row in rows[1:]] == ["", "0.05", "0.07"]
    assert (run / "evaluation" / "quality_ema.png").is_file()
    places = [run / "evaluation" / f"ema={one}" for one in (None, 0.05, 0.07)]
    told = [json.loads((place / "evaluation.json").read_text()) for place in places]
    assert len({one["identity"]["weights.model"] for one in told}) == 3
    assert [one["checkpoint"].get("ema") for one in told] == [None, 0.05, 0.07]
    assert "average of width 0.07" in (run / "evaluation" / "ema=0.07" / "card.md").read_text()


def test_parts_beside_a_frozen_model_are_averaged(dit_run, tmp_path):
    lora = ("--config.lora.rank=2", f"--config.train.initial={dit_run.workdir}", "--config.train.steps=8")
    trained(WITH, *lora, "--workdir=run", cwd=tmp_path)
    made, frozen = jdiff.load(tmp_path / "run", ema=0.07), jdiff.load(dit_run.workdir)
    assert jax.tree.structure(made.params) == jax.tree.structure(frozen.params)
    assert 0 < off(made.params, frozen.params) < 1
    names = dict(snapshots.read(snapshots.found(tmp_path / "run" / "ema", before=9)[0]))
    assert all("/parts." in name or "conditioner" in name for name in names)


@pytest.mark.slow
def test_averages_and_muon_on_several_devices(tmp_path):
    wide = ("--config.network.width=96", WITH, "--config.train.optimizer=muon", "--config.train.steps=8")
    for name, devices, fsdp in (("one", 1, 1), ("two", 2, 2)):
        flags = f"--xla_force_host_platform_device_count={devices}"
        arguments = (*RUN, *wide, f"--config.machine.fsdp={fsdp}", f"--workdir={name}")
        result = run_command(*arguments, cwd=tmp_path, XLA_FLAGS=flags)
        assert result.status == 0, result.err
    one, two = (jdiff.load(tmp_path / name, ema=0.07).params for name in ("one", "two"))
    assert off(two, one) < 1e-3

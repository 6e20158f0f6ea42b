"""The training step, the average, the optimizer, and the two tasks' losses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdiff.common.ranges import Range
from jdiff.conditions.label import Label
from jdiff.diffusion.draws import LogNormal
from jdiff.diffusion.objective import Objective
from jdiff.diffusion.parameterization import Edm
from jdiff.diffusion.schedules import EDM
from jdiff.diffusion.weights import Simple
from jdiff.networks.conditioning import Conditioner, LabelEmbedding
from jdiff.networks.unet import UNet
from jdiff.spaces import Pixels
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training.ema import Ema
from jdiff.training.step import init_state, train_step
from jdiff.training.writers import add_logs

NO_EMA = Ema(halflife_images=0.0)


def line_loss(params, state, batch, key, step):
    """(w x - y)^2: a task whose gradient is known."""
    loss = jnp.mean((params["w"] * batch["x"] - batch["y"]) ** 2)
    return loss, (state, {"w": params["w"]})


SGD = optax.sgd(0.1)


def step_with(ema=NO_EMA, optimizer=SGD, **options):
    return jax.jit(partial(train_step, loss=line_loss, ema=ema, optimizer=optimizer, batch_size=8, **options))


def line_state(optimizer=SGD):
    return init_state({"w": jnp.float32(2.0)}, {}, optimizer, jax.random.key(0))


BATCH = {"x": jnp.arange(8.0), "y": jnp.ones(8)}


def test_a_step_is_gradient_descent():
    state, logs = step_with()(line_state(), BATCH)
    gradient = float(np.mean(2 * (2 * BATCH["x"] - 1) * BATCH["x"]))
    assert float(state.params["w"]) == pytest.approx(2 - 0.1 * gradient)
    assert float(logs["grad_norm"]) == pytest.approx(gradient, rel=1e-6)
    assert float(logs["loss"]) == pytest.approx(float(np.mean((2 * BATCH["x"] - 1) ** 2)))
    assert int(state.step) == 1


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_are_the_whole_batchs(parts):
    whole, logs = step_with()(line_state(), BATCH)
    in_parts, part_logs = step_with(accumulate=parts)(line_state(), BATCH)
    np.testing.assert_allclose(in_parts.params["w"], whole.params["w"], rtol=1e-6)
    np.testing.assert_allclose(part_logs["loss"], logs["loss"], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(bad):
    optimizer = optax.adam(0.1)
    step = step_with(optimizer=optimizer, ema=Ema(halflife_images=100.0))
    good, _ = step(line_state(optimizer), BATCH)
    after, logs = step(good, {**BATCH, "y": BATCH["y"].at[3].set(bad)})
    same = ("params", "ema", "opt_state", "task_state")
    for name in same:
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(good, name))
    assert (int(after.step), int(after.skipped), int(after.skipped_in_row)) == (2, 1, 1)
    recovered, good_logs = step(after, BATCH)
    assert (int(recovered.skipped), int(recovered.skipped_in_row)) == (1, 0)
    meter = add_logs(add_logs(None, logs), good_logs)
    assert float(meter["loss"].compute()) == float(good_logs["loss"])


def test_average_follows_its_half_life():
    """After h images of a weight that jumped from 0 to 1, the average stands at a half."""
    ema = Ema(halflife_images=1000.0, rampup=0.0)
    average, one = {"w": jnp.float32(0)}, {"w": jnp.float32(1)}
    for step in range(10):
        average = ema.update(average, one, jnp.int32(step), 100)
    assert float(average["w"]) == pytest.approx(0.5)


def test_average_of_what_does_not_change_is_exact():
    """Weights that are frozen, as an encoder whose decoder alone is trained; and without averaging the weights."""
    frozen = jax.random.normal(jax.random.key(0), (1000,))
    for halflife, rampup in ((1000.0, 0.0), (1000.0, 0.05), (10.0, 0.0)):
        ema = Ema(halflife_images=halflife, rampup=rampup)
        for step in (0, 1, 5, 1000):
            np.testing.assert_array_equal(ema.update(frozen, frozen, jnp.int32(step), 64), frozen)
    np.testing.assert_array_equal(Ema(halflife_images=0.0).update(frozen / 3, frozen, jnp.int32(3), 64), frozen)


def test_average_ramps_up():
    """2206.00364, code: half-life = min(h, 0.05 images seen)."""
    ema = Ema(halflife_images=1000.0, rampup=0.05)
    assert float(ema.decay(jnp.int32(0), 100)) == 0
    assert float(ema.decay(jnp.int32(20), 100)) == pytest.approx(0.5 ** (100 / (0.05 * 2000)))
    assert float(ema.decay(jnp.int32(10_000), 100)) == pytest.approx(0.5 ** (100 / 1000))


def test_ddpms_decay_a_step():
    from jdiff import config
    from tests.conftest import REPOSITORY

    train = config.load(REPOSITORY / "configs" / "cifar10_ddpm.py").train
    ema = Ema(halflife_images=train.ema_halflife_images, rampup=train.ema_rampup)
    assert float(ema.decay(jnp.int32(5), train.batch_size)) == pytest.approx(0.9999, abs=1e-6)


def diffusion_task(num_classes=0):
    schedule = EDM()
    prediction = Edm(schedule, 0.5)
    conditioner = Conditioner({"label": LabelEmbedding(num_classes, 32)}) if num_classes else None
    network = UNet(
        out_channels=1,
        channels=8,
        channel_mults=(1,),
        blocks_per_level=1,
        attention_levels=(),
        conditioner=conditioner,
    )
    return DiffusionTask(
        network=network,
        parameterization=prediction,
        objective=Objective(LogNormal(), Simple(prediction)),
        space=Pixels((8, 8, 1), Range("float32", -1.0, 1.0)),
        conditions=(Label(class_names=tuple("abc"), drop_rate=0.25),) if num_classes else (),
    )


def test_first_loss_is_the_one_of_a_network_that_says_zero():
    """F = 0 leaves |c_skip x - x0|^2 weight; with x0 of variance sigma_data^2 its mean is 1 at every sigma."""
    task = diffusion_task()
    x0 = 0.5 * jax.random.normal(jax.random.key(0), (512, 8, 8, 1))
    batch = {"x0": x0, "cond": {}}
    params, state = task.init(jax.random.key(0), batch)
    loss, (_, logs) = jax.jit(partial(task.loss, train=False))(params, state, batch, jax.random.key(1), jnp.int32(0))
    assert float(loss) == pytest.approx(1, abs=0.03)
    assert logs == {}


def test_conditions_are_dropped_per_example_at_their_rate(monkeypatch):
    task = diffusion_task(num_classes=3)
    seen = {}

    def spy(params, *, dropout_key):
        def denoise(x, sigma, cond):
            seen.update(cond["drop"])
            return type("Denoised", (), {"x0": x})()

        return denoise

    monkeypatch.setattr(DiffusionTask, "denoises", lambda self, params, dropout_key: spy(params, dropout_key=None))
    batch = {"x0": jnp.zeros((4000, 2, 2, 1)), "cond": {"label": jnp.zeros(4000, int)}}
    task.loss({}, {}, batch, jax.random.key(3), jnp.int32(0))
    assert seen["label"].shape == (4000,)
    assert float(seen["label"].mean()) == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / 4000))

"""Learning rates against their formulas, and which parameters decay."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdiff import config as configs
from jdiff import from_config
from jdiff.training.optimizer import is_decayed, learning_rate, make_optimizer
from tests.conftest import TINY, config, refusal

PEAK, TOTAL, DECAY = 0.3, 50, 20
AFTER = {
    "constant": lambda t, w: 1.0,
    "cosine": lambda t, w: (1 + math.cos(math.pi * (t - w) / (TOTAL - w))) / 2,
    "linear": lambda t, w: 1 - (t - w) / (TOTAL - w),
    "inverse_sqrt": lambda t, w: 1.0,
}


def optimizer(name="adam", rate=1e-2, **changed):
    settings = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "clip_norm": 0.0, **changed}
    return make_optimizer(name, rate=rate, **settings)


def moves(rule, steps):
    """-update of each step of a parameter whose gradient is always 3: Adam's is the rate."""
    params, gradient = {"w": jnp.float32(0)}, {"w": jnp.float32(3)}
    state, made = rule.init(params), []
    for _ in range(steps):
        update, state = rule.update(gradient, state, params)
        made.append(-float(update["w"]))
    return made


def test_adam_may_wait_for_its_first_gradient():
    """As a discriminator's does until its start: its first move is then the rate, as from the beginning."""
    config = configs.defaults()
    config.task = "autoencoder"
    config.train.update(steps=100, learning_rate=0.01, schedule="cosine", clip_norm=0.0)
    config.autoencoder.adversary = "hinge"
    rule = from_config.optimizer(config)
    params = {name: {"w": jnp.float32(0)} for name in ("autoencoder", "discriminator")}
    given = lambda own: {"autoencoder": {"w": jnp.float32(3)}, "discriminator": {"w": jnp.float32(own)}}  # noqa: E731
    state, made = rule.init(params), []
    for own in (0, 0, 0, 0, 0, 5, 0, 5):
        update, state = rule.update(given(own), state, params)
        made.append(
            {name: -float(part["w"]) / float(from_config.rate(config)(len(made))) for name, part in update.items()}
        )
    assert [one["autoencoder"] for one in made] == pytest.approx([1] * 8, rel=1e-4)
    assert [one["discriminator"] for one in made[:6]] == pytest.approx([0, 0, 0, 0, 0, 1], rel=1e-4)
    adam, fresh = optax.scale_by_adam(), []
    own = adam.init(params["discriminator"])
    for gradient in (5, 0, 5):
        update, own = adam.update({"w": jnp.float32(gradient)}, own)
        fresh.append(float(update["w"]))
    assert [one["discriminator"] for one in made[5:]] == pytest.approx(fresh, rel=1e-4)


def test_an_adversary_starts_after_images_whatever_the_batch_was():
    config = configs.defaults()
    config.autoencoder.update(adversary="hinge", adversary_start=800)
    config.data.shape = (32, 32, 3)
    config.train.batch_size = 16
    assert from_config.adversary(config).start_step == 50
    config.train.since = (10, 640)  # ten steps of 64
    assert from_config.adversary(config).start_step == 20


@pytest.mark.parametrize("warmup", [0, 1, 8, 30])
@pytest.mark.parametrize("name", AFTER)
def test_rates_follow_their_formulas(name, warmup):
    rate = learning_rate(name, peak=PEAK, warmup_steps=warmup, total_steps=TOTAL, decay_steps=DECAY)
    for t in (0, 1, 7, 8, 19, 20, 21, 29, 30, 40, TOTAL - 1):
        expected = (t + 1) / warmup if t < warmup else AFTER[name](t, warmup)
        if name == "inverse_sqrt":  # 2312.02696: alpha_ref / sqrt(max(t / t_ref, 1)), times the warm-up
            expected /= math.sqrt(max(t / DECAY, 1))
        found = rate(t) if callable(rate) else rate
        assert float(found) == pytest.approx(PEAK * expected, rel=1e-5, abs=1e-7), t


def test_the_rate_counts_in_images():
    """Whatever the batch; the end is that of the run, in steps, epochs or images."""
    settings = configs.defaults()
    settings.data.num_images = 800
    settings.train.update(batch_size=8, learning_rate=1.0, warmup_images=80, decay_images=160)
    for duration in ({"steps": 100}, {"epochs": 1.0}, {"images": 800}):
        settings.train.update({"steps": 0, "epochs": 0.0, "images": 0, **duration})
        settings.train.schedule = "linear"
        assert float(from_config.rate(settings)(55)) == pytest.approx(0.5)
        settings.train.schedule = "inverse_sqrt"
        assert float(from_config.rate(settings)(80)) == pytest.approx(0.5)
    settings.train.decay_images = 0
    assert float(from_config.rate(settings)(40)) == pytest.approx(0.5)  # after the warm-up's images


def test_warm_up_then_clip():
    rate = learning_rate("constant", peak=1.0, warmup_steps=4, total_steps=6, decay_steps=0)
    np.testing.assert_allclose(moves(optimizer(rate=rate, clip_norm=1.0), 6), [0.25, 0.5, 0.75, 1, 1, 1], rtol=1e-4)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_the_state_is_that_of_optax(name, warmup):
    """So that runs of earlier versions go on."""
    rate = learning_rate("constant", peak=1.0, warmup_steps=warmup, total_steps=6, decay_steps=0)
    params = {"first": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}}
    theirs = optax.chain(optax.clip_by_global_norm(1.0), getattr(optax, name)(rate))
    ours = optimizer(name, rate=rate, clip_norm=1.0, weight_decay=0.1)
    assert jax.tree.structure(ours.init(params)) == jax.tree.structure(theirs.init(params))


def parameters_of(*overrides):
    """The paths of all parameters of a task."""
    settings = configs.override(configs.load("digits"), overrides)
    settings.data.update(shape=(8, 8, 1), class_names=("a", "b"))
    settings.condition.image.update(shape=(8, 8, 1), of="image")
    task = from_config.task(settings)
    params, _ = jax.eval_shape(task.init, jax.random.key(0), from_config.example(settings, 2))
    return [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]


UNET = (
    "--config.model.conditions=('label','text','image','scalars')",
    "--config.condition.scalars.names=('age',)",
    "--config.condition.image.into=cross_attention",
    "--config.network.attention=transformer",
    "--config.data.augment=0.1",
)
DIT = ("--config.network.name=dit", "--config.network.width=32", "--config.network.depth=1")
SPARED = {
    UNET: {"bias", "scale", "null", "table", "positions"},
    (*DIT, "--config.network.attention_heads=4"): {"bias", "table"},
}


@pytest.mark.parametrize(("overrides", "spared"), SPARED.items(), ids=["unet", "dit"])
def test_weight_decay_spares_biases_norms_nulls_and_tables(overrides, spared):
    paths = parameters_of(*overrides)
    assert {path[-1].key for path in paths if is_decayed(path)} == {"kernel"}
    assert {path[-1].key for path in paths if not is_decayed(path)} == spared


def test_decayed_weights_shrink_by_rate_times_decay():
    """Without a gradient AdamW's update is -rate * decay * parameter; low-rank parts decay as their kernels do."""
    params = {"q": {"kernel": {"a": jnp.full(3, 2.0)}, "bias": jnp.full(3, 2.0)}, "first": {"kernel": jnp.full(3, 2.0)}}
    rule = optimizer("adamw", rate=0.5, weight_decay=0.1)
    updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
    np.testing.assert_allclose(updates["first"]["kernel"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["q"]["kernel"]["a"], -0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates["q"]["bias"], 0)


def test_a_config_trains_by_its_schedule():
    settings = configs.defaults()
    settings.train.update(schedule="cosine", learning_rate=0.01, steps=10)
    expected = [0.005 * (1 + math.cos(math.pi * t / 10)) for t in range(10)]
    np.testing.assert_allclose(moves(from_config.optimizer(settings), 10), expected, rtol=1e-4)


def test_a_run_writes_down_its_rate(tiny_run):
    rows = [json.loads(line) for line in (tiny_run.workdir / "metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["learning_rate"] for row in rows if "learning_rate" in row}
    assert rates == pytest.approx({step: 2e-3 * step * 16 / 12_800 for step in (5, 10)}, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--config.train.schedule=cosin",), "train.schedule='cosin' is unknown; did you mean 'cosine'"),
        (
            ("--config.train.schedule=inverse_sqrt", "--config.train.warmup_images=0"),
            "train.schedule='inverse_sqrt' needs the images after which the rate falls: set train.decay_images",
        ),
    ],
)
def test_schedules_that_cannot_be(arguments, says, tmp_path):
    line = refusal(config("digits"), *TINY, *arguments, "--workdir=run", cwd=tmp_path)
    assert says in line
    assert not (tmp_path / "run").exists()

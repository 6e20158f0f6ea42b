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
from jdiff.training.optimizer import carried_over, is_decayed, learning_rate, make_optimizer
from tests.conftest import TINY, TINY_DIT, config, refusal

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


def test_radam_is_torchs_step_by_step():
    """Over the steps without rectification, 1 to 5, and after. Torch adds eps to the root before its mean is corrected,
    so that the two differ by eps alone, which is nothing beside these gradients.
    """
    torch = pytest.importorskip("torch")
    gradients = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    theirs = torch.nn.Parameter(torch.ones(4))
    peer = torch.optim.RAdam([theirs], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    rule, ours = optimizer("radam", rate=0.1, b2=0.99), {"w": jnp.ones(4)}
    state = rule.init(ours)
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        peer.step()
        updates, state = rule.update({"w": jnp.asarray(gradient)}, state, ours)
        ours = optax.apply_updates(ours, updates)
        np.testing.assert_allclose(ours["w"], theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


KERNELS = {"dense": (12, 7), "wide": (5, 16), "convolution": (3, 3, 4, 8)}


def kernels(seed):
    rng = np.random.default_rng(seed)
    uneven = {name: rng.normal(size=shape) * np.geomspace(1, 10, shape[-1]) for name, shape in KERNELS.items()}
    made = {name: {"kernel": jnp.asarray(one, jnp.float32)} for name, one in uneven.items()}
    return {**made, "bias": jnp.asarray(rng.normal(size=7), jnp.float32)}


def test_muon_makes_the_update_of_a_kernel_orthogonal():
    """Its polynomial brings singular values near 1, to within 0.3 or so. The rest is Adam's."""
    rule, adam = optimizer("muon", rate=0.5), optimizer("adam", rate=0.5)
    state, of_adam = rule.init(kernels(0)), adam.init(kernels(0))
    for seed in (1, 2, 3):
        updates, state = rule.update(kernels(seed), state)
        expected, of_adam = adam.update(kernels(seed), of_adam)
        np.testing.assert_allclose(updates["bias"], expected["bias"], rtol=1e-6)
    for name, shape in KERNELS.items():
        matrix = np.asarray(updates[name]["kernel"]).reshape(-1, shape[-1])
        values = np.linalg.svd(matrix / (-0.5 * 0.2 * max(matrix.shape) ** 0.5), compute_uv=False)
        assert values.min() > 0.6, name
        assert values.max() < 1.2, name
        gradient = np.linalg.svd(np.asarray(kernels(3)[name]["kernel"]).reshape(matrix.shape), compute_uv=False)
        assert gradient.max() > 3 * gradient.min(), name
        assert np.sqrt((matrix**2).mean()) == pytest.approx(0.5 * 0.2, rel=0.25), name  # as Adam's


@pytest.mark.parametrize("name", ["radam", "muon"])
def test_the_loss_falls(name):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8)).astype(np.float32), rng.normal(size=(64, 3)).astype(np.float32)
    params = {"a": {"kernel": jnp.full((8, 16), 0.1) * rng.normal(size=(8, 16))}, "b": {"kernel": jnp.zeros((16, 3))}}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    y = np.tanh(x @ rng.normal(size=(8, 3))).astype(np.float32) + 0.01 * y
    rule = optimizer(name, rate=0.02)

    @jax.jit
    def step(params, state):
        loss = lambda p: jnp.mean((jnp.tanh(x @ p["a"]["kernel"]) @ p["b"]["kernel"] - y) ** 2)  # noqa: E731
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, values = rule.init(params), []
    for _ in range(150):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < 0.2 * values[0]


def test_another_of_the_adams_and_clipped_muon_go_on_with_the_same_moments():
    params = kernels(0)
    falling = learning_rate("cosine", peak=0.1, warmup_steps=0, total_steps=9, decay_steps=0)
    for before, after in (
        (optimizer("adam"), optimizer("radam", rate=falling, clip_norm=1.0)),
        (optimizer("radam", clip_norm=1.0), optimizer("adamw", weight_decay=0.1)),
        (optimizer("muon"), optimizer("muon", rate=falling, clip_norm=1.0)),
        (optimizer("muon", rate=falling, clip_norm=1.0), optimizer("muon")),
    ):
        state = before.init(params)
        for seed in (1, 2):
            _, state = before.update(kernels(seed), state, params)
        made = carried_over(state, after, params)
        assert jax.tree.structure(made) == jax.tree.structure(after.init(params))
        moments = lambda one: [np.asarray(leaf) for leaf in jax.tree.leaves(one) if leaf.ndim]  # noqa: E731
        assert len(moments(state)) > 4
        jax.tree.map(np.testing.assert_array_equal, moments(state), moments(made))
        counts = [int(leaf) for leaf in jax.tree.leaves(made) if not leaf.ndim]
        assert counts
        assert set(counts) == {2}


def test_muon_does_not_go_on_with_adams_moments(dit_run):
    line = refusal(
        config("digits"), *TINY_DIT, "--config.train.steps=12", "--config.train.optimizer=muon", "--workdir=run",
        cwd=dit_run.workdir.parent,
    )  # fmt: skip
    assert "train.optimizer='muon' cannot go on with what 'adam' keeps of the gradients in" in line
    assert "start another run from these weights, with another --workdir and train.initial=" in line


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

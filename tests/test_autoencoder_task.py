"""The autoencoder task: two players in one loss, what equivariance compares, what is frozen, what is kept as state."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff.common.keys import named
from jdiff.common.weights import Weights
from jdiff.networks.autoencoder import Autoencoder, Layout
from jdiff.networks.bottlenecks import VQ, Gaussian, Plain
from jdiff.networks.discriminator import PatchDiscriminator
from jdiff.networks.layers import Conv
from jdiff.spaces.first_stage import FirstStage
from jdiff.spaces.pixels import Pixels
from jdiff.tasks import Task
from jdiff.tasks.autoencoder import AutoencoderTask
from jdiff.tasks.equivariance import UNCHANGED, groups, transforms
from jdiff.tasks.reconstruction import Term, l1, l2
from tests.conftest import CACHE, REPOSITORY
from tests.small_autoencoder import KEY, LAYOUT, PLAYER, make_batch, make_task


def gradients(task: AutoencoderTask, params, state, *steps: int, rows: int = 8):
    """(loss, state, logs, gradients) of a step, or of each of several."""
    loss = partial(task.loss, batch=make_batch(rows), key=KEY)
    program = jax.jit(jax.value_and_grad(lambda params, state, step: loss(params, state, step=step), has_aux=True))
    found = []
    for step in steps or (5,):
        (value, (after, logs)), grads = program(params, state, jnp.int32(step))
        found.append((value, after, logs, grads))
    return found if len(steps) > 1 else found[0]


def begun(task: AutoencoderTask):
    """Random parameters, no bias among them 0."""

    @jax.jit
    def init():
        params, state = task.init(KEY, {"x0": jnp.zeros((8, *task.space.shape)), "cond": {}})
        return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), params), state

    return init()


def length(tree) -> float:
    """The norm of a tree as one vector."""
    return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))))


def close(tree, other, **within) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, **within), tree, other)


@pytest.mark.parametrize(
    ("kind", "adaptive", "r1_gamma", "share"), [("hinge", True, 0.0, 0.5), ("non_saturating", False, 2.0, 0.0)]
)
def test_the_joint_losss_gradients_are_those_of_two_losses(kind, adaptive, r1_gamma, share):
    """With the adaptive weight by brute force: two backward passes. Before the start step neither player plays."""
    player = replace(PLAYER, kind=kind, adaptive=adaptive, r1_gamma=r1_gamma)
    alone = make_task(Gaussian(2, beta=0.1), equivariance=share)
    task = replace(alone, adversary=player)
    params, state = begun(task)
    ours, known = params["autoencoder"], params["discriminator"]
    stage, images = task.first_stage, make_batch()["x0"]
    first = groups(8, share, (4, 4))[0]
    real = first.unchanged(first.take(task.space.encode(None, images, None)))

    def fake(autoencoder):
        weights = Weights({"autoencoder": autoencoder}, state)
        z_q = stage.latents(stage.features(weights, images), named(KEY, "latent"))
        return first.unchanged(stage.decode_quantized(weights, first.take(z_q)))

    def logits(params, x):
        return player.network.apply({"params": params}, x)

    def fooling(autoencoder):
        of_fake = logits(known, fake(autoencoder))
        return -of_fake.mean() if kind == "hinge" else jnp.logaddexp(0, -of_fake).mean()

    def fitting(autoencoder):
        return jnp.mean(l1(real, fake(autoencoder)) + 0.5 * l2(real, fake(autoencoder)))

    def telling(params, fake):
        of_real, of_fake = logits(params, real), logits(params, fake)
        if kind == "hinge":
            return jnp.maximum(0, 1 - of_real).mean() + jnp.maximum(0, 1 + of_fake).mean()
        slopes = jax.grad(lambda x: logits(params, x).mean(axis=(1, 2, 3)).sum())(real)
        penalty = r1_gamma / 2 * jnp.mean(jnp.sum(slopes**2, axis=(1, 2, 3)))
        return jnp.logaddexp(0, -of_real).mean() + jnp.logaddexp(0, of_fake).mean() + penalty

    def separate(ours):
        return jax.grad(fitting)(ours), jax.grad(fooling)(ours), jax.grad(telling)(known, fake(ours))

    to_fit, to_fool, to_tell = jax.jit(separate)(ours)
    without = gradients(alone, {"autoencoder": ours}, state)[3]["autoencoder"]
    (*_, before), (_, _, logs, both) = gradients(task, params, state, 2, 3)
    ratio = 1.0
    if adaptive:
        ratio = length(to_fit["decoder"]["last"]["kernel"]) / length(to_fool["decoder"]["last"]["kernel"])
        np.testing.assert_allclose(logs["adaptive_weight"], ratio, rtol=1e-4)
    expected = jax.tree.map(lambda one, other: one + 0.5 * ratio * other, without, to_fool)
    close(both["autoencoder"], expected, rtol=1e-3, atol=1e-5)
    close(both["discriminator"], to_tell, rtol=1e-3, atol=1e-5)
    assert length(to_fool) > 0.01 * length(without)
    assert length(to_tell) > 1e-3

    close(before["autoencoder"], without, rtol=1e-3, atol=1e-6)
    assert length(before["discriminator"]) == 0


@pytest.mark.slow
def test_networks_as_they_are_learn():
    """The last kernel is where the adaptive weight looks for it, in the decoder with attention and 1x1 convolutions."""
    layout = replace(LAYOUT, attention_levels=(1,))
    network = Autoencoder(4, 2, 1, layout, encoder_channels=6, decoder_channels=5)
    player = replace(PLAYER, network=PatchDiscriminator(channels=4, layers=1))
    task = make_task(Gaussian(2), adversary=player)
    task = replace(task, first_stage=replace(task.first_stage, network=network))
    params, state = begun(task)
    _, _, logs, grads = gradients(task, params, state)
    assert 0 < logs["adaptive_weight"] < 1e4
    assert all(length(grads[group]) > 0 for group in grads)


@pytest.mark.parametrize("bottleneck", [Gaussian(2), VQ(5, 3)], ids=lambda b: type(b).__name__)
def test_held_out_images_are_scored_by_reconstruction_and_bottleneck(bottleneck):
    """Nothing is transformed, the state stays, and the discriminator, which is not averaged, is not asked for."""
    task = make_task(bottleneck, adversary=PLAYER, equivariance=0.5)
    assert isinstance(task, Task)
    assert task.averaged == ("autoencoder",)
    params, state = begun(task)
    assert params.keys() == {"autoencoder", "discriminator"}
    averaged = {"autoencoder": params["autoencoder"]}
    loss, (after, logs) = jax.jit(partial(task.loss, train=False))(averaged, state, make_batch(), KEY, jnp.int32(9))
    close(after, state, rtol=0)
    terms = sum(logs[name] for name in ("kl", "commitment") if name in logs)
    np.testing.assert_allclose(loss, logs["l1"] + 0.5 * logs["l2"] + terms, rtol=1e-5)
    assert "equivariance" not in logs
    _, after, trained, _ = gradients(task, params, state)
    assert logs.keys() < trained.keys()
    assert {"equivariance", "generator", "discriminator", "adaptive_weight"} <= trained.keys()
    if isinstance(bottleneck, VQ):
        assert (after["codebook"]["codes"] != state["codebook"]["codes"]).any()


def test_the_decoders_variance_is_a_moving_average():
    """Of the first batch's mean squared error at first, as averages of weights are."""
    task = replace(make_task(Gaussian(2)), reconstruction=(Term("l2", l2),))
    params, state = begun(task)
    assert state["mse"] == 1
    (_, first, logs, _), (_, after, _, _) = gradients(task, params, {"mse": jnp.float32(2)}, 0, 10**6)
    np.testing.assert_allclose(first["mse"], logs["l2"], rtol=1e-5)
    decay = 0.5 ** (8 / 5000)
    np.testing.assert_allclose(after["mse"], decay * 2 + (1 - decay) * logs["l2"], rtol=1e-5)


def test_a_frozen_encoder_and_its_codebook_stay():
    task = make_task(VQ(5, 3), frozen_encoder=True)
    params, state = begun(task)
    _, after, logs, grads = gradients(task, params, state)
    close(after, state, rtol=0)
    assert "commitment" not in logs
    assert length(grads["autoencoder"]["encoder"]) == 0
    assert length(grads["autoencoder"]["decoder"]) > 0


class Last(nn.Module):
    @nn.compact
    def __call__(self, z):
        return Conv(1, size=1, name="last")(z)


class Pointwise(nn.Module):
    """z = x, x_hat = a z + b, exactly equivariant; with `ramp`, a picture is added that is not."""

    ramp: float = 0.0
    layout: Layout = Layout(channel_mults=(1,))

    def setup(self):
        self.decoder = Last()

    def encode(self, x, *, train=False):
        return x

    def decode(self, z, *, train=False):
        return self.decoder(z) + self.ramp * jnp.linspace(-1, 1, z.shape[1])[:, None, None]

    def __call__(self, x):
        return self.decode(self.encode(x))


@pytest.mark.parametrize(("rows", "share"), [(12, 0.5), (13, 0.2)])
def test_an_equivariant_decoder_has_no_loss_and_another_has(rows, share):
    """Each image is decoded once, each transformed latent is compared with its own image transformed alike."""
    compared = []

    def distance(x, x_hat):
        compared.append(x.shape)
        return l1(x, x_hat)

    def task(ramp):
        stage = FirstStage(Pointwise(ramp), Plain(1), Pixels((8, 8, 1)))  # type: ignore[arg-type]
        return AutoencoderTask(first_stage=stage, reconstruction=(Term("l1", distance),), equivariance=share)

    identity = {"autoencoder": {"decoder": {"last": {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.zeros(1)}}}}
    loss, _, logs, _ = gradients(task(0.0), identity, {}, rows=rows)
    assert sum(shape[0] for shape in compared) == rows
    assert {shape[1:] for shape in compared} > {(8, 8, 1)}
    np.testing.assert_allclose([loss, logs["equivariance"]], 0, atol=1e-5)
    _, _, logs, _ = gradients(task(0.3), identity, {}, rows=rows)
    assert logs["equivariance"] > 0.1


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 13, 26, 64, 96, 100])
@pytest.mark.parametrize("sides", [(2, 2), (4, 4), (7, 7), (16, 8), (32, 32)])
def test_transforms_share_out_a_batch(rows, sides):
    chosen = transforms(rows, 0.5, sides)
    assert rows % len(chosen) == 0
    unchanged = chosen.count(UNCHANGED)
    assert chosen[:unchanged] == (UNCHANGED,) * unchanged
    assert abs(unchanged - len(chosen) / 2) <= (1 if len(chosen) < 4 else 0.5)
    scaled = {one.sides for one in chosen} - {None}
    assert len(scaled) <= 3
    assert (not scaled) == (min(sides) < 4 or unchanged == len(chosen))
    for side, given in ((side, given) for pair in scaled for side, given in zip(pair, sides, strict=True)):
        assert max(2, given * 8 / 32 - 0.5) <= side <= given * 31 / 32 + 0.5
    assert transforms(rows, 0.0, sides) == (UNCHANGED,) * len(chosen)

    made = groups(rows, 0.5, sides)
    assert sorted(place for group in made for place, _ in group.places) == list(range(len(chosen)))
    assert len({group.places[0][1].out(sides) for group in made}) == len(made)
    assert made[0].places[0] == (0, UNCHANGED)


def test_images_follow_their_latents():
    """Row i has the transform of place i modulo the period; an image's sides are `stride` times its latent's."""
    z = jax.random.normal(KEY, (16, 5, 5, 2))
    x = jax.random.normal(KEY, (16, 20, 20, 1))
    places = transforms(16, 0.5, (5, 5))
    assert len(places) == 8
    for group in groups(16, 0.5, (5, 5)):
        of_z, of_x = group.take(z), group.take(x, 4)
        assert of_x.shape[1:3] == (4 * of_z.shape[1], 4 * of_z.shape[2])
        rows = [row for row in range(16) if places[row % 8].out((5, 5)) == of_z.shape[1:3]]
        for at, row in enumerate(rows):
            transform = places[row % 8]
            expected = np.rot90(z[row], transform.turns)
            if transform.sides:
                expected = jax.image.resize(z[row], (*transform.sides, 2), "linear")
            np.testing.assert_allclose(of_z[at], expected, atol=1e-6)
        plain = [row for row in rows if places[row % 8] == UNCHANGED]
        np.testing.assert_array_equal(group.unchanged(of_z), z[np.array(plain, int), : of_z.shape[1], : of_z.shape[2]])
        assert len(group.unchanged(of_x)) + len(group.changed(of_x)) == len(of_x)


# Three steps of two microbatches, on one device and on four of them.
DEVICES = """
import json
from functools import partial
import jax, jax.numpy as jnp, numpy as np, optax
from dataclasses import replace
from jax.sharding import AxisType
from jdiff.training import sharding
from jdiff.training.ema import Ema
from jdiff.training.step import init_state, train_step
from jdiff.networks.bottlenecks import VQ
from tests.small_autoencoder import KEY, PLAYER, make_batch, make_task

player = replace(PLAYER, start_step=1)
task = make_task(VQ(16, 3, halflife_images=50, revive=0.5), adversary=player, equivariance=0.5)
optimizer, batch = optax.sgd(0.01), make_batch(32)
found = []
for devices in (1, 4):
    axes = (AxisType.Auto,) * 2
    mesh = jax.make_mesh((devices, 1), ("data", "fsdp"), axes, devices=jax.devices()[:devices])
    make = lambda: init_state(*task.init(KEY, batch), optimizer, KEY, task.averaged)
    state = jax.device_put(jax.jit(make)(), sharding.replicated(mesh))
    step = jax.jit(partial(train_step, loss=task.loss, optimizer=optimizer, ema=Ema(halflife_images=100),
        averaged=task.averaged, batch_size=32, accumulate=2))
    given = jax.device_put(batch, sharding.of_batch(mesh))
    for _ in range(3):
        state, logs = step(state, given)
    assert int(state.skipped) == 0
    found.append([np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.task_state, logs))])
print(json.dumps([float(np.abs(one - four).max()) for one, four in zip(*found)]))
"""


@pytest.mark.slow
def test_four_devices_do_what_one_does():
    """The same codebook, revived alike, the same transforms and players."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment = {**os.environ, **flags, "JAX_COMPILATION_CACHE_DIR": str(CACHE), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", DEVICES]
    done = subprocess.run(command, check=True, env=environment, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE)
    assert max(json.loads(done.stdout.splitlines()[-1])) < 1e-3

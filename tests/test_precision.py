"""bfloat16 trains as float32 does; remat costs no gradient, and the backward pass keeps less."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdiff.config
from jdiff import from_config
from jdiff.data.sources.digits import Digits
from jdiff.modes import train
from jdiff.networks.layers import Style
from jdiff.networks.transformer import DiT
from jdiff.networks.unet import UNet
from jdiff.resolve import resolve
from jdiff.training import sharding
from jdiff.weights.start import begin
from tests.arrays import perturbed
from tests.conftest import REPOSITORY, run_here


@pytest.mark.slow
def test_bfloat16_follows_float32s_loss():
    """The same 500 steps of the main job: means over 50 steps within 2 % of each other."""
    curves = []
    for dtype in ("float32", "bfloat16"):
        settings = jdiff.config.load(REPOSITORY / "configs" / "digits.py")
        settings.network.dtype = dtype
        source = Digits("train")
        settings = resolve(settings, source)
        task = from_config.task(settings)
        state = begin(settings, task, sharding.make_mesh(), None, 0)
        step = train.make_step(settings, task, state)
        batches, losses = train.open_batches(settings, source, 0), []
        for _ in range(500):
            state, logs = step(state, next(batches))
            losses.append(logs["loss"])
        curves.append(np.mean(np.array(losses).reshape(-1, 50), axis=1))
    print(*curves, sep="\n")
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.02)


def test_a_run_draws_in_another_precision_than_it_was_trained_in(tiny_run, tmp_path):
    """As one trained in bfloat16 on a GPU draws on a CPU that has no units for it."""
    drawn = []
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / dtype
        mode = ("--mode=sample", f"--workdir={tiny_run.workdir}", f"--config.network.dtype={dtype}", f"--out={out}")
        result = run_here(*mode, cwd=tmp_path)
        assert result.status == 0, result.err
        drawn.append(np.load(next(out.glob("*.npz")))["images"].astype(int))
    assert 0 < np.abs(drawn[0] - drawn[1]).mean() < 3


NETWORKS = {
    "unet": UNet(out_channels=3, channels=16, channel_mults=(1, 1), attention_levels=(1,)),
    "unet, transformer": UNet(
        out_channels=3, channels=16, channel_mults=(1, 1), attention="transformer", style=Style(dropout=0.1)
    ),
    "dit": DiT(out_channels=3, features=64, depth=4, heads=4, patch_size=2),
}


# UNets take compilations of twenty and of forty seconds.
REMAT = [pytest.param(name, marks=[pytest.mark.slow] if name != "dit" else []) for name in NETWORKS]


@pytest.mark.parametrize("name", REMAT)
def test_remat_keeps_less_and_costs_no_gradient(name):
    """What the backward pass keeps of the forward one, in bytes. How much of that a compiler turns into memory is its
    own affair: on CPUs next to nothing (benchmarks/RESULTS.md).
    """
    network = NETWORKS[name]
    x, times = jax.random.normal(jax.random.key(0), (4, 16, 16, 3)), jnp.ones(4)
    params = perturbed(network, x, {})
    rngs = {"dropout": jax.random.key(1)}
    found = []
    for remat in (False, True):
        module = network.copy(remat=remat)

        def loss(params, module=module):
            return jnp.mean(jnp.square(module.apply(params, x, times, {}, train=True, rngs=rngs)))

        kept = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], params)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
        found.append((size, jax.jit(jax.grad(loss))(params)))
    (plain, gradient), (saving, same) = found
    print(f"{name}: {plain / 1e6:.1f} MB kept, {saving / 1e6:.1f} with remat")
    assert saving < 0.5 * plain
    leaves = jax.tree.leaves(gradient)
    rounding = 1e-5 * max(np.abs(leaf).max() for leaf in leaves)
    for a, b in zip(leaves, jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=rounding)

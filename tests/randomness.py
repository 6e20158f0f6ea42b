"""Arrays in which all of jdiff's randomness shows; `python -m tests.randomness WORKDIR FILE` writes them."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jdiff
from jdiff.common.keys import image_keys, named, normal, root_key
from jdiff.common.ranges import Range
from jdiff.conditions.label import Label
from jdiff.diffusion import brownian
from jdiff.diffusion.draws import LogNormal
from jdiff.diffusion.objective import Objective
from jdiff.diffusion.parameterization import Edm
from jdiff.diffusion.schedules import EDM
from jdiff.diffusion.weights import Simple
from jdiff.networks.conditioning import Conditioner, LabelEmbedding
from jdiff.networks.layers import Style
from jdiff.networks.unet import UNet
from jdiff.spaces import Pixels
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training.ema import Ema
from jdiff.training.step import init_state, train_step


def arrays(workdir: str) -> dict[str, np.ndarray]:
    """The noise of some images, their Brownian paths, a Fourier network before and after two steps of training, with
    dropout and dropped conditions, and samples of the run in `workdir`.
    """
    keys, like = image_keys(3, jnp.arange(4)), jnp.zeros((4, 3, 3, 1))
    made = {
        "noise": normal(keys, like),
        "path": jax.jit(brownian.noise)(keys, like, jnp.float32(3), jnp.float32(0.5)),
        "split": jax.vmap(jax.random.normal)(jax.random.split(root_key(5), 8)),
    }
    network = UNet(
        out_channels=1,
        channels=8,
        channel_mults=(1,),
        blocks_per_level=1,
        attention_levels=(),
        noise_embedding="fourier",
        style=Style(dropout=0.1),
        conditioner=Conditioner({"label": LabelEmbedding(2, 32)}),
    )
    prediction = Edm(EDM(), 0.5)
    task = DiffusionTask(
        network=network,
        parameterization=prediction,
        objective=Objective(LogNormal(), Simple(prediction)),
        space=Pixels((4, 4, 1), Range("float32", -1.0, 1.0)),
        conditions=(Label(class_names=("a", "b"), drop_rate=0.5),),
    )
    x0 = jnp.linspace(-1, 1, 8 * 4 * 4).reshape(8, 4, 4, 1)
    batch, key, optimizer = {"x0": x0, "cond": {"label": jnp.arange(8) % 2}}, root_key(0), optax.adam(1e-2)

    @jax.jit
    def initial():
        return init_state(*task.init(named(key, "init"), batch), optimizer, named(key, "train"))

    ema = Ema(halflife_images=0.0)
    step = jax.jit(partial(train_step, loss=task.loss, optimizer=optimizer, ema=ema, batch_size=8))
    state = initial()
    made |= flat("at_first", state.params)
    for _ in range(2):
        state, _ = step(state, batch)
    made |= flat("trained", state.params)
    made["output"] = jax.jit(network.apply)({"params": state.params["network"]}, x0, jnp.arange(8.0), batch["cond"])
    made["samples"] = jdiff.load(workdir).sample(4, sampler="dpmpp_sde", steps=3)
    return {name: np.asarray(values) for name, values in made.items()}


def flat(name: str, tree) -> dict[str, jax.Array]:
    return {f"{name}{jax.tree_util.keystr(path)}": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


if __name__ == "__main__":
    np.savez(sys.argv[2], **arrays(sys.argv[1]))

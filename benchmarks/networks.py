"""What each network costs: parameters, GFLOP an image, images/s, share of the machine's peak.

    python -m benchmarks.networks [--only DDPM,DIT_S] [--rounds 3]

FLOP are counted by XLA's cost analysis of the program before optimisation (a multiplication and an addition are two);
images/s are those of a forward pass, and of one with the gradient by the weights. The peak is that of a product of two
matrices, 4096 x 4096, in the same precision, measured in the same run: float32 on a CPU, bfloat16 on an accelerator.
Weights are drawn at random, the gradient is of the mean square of the output.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import networks
from jdiff import from_config
from jdiff.common.host import keep_freed_memory, use_all_cores
from jdiff.config import defaults
from jdiff.training import sharding


class Case(NamedTuple):
    image: tuple[int, int, int]
    classes: int
    on_cpu: int  # images a batch
    on_accelerator: int


NETWORKS: dict[str, Case] = {
    "DDPM": Case((32, 32, 3), 0, 8, 512),
    "DDPMPP": Case((32, 32, 3), 0, 4, 512),
    "NCSNPP": Case((32, 32, 3), 0, 4, 512),
    "ADM_64": Case((64, 64, 3), 1000, 2, 128),
    "DIT_S": Case((32, 32, 4), 1000, 8, 512),
    "DIT_B": Case((32, 32, 4), 1000, 4, 256),
    "DIT_L": Case((32, 32, 4), 1000, 2, 128),
    "DIT_XL": Case((32, 32, 4), 1000, 2, 128),
}
SIDE = 4096  # of the matrices whose product is the peak


def settings(name: str, on_cpu: bool) -> ConfigDict:
    shape, classes = NETWORKS[name].image, NETWORKS[name].classes
    config = defaults()
    config.network.update(getattr(networks, name))
    config.network.dtype = "float32" if on_cpu else "bfloat16"
    config.data.shape, config.data.class_names = shape, tuple(map(str, range(classes)))
    config.model.conditions = ("label",) if classes else ()
    return config


def seconds(run: Callable[[], Any], rounds: int) -> float:
    """The median time of a call, the first one (which compiles) left out."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def peak_flops(on_cpu: bool, rounds: int) -> float:
    """FLOP/s of a product of matrices, the rows of the first split over the devices."""
    mesh = sharding.make_mesh()
    a = jnp.ones((SIDE, SIDE), jnp.float32 if on_cpu else jnp.bfloat16)
    rows, whole = jax.device_put(a, sharding.of_batch(mesh)), sharding.put_replicated(mesh, a)
    product = jax.jit(lambda a, b: a @ b)
    return 2 * SIDE**3 / seconds(lambda: product(rows, whole), rounds)


def measure(name: str, on_cpu: bool, rounds: int) -> tuple[int, float, float, float, float]:
    """(parameters, GFLOP an image forward, images/s forward, images/s with gradients, FLOP/s with gradients)."""
    config = settings(name, on_cpu)
    mesh, case = sharding.make_mesh(), NETWORKS[name]
    batch = case.on_cpu if on_cpu else case.on_accelerator
    batch += -batch % mesh.size
    network = from_config.task(config).network  # type: ignore[attr-defined]
    x = np.random.default_rng(0).normal(size=(batch, *config.data.shape)).astype(np.float32)
    cond = {"label": np.zeros(batch, np.int32)} if config.data.class_names else {}
    inputs = jax.device_put((x, np.ones(batch, np.float32), cond), sharding.of_batch(mesh))
    # Drawn by NumPy: compiling the initialisation of these networks takes minutes.
    abstract = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.02 * rng.normal(size=leaf.shape).astype(leaf.dtype), abstract)
    params = sharding.put_replicated(mesh, params)

    def forward(params: Any, *inputs: Any) -> Any:
        return network.apply({"params": params}, *inputs)

    def gradient(params: Any, *inputs: Any) -> Any:
        return jax.grad(lambda p: jnp.mean(jnp.square(forward(p, *inputs))))(params)

    taken, flops = [], []
    for function in (jax.jit(forward), jax.jit(gradient)):
        flops.append(function.lower(params, *inputs).cost_analysis()["flops"])  # type: ignore[index]
        taken.append(seconds(lambda function=function: function(params, *inputs), rounds))  # type: ignore[misc]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract))
    return parameters, flops[0] / batch / 1e9, batch / taken[0], batch / taken[1], flops[1] / taken[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"of {', '.join(NETWORKS)}, by comma (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    use_all_cores(2)
    keep_freed_memory()
    on_cpu = jax.default_backend() == "cpu"
    peak = peak_flops(on_cpu, options.rounds)
    print(f"{jax.device_count()} {jax.devices()[0].device_kind}; peak {peak / 1e9:,.0f} GFLOP/s\n")
    print("| network | image | parameters | GFLOP an image | forward | with gradients | share of peak |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in options.only.split(",") if options.only else NETWORKS:
        parameters, gflop, forward, gradients, rate = measure(name, on_cpu, options.rounds)
        image = "x".join(map(str, NETWORKS[name].image))
        print(
            f"| {name} | {image} | {parameters / 1e6:.1f} M | {gflop:.1f} | {forward:,.2f} images/s | "
            f"{gradients:,.2f} images/s | {rate / peak:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

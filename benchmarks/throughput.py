"""How fast jdiff trains and samples, and how it compares with diffusers on the same machine in the same run.

    python -m benchmarks.throughput [--json FILE] [--rounds 7]

One UNet on 32x32 colour images: about 1.6 M parameters, batch 32, float32 on a CPU; about 36 M, batch 256, bfloat16 on
an accelerator. Reported: start-up and compile times, images/s of the train step (loss, gradient, Adam, EMA), of one
forward pass and of sampling (Heun, 18 rungs: 35 passes), peak memory. Where torch and diffusers are installed,
UNet2DModel of the same widths takes turns with ours, round by round, and each ratio is the median over the rounds:
eager on a CPU, torch.compile with bfloat16 autocast on a GPU.
"""

import argparse
import datetime
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jdiff import from_config
from jdiff.common.host import keep_freed_memory, use_all_cores
from jdiff.config import defaults
from jdiff.model import Model
from jdiff.modes import train
from jdiff.tasks import Weights
from jdiff.training import sharding
from jdiff.weights.start import begin


def settings(on_cpu: bool) -> ConfigDict:
    """What is measured: DDPM's layout of the UNet, as UNet2DModel has it."""
    config = defaults()
    config.data.shape = (32, 32, 3)
    config.model.conditions = ()
    config.network.channels = 32 if on_cpu else 128
    config.network.channel_mults = (1, 2, 2) if on_cpu else (1, 2, 2, 2)
    config.network.blocks_per_level = 2
    config.network.attention_levels = (2,) if on_cpu else (1,)
    config.network.attention_heads = 8
    config.network.scale_shift = False
    config.network.dtype = "float32" if on_cpu else "bfloat16"
    config.train.steps = 1
    config.train.batch_size = 32 if on_cpu else 256
    config.sample.batch_size = config.train.batch_size
    config.sample.num_images = 2 * config.train.batch_size
    return config


class Ours:
    """Our train step, forward pass and sampling, compiled and warm."""

    def __init__(self, config: ConfigDict):
        mesh = sharding.make_mesh()
        task = from_config.diffusion(config)
        self.config, self.size = config, config.train.batch_size
        began = time.perf_counter()
        state = jax.block_until_ready(begin(config, task, mesh, None, 0))
        self.init_s = time.perf_counter() - began
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        batch = sharding.put_batch(mesh, from_config.view(config, train=True).example(self.size))
        began = time.perf_counter()
        self._step = train.make_step(config, task, state).lower(state, batch).compile()
        self.compile_s = time.perf_counter() - began
        self._state, self._batch = state, batch

        sigma = jax.device_put(np.ones(self.size, np.float32), sharding.of_batch(mesh))
        x = jax.device_put(np.zeros((self.size, *config.data.shape), np.float32), sharding.of_batch(mesh))
        weights = Weights(jax.tree.map(lambda leaf: leaf.copy(), state.ema), {})
        self._forward = partial(jax.jit(lambda w, x, s: task.denoiser(w)(x, s, {}).x0), weights, x, sigma)
        self._model = Model(config, task, mesh, weights, step=0)
        for warm_up in (self.train_step, self.forward, self.sample):
            warm_up()

    def train_step(self) -> None:
        self._state, logs = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, logs))

    def forward(self) -> None:
        jax.block_until_ready(self._forward())

    def sample(self) -> None:
        self._model.sample()


class Diffusers:
    """UNet2DModel of the same widths: train step (loss, gradient, Adam, EMA) and forward pass."""

    def __init__(self, config: ConfigDict, on_cpu: bool):
        torch, diffusers = import_module("torch"), import_module("diffusers")

        network = config.network
        attention = [level in network.attention_levels for level in range(len(network.channel_mults))]
        widths = tuple(mult * network.channels for mult in network.channel_mults)
        device = "cpu" if on_cpu else "cuda"
        self._torch, self._on_cpu = torch, on_cpu
        self.model = diffusers.UNet2DModel(
            sample_size=config.data.shape[0],
            layers_per_block=network.blocks_per_level,
            block_out_channels=widths,
            norm_num_groups=8 if on_cpu else 32,
            attention_head_dim=widths[-1] // network.attention_heads,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attention),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
        )
        self.model.to(device)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self._run = self.model if on_cpu else torch.compile(self.model)
        self._adam = torch.optim.Adam(self.model.parameters(), lr=2e-4, fused=not on_cpu)
        self._average = [p.detach().clone() for p in self.model.parameters()]
        shape = (config.train.batch_size, config.data.shape[2], *config.data.shape[:2])
        self._x0 = torch.zeros(shape, device=device)
        self._times = torch.full((shape[0],), 10.0, device=device)
        for warm_up in (self.train_step, self.forward):
            warm_up()

    def _call(self, x: Any) -> Any:
        with self._torch.autocast("cuda", self._torch.bfloat16, enabled=not self._on_cpu):
            return self._run(x, self._times).sample.float()

    def train_step(self) -> None:
        self._adam.zero_grad(set_to_none=True)
        noise = self._torch.randn_like(self._x0)
        ((self._call(self._x0 + noise) - noise) ** 2).mean().backward()
        self._adam.step()
        self._torch._foreach_lerp_(self._average, list(self.model.parameters()), 0.001)
        self._wait()

    def forward(self) -> None:
        with self._torch.no_grad():
            self._call(self._x0)
        self._wait()

    def _wait(self) -> None:
        if not self._on_cpu:
            self._torch.cuda.synchronize()


def peak_memory_mb(on_cpu: bool) -> float:
    if on_cpu:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20


def measure(rounds: int) -> dict[str, Any]:
    use_all_cores(32)
    keep_freed_memory()
    on_cpu = jax.default_backend() == "cpu"
    config = settings(on_cpu)
    start = began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import jdiff.modes.train"], check=True)
    import_s = time.perf_counter() - began
    ours = Ours(config)
    memory = peak_memory_mb(on_cpu)
    print(f"ours compiled after {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    try:
        theirs = Diffusers(config, on_cpu)
    except ImportError:
        theirs = None
    print(f"all compiled after {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)

    def turn(run: Callable[[], None]) -> float:
        repeat = 1 if on_cpu else 20
        began = time.perf_counter()
        for _ in range(repeat):
            run()
        return (time.perf_counter() - began) / repeat

    # Turns are short and many: the machine's speed drifts.
    kinds = ("train_step", "forward")
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for kind in kinds:
            for name, side in (("jdiff", ours), ("diffusers", theirs)):
                if side is not None:
                    taken.setdefault((name, kind), []).append(turn(getattr(side, kind)))
        taken.setdefault(("jdiff", "sample"), []).append(turn(ours.sample))

    def rate(name: str, kind: str, images: int) -> float:
        return images / statistics.median(taken[name, kind])

    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {jax.device_count()} {jax.devices()[0].device_kind}",
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "network": f"{ours.parameters:,} parameters, {config.network.dtype}, batch {ours.size}, 32x32x3",
        "rounds": rounds,
        "import_s": import_s,
        "init_s": ours.init_s,
        "compile_train_step_s": ours.compile_s,
        "train_images_per_s": rate("jdiff", "train_step", ours.size),
        "forward_images_per_s": rate("jdiff", "forward", ours.size),
        "sample_images_per_s": rate("jdiff", "sample", config.sample.num_images),
        "peak_memory_mb": memory,
    }
    if theirs is not None:
        result["versions"] |= {name: import_module(name).__version__ for name in ("torch", "diffusers")}
        result["diffusers_parameters"] = theirs.parameters
        for kind in kinds:
            short = kind.removesuffix("_step")
            result[f"diffusers_{short}_images_per_s"] = rate("diffusers", kind, ours.size)
            pairs = zip(taken["diffusers", kind], taken["jdiff", kind], strict=True)
            result[f"{short}_ratio_to_diffusers"] = statistics.median(their / our for their, our in pairs)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    result = measure(options.rounds)
    text = json.dumps(result, indent=2)
    for name, value in result.items():
        print(f"{name:32} {value:,.3f}" if isinstance(value, float) else f"{name:32} {value}")
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""Ladders for a model under a guidance, by the model's own trajectories (see diffusion/free_ladder.py)."""

import hashlib
import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jdiff.common.files import replace_file
from jdiff.diffusion import free_ladder, ladders
from jdiff.diffusion.free_ladder import Costs, Reference
from jdiff.diffusion.samplers import Sampler
from jdiff.from_config import presets
from jdiff.model import Model
from jdiff.request import Request
from jdiff.scoring.plan import Ask
from jdiff.tuning.choices import Settings

IMAGES = 32  # trajectories
MOST_RUNGS = 20  # of a free ladder: of more, the search takes long and wins little
RHOS = (1.5, 3.0, 5.0, 7.0, 10.0)
STARTS = (1.0, 0.5, 0.25, 0.125)  # of the highest sigma
ENDS = (1.0, 4.0, 16.0, 64.0)  # of the lowest


@dataclass(eq=False)
class Trajectories:
    """Trajectories of a model by its guidance, walked when they are asked for. seed: of their noise. file: where
    ladders are kept as they come.
    """

    model: Model
    ask: Ask
    seed: int
    file: Path
    known: dict[str, Reference] = field(default_factory=dict)
    costs: dict[tuple[str, Sampler], Costs] = field(default_factory=dict)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with suppress(OSError, ValueError, TypeError):  # absent or damaged: made anew
            self.kept = dict(json.loads(self.file.read_text("utf-8")))

    def of(self, guidance: Settings) -> Reference:
        """The trajectories under this guidance."""
        name = repr(sorted(guidance.items()))
        if name not in self.known:
            model = self.model.with_config(presets.applied(self.model.config, {**guidance, **ENDS_ALONE}))
            count = min(IMAGES, model.config.sample.batch_size)
            asked = ask_for(self.ask, model, count, self.seed)
            noise = jnp.asarray(model.noise(range(count), self.seed))
            self.known[name] = free_ladder.reference(
                model.denoiser(asked),
                noise,
                model.schedule.prior_std,
                sigma_max=float(asked.sigmas[0]),
                sigma_min=float(asked.sigmas[1]),
            )
        return self.known[name]

    def spread(self, guidance: Settings) -> float:
        """The standard deviation of the images at the trajectories' ends."""
        return float(np.std(np.asarray(self.of(guidance).x[-1])))

    def free(self, guidance: Settings, solver: Sampler, rungs: int) -> Settings:
        """The free ladder of so many rungs."""
        return self._once("free", guidance, solver, rungs, self._free)

    def karras(self, guidance: Settings, solver: Sampler, rungs: int) -> Settings:
        """The Karras ladder of so many rungs that ends nearest to the trajectories' ends."""
        return self._once("karras", guidance, solver, rungs, self._karras)

    def _once(
        self,
        kind: str,
        guidance: Settings,
        solver: Sampler,
        rungs: int,
        make: Callable[[Settings, Sampler, int], dict[str, Any]],
    ) -> Settings:
        """What is kept, or else made and kept."""
        asked = ask_for(
            self.ask, self.model.with_config(presets.applied(self.model.config, guidance)), IMAGES, self.seed
        )
        facts = repr((kind, solver, rungs, sorted(self.model.identity(asked).items())))
        key = hashlib.sha256(facts.encode()).hexdigest()[:16]
        if key not in self.kept:
            self.kept[key] = make(guidance, solver, rungs)
            replace_file(self.file, json.dumps(self.kept, indent=1) + "\n")
        return {name: tuple(value) if isinstance(value, list) else value for name, value in self.kept[key].items()}

    def _free(self, guidance: Settings, solver: Sampler, rungs: int) -> dict[str, Any]:
        found, key = self.of(guidance), (repr(sorted(guidance.items())), solver)
        if key not in self.costs:
            self.costs[key] = free_ladder.costs(solver, found)
        rungs_of = free_ladder.ladder(solver, found, rungs, of=self.costs[key])
        high = float(found.sigmas[0])
        return {"sample.ladder": "by_hand", "sample.sigmas": tuple(_rounded(sigma, high) for sigma in rungs_of[:-1])}

    def _karras(self, guidance: Settings, solver: Sampler, rungs: int) -> dict[str, Any]:
        found = self.of(guidance)
        high, low = float(found.sigmas[0]), float(found.sigmas[-1])
        ends = [
            {"rho": rho, "sigma_max": _rounded(high * start, high), "sigma_min": max(_rounded(low * end, high), low)}
            for rho, start, end in itertools.product(RHOS, STARTS, ENDS)
            if 4 * low * end < high * start
        ]
        best = int(np.argmin(free_ladder.errors(solver, found, [ladders.karras(rungs, **one) for one in ends])))
        return {"sample.ladder": "karras", **{f"sample.{name}": value for name, value in ends[best].items()}}


# The ladder of two rungs is the ends.
ENDS_ALONE = {"sample.sampler": "ddim", "sample.ladder": "karras", "sample.steps": 2}


def ask_for(ask: Ask, model: Model, count: int, seed: int) -> Request:
    """The request for so many images of this seed."""
    return ask(model, count, {"seed": seed})


def _rounded(sigma: float, high: float) -> float:
    """No higher than the model knows."""
    return min(float(f"{sigma:.5g}"), high)

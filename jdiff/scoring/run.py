"""The evaluation of a model: images are drawn, measured and forgotten, a batch at a time."""

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.common.processes import is_first_process, wait_for_all_processes
from jdiff.common.shards import Shards
from jdiff.conditions.label import AS_IN_DATA
from jdiff.config import one_of
from jdiff.evaluation import statistics
from jdiff.evaluation.gather import Images
from jdiff.evaluation.numbers import LOWER, OVER_IMAGES, Number, over_seeds
from jdiff.request import Request
from jdiff.scoring import data as of_data
from jdiff.scoring import pictures
from jdiff.scoring.judge import UNIFORM, Judge, Scored
from jdiff.scoring.result import Result, by_class


@runtime_checkable
class Draws(Protocol):
    """What draws: jdiff.model.Model."""

    config: ConfigDict
    step: int
    workdir: Path | None

    def request(self, num_images: int | None = None, **settings: Any) -> Request: ...
    def draw(self, asked: Request, *, first: int = 0) -> Iterator[Any]: ...
    def shown(self, images: Any) -> Any: ...
    def identity(self, asked: Request) -> dict[str, Any]: ...
    def nfe(self, **settings: Any) -> tuple[int, int]: ...
    def bits_per_dim(self, images: Any, **settings: Any) -> Any: ...


@dataclass(frozen=True, eq=False)
class Drawn:
    """The images of a request, drawn when they are asked for."""

    model: Draws
    asked: Request

    def __len__(self) -> int:
        return self.asked.count

    def batches(self, first: int = 0) -> Iterator[Images]:
        """The images from number `first` on."""
        for batch in self.model.draw(self.asked, first=first):
            labels = batch.labels if batch.labels is not None and batch.labels.ndim == 1 else None
            yield self.model.shown(batch.images), labels

    def of(self, numbers: Sequence[int] | np.ndarray) -> Images:
        """The images of these numbers, drawn again: within the batches that they were drawn in, so that nothing is
        compiled anew.
        """
        size, wanted = min(self.asked.config.sample.batch_size, self.asked.count), np.asarray(numbers)
        held: dict[int, np.ndarray] = {}
        for first in sorted(set((wanted // size * size).tolist())):
            config = self.asked.config.copy_and_resolve_references()
            config.sample.num_images = min(first + size, self.asked.count)
            batch = Drawn(self.model, replace(self.asked, config=config)).batches(first)
            images = np.concatenate([part for part, _ in batch])  # several parts where memory is short
            held |= {number: images[number - first] for number in wanted.tolist() if 0 <= number - first < size}
        return np.stack([held[number] for number in wanted.tolist()]), None


SAMPLING = ("sampler", "steps", "eta", "variance", "order", "s_churn", "rho", "guidance_scale", "shape", "batch_size")


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """What an evaluation draws: a request a seed. mix: how classes are mixed, in words. identity: all that decides its
    numbers.
    """

    requests: tuple[Request, ...]
    mix: str
    identity: Mapping[str, Any]

    @property
    def seeds(self) -> list[int]:
        return [asked.config.sample.seed for asked in self.requests]


def plan(model: Draws, judge: Judge, num_images: int | None = None, **settings: Any) -> Plan:
    """The plan of an evaluation; settings: as of Model.sample."""
    wanted, (labels, mix) = model.config.eval, class_mix(model, settings)
    first = settings.get("seed", model.config.sample.seed)
    seeds = range(first, first + (wanted.seeds or judge.protocol.seeds))
    if (num_images or judge.count) < 2:
        raise UserError(f"eval.num_images={num_images or judge.count}: numbers of a set need at least 2 images")
    requests = tuple(
        conditioned(model, model.request(num_images or judge.count, **{**settings, **labels, "seed": seed}), judge)
        for seed in seeds
    )
    identity = {
        "count": requests[0].count,
        "seeds": list(seeds),
        "batch_size": requests[0].config.sample.batch_size,
        "likelihood_images": wanted.likelihood_images,
        **model.identity(requests[0]),
        **judge.identity(),
    }
    return Plan(requests=requests, mix=mix, identity=identity)


def evaluate(
    model: Draws,
    judge: Judge,
    planned: Plan,
    *,
    out: Path | None = None,
    stop: Callable[[int], bool] = lambda done: False,
    progress: bool = False,
) -> Result | None:
    """The numbers of a model's images; None where `stop`, asked after each batch how many there are, said so.

    out: where features are kept as they come, so that the same call goes on after an end, and where pictures go.
    """
    began, runs, sets = time.monotonic(), [], []
    for asked, seed in zip(planned.requests, planned.seeds, strict=True):
        images = Drawn(model, asked)
        shards = begun(out, f"seed_{seed}", {**planned.identity, "seed": seed})
        bar = f"drawing images{f', seed {seed}' if len(planned.seeds) > 1 else ''}" if progress else ""
        found = judge.gather(images, shards, stop, bar)
        if found.count < asked.count:
            return None
        numbers, left_out = judge.numbers(found)
        runs.append(numbers)
        sets.append((images, found))
    images, found = sets[0]
    numbers = [*over_seeds(runs, lowest=judge.protocol.lowest), *likelihood(model, judge)]
    if out is not None:
        pictures.write(out, images, judge, found)
        discard(out, [f"seed_{seed}" for seed in planned.seeds])
    facts = {
        **described(judge, images.asked.count),
        "seeds": planned.seeds,
        "checkpoint": {"workdir": str(model.workdir or ""), "step": model.step},
        "weights": planned.identity["weights.model"],
        "sampling": {**sampling(images.asked), "class_mix": planned.mix},
        "seconds": round(time.monotonic() - began, 1),
    }
    return Result(numbers=tuple(numbers), left_out=tuple(left_out), by_class=by_class(judge, found), facts=facts)


def sampling(asked: Request) -> dict[str, Any]:
    """How images are drawn."""
    calls = asked.sampler.nfe(len(asked.sigmas) - 1)
    return {
        **{name: value for name, value in asked.config.sample.to_dict().items() if name in SAMPLING},
        "ladder": asked.sigmas.tolist(),
        "nfe": calls,
        "passes": calls and calls * asked.passes(),
        "guidance": asked.config.guidance.to_dict(),
        "guided": asked.guided,
        "classes": _classes(asked),
    }


def score_files(
    judge: Judge,
    images: Scored,
    identity: Mapping[str, Any],
    *,
    out: Path | None = None,
    stop: Callable[[int], bool] = lambda done: False,
    progress: bool = False,
) -> Result | None:
    """As `evaluate`, of images that exist already. identity: all that decides their numbers."""
    began = time.monotonic()
    shards = begun(out, "files", identity)
    found = judge.gather(images, shards, stop, "features of the images" if progress else "")
    if found.count < len(images):
        return None
    numbers, left_out = judge.numbers(found)
    if out is not None:
        pictures.write(out, images, judge, found)
        discard(out, ["files"])
    facts = {
        **described(judge, found.count),
        "images": {"place": judge.config.eval.images, "fingerprint": identity["images"]},
        "seconds": round(time.monotonic() - began, 1),
    }
    return Result(numbers=tuple(numbers), left_out=tuple(left_out), by_class=by_class(judge, found), facts=facts)


def described(judge: Judge, count: int) -> dict[str, Any]:
    """What numbers mean nothing without, but for how images were drawn."""
    protocol, config = judge.protocol, judge.config
    return {
        "protocol": {
            "name": protocol.name,
            "about": protocol.about,
            "features": protocol.features,
            "space": statistics.plain(judge.space),
            "quantised": "uint8",
            "reported": "lowest of the seeds" if protocol.lowest else "mean over seeds",
        },
        "count": count,
        "reference": {"place": judge.place, "count": judge.reference.count, **dict(judge.reference.facts)},
        "data": {
            "name": config.data.name,
            "dir": config.data.dir,
            "fingerprint": judge.data.fingerprint if judge.data else config.data.fingerprint,
            "held_out": len(judge.data.held_out) if judge.data and judge.data.held_out else 0,
        },
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what computes the numbers."""
    found = {"python": platform.python_version(), "device": jax.devices()[0].device_kind}
    for name in ("jdiff-diffusion", "jax", "numpy", "scipy"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def begun(out: Path | None, name: str, wanted: Mapping[str, Any]) -> Shards | None:
    """Where features of this request are kept; those of another one are deleted."""
    if out is None:
        return None
    shards = Shards(out / name, "features")
    if is_first_process():
        shards.begin(json.loads(json.dumps(wanted)))
    wait_for_all_processes(f"features of {name}")
    return shards


def discard(out: Path, names: Sequence[str]) -> None:
    """Delete features that have become numbers."""
    for name in names if is_first_process() else ():
        Shards(out / name, "features").discard()
        with suppress(OSError):  # files of others are there
            (out / name).rmdir()


def class_mix(model: Draws, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """(which classes are drawn, as a setting of a request, how they are mixed in words); {} where the caller or the
    config says.
    """
    config = model.config
    wanted, data = config.eval.labels, config.data
    if "label" not in config.model.conditions:
        if wanted:
            raise UserError(f"eval.labels={wanted!r}: this model was trained without labels")
        return {}, ""
    if isinstance(given := settings.get("labels"), str):
        wanted = one_of("labels", given, [AS_IN_DATA, UNIFORM])
    elif given is not None or (config.sample.labels and not wanted):
        return {}, "as asked"
    known = data.labels_per_image == 1 and any(data.class_counts)
    if wanted == AS_IN_DATA or (not wanted and known):
        return {"labels": AS_IN_DATA}, "as in the data"
    if data.labels_per_image > 1:
        return {}, UNIFORM
    counts = data.class_counts or (1,) * len(data.class_names)
    return {"labels": [number for number, count in enumerate(counts) if count]}, UNIFORM


def conditioned(model: Draws, asked: Request, judge: Judge) -> Request:
    """A request that is given the conditions of held-out images (or of training images, where none are held out), where
    a model takes more than classes.
    """
    given = set(asked.config.model.conditions) - {"label", "aspect"}
    if not given or judge.data is None:
        return asked
    rows, captions = of_data.conditions(asked.config, model.workdir)
    in_turn = {name: values for name, values in asked.in_turn.items() if name not in (*rows, "drop")}
    return replace(asked, in_turn={**in_turn, **rows}, captions=captions)


def likelihood(model: Draws, judge: Judge) -> list[Number]:
    """Bits per dimension of held-out images, where they are asked for."""
    count = model.config.eval.likelihood_images
    if not count:
        return []
    if judge.data is None or judge.data.held_out is None:
        raise UserError("eval.likelihood_images: there are no held-out images (data.holdout)")
    images, labels = of_data.raw(judge.data.held_out, count)
    given = {} if labels is None or "label" not in model.config.model.conditions else {"labels": labels}
    batch = {"batch_size": min(len(images), model.config.sample.batch_size)}
    bits = model.bits_per_dim(images, **given, **batch)
    return [
        Number(
            name="bits_per_dim",
            title="Bits/dim",
            value=float(bits.mean()),
            error=float(bits.std(ddof=1) / np.sqrt(len(bits))) if len(bits) > 1 else None,
            spread=OVER_IMAGES,
            better=LOWER,
            about=f"bits a pixel value that held-out images of {judge.config.data.dtype} take, by the probability flow",
            count=len(images),
        )
    ]


def _classes(asked: Request) -> dict[str, int]:
    """How many images of each class were asked for."""
    if asked.labels is None or asked.labels.ndim > 1:
        return {}
    names = asked.config.data.class_names
    counts = np.bincount(asked.labels, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}

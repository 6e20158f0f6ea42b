"""The evaluation of a model: images are drawn, measured and forgotten, a batch at a time."""

import json
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdiff.common.processes import is_first_process, wait_for_all_processes
from jdiff.common.shards import Shards
from jdiff.evaluation import statistics
from jdiff.evaluation.numbers import LOWER, OVER_IMAGES, Number, over_seeds
from jdiff.request import Request
from jdiff.scoring import pictures
from jdiff.scoring.judge import Judge, Scored
from jdiff.scoring.plan import Drawn, Draws, Plan
from jdiff.scoring.result import Result

FILES = "files"  # the folder of features of images that exist already
SAMPLING = ("sampler", "steps", "eta", "variance", "order", "s_churn", "rho", "shape", "batch_size")


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
    began, before, sets = time.monotonic(), 0, []
    for asked, seed in zip(planned.requests, planned.seeds, strict=True):
        images = Drawn(model, asked)
        shards, there = begun(out, f"seed_{seed}", {**planned.identity, "seed": seed})
        before += there
        bar = f"drawing images{f', seed {seed}' if len(planned.seeds) > 1 else ''}" if progress else ""
        found = judge.gather(images, shards, stop, bar)
        if found.count < asked.count:
            return None
        sets.append((images, found, *judge.numbers(found)))
    images, found, _, _, by_class = sets[0]
    numbers = over_seeds([given for _, _, given, _, _ in sets], lowest=judge.protocol.lowest)
    left_out = dict.fromkeys(reason for _, _, _, reasons, _ in sets for reason in reasons)
    numbers += likelihood(model, judge)
    if out is not None:
        pictures.write(out, images, judge, found)
    facts = {
        **described(judge, images.asked.count, len(planned.seeds)),
        "seeds": planned.seeds,
        "checkpoint": of_weights(model),
        "weights": planned.identity["weights.model"],
        "sampling": {**sampling(images.asked), "class_mix": planned.mix},
        "seconds": round(time.monotonic() - began, 1),
        "resumed_at": before,  # images of earlier starts, which the seconds are without
    }
    return Result(numbers=tuple(numbers), left_out=tuple(left_out), by_class=by_class, facts=facts)


def sampling(asked: Request) -> dict[str, Any]:
    """How images are drawn."""
    calls = asked.sampler.nfe(len(asked.sigmas) - 1)
    return {
        **{name: value for name, value in asked.config.sample.to_dict().items() if name in SAMPLING},
        **({"preset": asked.config.sample.preset} if asked.config.sample.preset else {}),
        "ladder": asked.sigmas.tolist(),
        "nfe": calls,
        "passes": calls and calls * asked.passes(),
        "guidance_scale": _scale(asked),
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
    shards, before = begun(out, FILES, identity)
    found = judge.gather(images, shards, stop, "features of the images" if progress else "")
    if found.count < len(images):
        return None
    numbers, left_out, by_class = judge.numbers(found)
    if out is not None:
        pictures.write(out, images, judge, found)
    facts = {
        **described(judge, found.count, 0),
        "images": {"place": judge.config.eval.images, "fingerprint": identity["images"]},
        "seconds": round(time.monotonic() - began, 1),
        "resumed_at": before,  # images of earlier starts, which the seconds are without
    }
    return Result(numbers=tuple(numbers), left_out=tuple(left_out), by_class=by_class, facts=facts)


def described(judge: Judge, count: int, seeds: int) -> dict[str, Any]:
    """What numbers mean nothing without, but for how images were drawn."""
    protocol, config = judge.protocol, judge.config
    return {
        "protocol": {
            "name": protocol.name,
            "about": protocol.about,
            "features": protocol.features,
            "space": statistics.plain(judge.space),
            "classifier_accuracy": judge.accuracy,
            "quantised": "uint8",
            "reported": "one set" if seeds < 2 else "lowest of the seeds" if protocol.lowest else "mean over seeds",
            "departs": protocol.departures(count, seeds or protocol.seeds),
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


def of_weights(model: Draws) -> dict[str, Any]:
    """Which weights: the run, the step, and the average's width where it is not the ordinary one."""
    width = {"ema": model.config.sample.ema} if model.config.sample.ema else {}
    return {"workdir": str(model.workdir or ""), "step": model.step, **width}


def versions() -> dict[str, str]:
    """Of what computes the numbers."""
    found = {"python": platform.python_version(), "device": jax.devices()[0].device_kind}
    for name in ("jdiff-diffusion", "jax", "numpy", "scipy"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def begun(out: Path | None, name: str, wanted: Mapping[str, Any]) -> tuple[Shards | None, int]:
    """(where features of this request are kept, how many of them an earlier start has left); those of another one are
    deleted.
    """
    if out is None:
        return None, 0
    shards, rows = Shards(out / name, "features"), 0
    if is_first_process():
        rows, _ = shards.begin(json.loads(json.dumps(wanted)))
    wait_for_all_processes(f"features of {name}")
    return shards, rows


def discard(out: Path) -> None:
    """Delete the features in a folder, once they have become numbers."""
    for folder in (*out.glob("seed_*"), out / FILES) if is_first_process() else ():
        Shards(folder, "features").discard()
        with suppress(OSError):  # files of others are there
            folder.rmdir()


def likelihood(model: Draws, judge: Judge) -> list[Number]:
    """Bits per dimension of held-out images, where they are asked for."""
    count = model.config.eval.likelihood_images
    if not count:
        return []
    assert judge.data is not None  # as was checked
    assert judge.data.held_out is not None
    images, labels = judge.data.held_out.raw(np.arange(min(count, len(judge.data.held_out))))
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


def _scale(asked: Request) -> float | list[float]:
    """The guidance's scale: a number, or one an image."""
    scales = np.unique(asked.scale)
    return float(scales[0]) if len(scales) == 1 else asked.scale.tolist()

"""--mode=sample: images from a trained model, into a folder."""

import hashlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jdiff import previews
from jdiff.common import pictures
from jdiff.common.errors import UserError
from jdiff.common.shards import Shards
from jdiff.model import Batch, Model, restore
from jdiff.request import Request
from jdiff.training import history, sharding
from jdiff.training.writers import say

# Keys that change no image: what is written besides, and how many are drawn at a time.
FREE = ("name", "batch_size", "save_images", "trajectory", "compare_steps", "checkpoint")
MOST_NAMED = 10  # classes in a line


def sample(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Write samples.npz, grid.png and what else config.sample asks for to `out`; the exit status.

    Images are kept in shards as they come, and the same request goes on from there.
    """
    model = restore(config, workdir)
    asked, shards = model.request(), Shards(out or workdir / "samples" / config.sample.name, "samples")
    try:
        first = begin(model, asked, shards)
        seconds, calls = draw(model, asked, shards, first)
        stages = draw_stages(model, asked)
        if jax.process_index() == 0:
            shards.finish(asked.count)
            write_pictures(model, asked, shards, stages)
            shards.clear()
    except OSError as error:
        raise UserError(
            f"cannot write the samples to {shards.folder}: {error}; make room, and the same command goes on, or give "
            "another folder with --out"
        ) from error
    past = workdir / history.FILE
    say(
        f"{asked.count} images from step {model.step}: {config.sample.sampler}, NFE {calls}, "
        f"{calls * asked.passes()} network passes, guidance {config.sample.guidance_scale}, {seconds:.1f} s with "
        f"compilation\nsamples: {shards.file}\npicture: {shards.folder / 'grid.png'}"
        + (f"\nhistory of the run: {past}" if past.is_file() else "")
    )
    return 0


def begin(model: Model, asked: Request, shards: Shards) -> int:
    """How many images of this request are there already. Tells what is to come. Raises OSError where the folder cannot
    be written.
    """
    request, rows, fault = request_of(model, asked), -1, None
    if jax.process_index() == 0:
        try:
            rows, other = shards.begin(request)
            if other:
                say(f"{shards.parts} held images of another request ({', '.join(other[:5])}); drawing anew")
        except OSError as error:
            fault = error
    rows = sharding.of_first_process(rows)
    if rows < 0:
        raise fault or UserError("the first process cannot write the samples")
    sample = asked.config.sample
    if rows:
        say(f"{rows} of {asked.count} images are there already, in {shards.parts}; drawing the rest")
    if told := class_mix(asked):
        say(told)
    size = min(sample.batch_size, asked.count)
    calls = asked.sampler.nfe(len(asked.sigmas) - 1)
    each = "as many network calls as the solver needs" if calls is None else f"{calls * asked.passes():,} network calls"
    say(f"drawing {asked.count - rows:,} images, {size:,} at a time: {each} for each {size:,}")
    return rows


def draw(model: Model, asked: Request, shards: Shards, first: int) -> tuple[float, int]:
    """(seconds, denoiser calls for an image): draw the images from number `first` on, each batch into a shard."""
    began, calls, done = time.monotonic(), asked.sampler.nfe(len(asked.sigmas) - 1) or 0, first
    texts = None if asked.captions is None else np.array(asked.captions).dtype
    try:
        for batch in model.draw(asked, first=first, progress=model.config.log.progress):
            if jax.process_index() == 0:
                shards.write(done, arrays_of(batch, texts))
            calls, done = max(calls, batch.calls), done + len(batch.indices)
    except KeyboardInterrupt:
        say(f"{done} of {asked.count} images are in {shards.parts}; the same command draws the rest")
        raise
    return time.monotonic() - began, calls


def arrays_of(batch: Batch, texts: Any) -> dict[str, np.ndarray]:
    """What a shard holds. texts: the dtype of all texts."""
    known = {"labels": batch.labels, "texts": None if batch.texts is None else np.array(batch.texts, texts)}
    return {"images": batch.images} | {name: values for name, values in known.items() if values is not None}


def request_of(model: Model, asked: Request) -> dict[str, Any]:
    """All that decides the images, for the index."""
    sample, guidance = asked.config.sample.to_dict(), asked.config.guidance.to_dict()
    given = hashlib.sha256()
    for array in jax.tree.leaves((asked.in_turn, asked.scale)):
        given.update(np.ascontiguousarray(array).tobytes())
    return {
        "step": model.step,
        **{f"weights.{name}": number for name, number in model.fingerprints(asked).items()},
        **{f"sample.{name}": value for name, value in sample.items() if name not in FREE},
        **{f"guidance.{name}": value for name, value in guidance.items()},
        "conditions": given.hexdigest()[:16],
    }


def class_mix(asked: Request) -> str:
    """The classes of the images to come in a line, and the data's where they are mixed otherwise; "" without labels."""
    labels, data, sample = asked.labels, asked.config.data, asked.config.sample
    if labels is None or labels.ndim > 1:
        return ""
    names, counts = data.class_names, np.bincount(labels, minlength=len(data.class_names))
    drawn = [(int(count), name) for count, name in zip(counts, names, strict=True) if count]
    line = f"classes: {_mixed(drawn)}"
    total = sum(data.class_counts)
    if total and not sample.labels:
        there = np.array(data.class_counts) / total
        even = np.ptp(counts) <= 1  # but for the rest of a division
        shares = np.full(len(names), 1 / len(names)) if even else counts / len(labels)
        if np.abs(shares - there).sum() / 2 > 0.05:
            known = [(f"{share:.1%}", name) for share, name in zip(there, names, strict=True)]
            line += f"; the data: {_listed(known)} (as there with sample.labels=data)"
    return line


def _mixed(drawn: list[tuple[int, str]]) -> str:
    least, most = min(drawn)[0], max(drawn)[0]
    if most - least > 1 and len(drawn) > 1:
        return _listed(drawn)
    each = f"{most} each" if least == most else f"{least} or {most} each"
    names = [name for _, name in drawn]
    some = ", ".join(names[:MOST_NAMED])
    return f"{each} of {some}" + (f", ... ({len(names)} classes)" if len(names) > MOST_NAMED else "")


def _listed(shares: list[tuple[Any, str]]) -> str:
    some = ", ".join(f"{share} {name}" for share, name in shares[:MOST_NAMED])
    return some + (f", ... ({len(shares)} classes)" if len(shares) > MOST_NAMED else "")


def draw_stages(model: Model, asked: Request) -> dict[str, np.ndarray]:
    """The stages [stages, n, h, w, c] of the first images, by the name of their picture."""
    settings = asked.config.sample
    first, stages = min(previews.STRIP_IMAGES, settings.num_images), {}
    if settings.trajectory:
        stages["trajectory"] = model.trajectory(first)
    if settings.compare_steps:
        compared = model.compare_steps(settings.compare_steps, first)
        stages["steps"] = np.stack([model.shown(images) for images in compared])
    return stages


def write_pictures(model: Model, asked: Request, shards: Shards, stages: dict[str, np.ndarray]) -> None:
    """grid.png, and what else config.sample asks for."""
    settings, out = asked.config.sample, shards.folder
    for stale in (*out.glob("trajectory.*"), *out.glob("steps.png"), *out.glob("images/*.png")):  # of an earlier call
        stale.unlink()
    images: Iterator[np.ndarray] = itertools.chain.from_iterable(part["images"] for part in shards)
    few = np.stack(list(itertools.islice(images, previews.GRID_IMAGES)))
    pictures.save_png(out / "grid.png", previews.grid(model, few))
    if settings.save_images:
        numbers = itertools.count()
        for part in shards:
            for image in model.shown(part["images"]):
                pictures.save_png(out / "images" / f"{next(numbers):06d}.png", image)
    if "trajectory" in stages:
        pictures.save_png(out / "trajectory.png", previews.strip(stages["trajectory"]))
        pictures.save_gif(out / "trajectory.gif", [pictures.grid(frame) for frame in stages["trajectory"]])
    if "steps" in stages:
        pictures.save_png(out / "steps.png", previews.columns(stages["steps"]))

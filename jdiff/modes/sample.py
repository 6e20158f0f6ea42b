"""--mode=sample: images from a trained model, into a folder."""

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import jdiff.config
from jdiff import previews
from jdiff.common import pictures
from jdiff.common.arrays import fingerprint
from jdiff.common.errors import UserError
from jdiff.common.ownership import check_clear, owned
from jdiff.common.processes import is_first_process, of_first_process
from jdiff.common.progress import say
from jdiff.common.shards import Shards
from jdiff.common.signals import leave
from jdiff.model import Batch, Model, restore
from jdiff.request import Request
from jdiff.tasks.autoencoder import AutoencoderTask
from jdiff.training import history
from jdiff.training.interrupt import Interrupt

IMAGES = "images"  # the folder of a PNG an image
MOST_NAMED = 10  # classes in a line
WEAK_PRIOR = 1e-3  # of autoencoder.beta
FINISHED, FAULT = -1, -2  # in place of a number of images


@dataclass
class Drawing:
    """done: images there, None until that is known. drawing: whether a batch is under way."""

    place: Path
    count: int = 0
    done: int | None = None
    drawing: bool = False

    def ending(self) -> str | None:
        """The batch; there is nothing else to bring to an end."""
        return "finishing this batch, then stopping" if self.drawing else None

    def left(self) -> str:
        """What is there, and what is not."""
        if self.done is None:
            return "stopped; nothing is lost"
        return f"stopped; {'the batch under way is lost; ' if self.drawing else ''}{self.there()}"

    def there(self) -> str:
        """What the same command finds."""
        rest = "draws the rest" if (self.done or 0) < self.count else "writes samples.npz"
        return f"{self.done} of {self.count} images are in {self.place}; the same command {rest}"


def sample(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Write samples.npz, grid.png and what else config.sample asks for to `out`; the exit status (128 + signal where
    one ended it).

    Images are kept in shards as they come, and the same request goes on from there.
    """
    shards = Shards(out or workdir / "samples" / config.sample.name, "samples")
    with Interrupt(Drawing(shards.parts)) as interrupt, ExitStack() as stack:
        model = restore(config, workdir)
        try:
            if isinstance(model.task, AutoencoderTask):
                status = sample_prior(model, config, workdir, shards, stack)
            else:
                asked = model.request(condition_dir=config.sample.condition_dir or None)
                status = _sample(model, workdir / history.FILE, asked, shards, interrupt, stack)
        except OSError as error:
            raise UserError(
                f"cannot write the samples to {shards.folder}: {error}; make room, and the same command goes on, or "
                "give another folder with --out"
            ) from error
    if interrupt.signal:
        leave(status)  # an end as ever would wait for the batch that is computed ahead
    return status


OF_PRIOR = tuple(
    f"sample.{key}" for key in ("name", "num_images", "batch_size", "seed", "checkpoint", "ema", "save_images")
)


def sample_prior(model: Model, config: ConfigDict, workdir: Path, shards: Shards, stack: ExitStack) -> int:
    """Write samples.npz and grid.png of images from a VAE's prior; the exit status."""
    before = dict(jdiff.config.items(jdiff.config.of_run(workdir)))
    for name, value in jdiff.config.items(config):
        if name.startswith(("sample.", "guidance.")) and name not in OF_PRIOR and value != before[name]:
            raise UserError(
                f"{name}={value!r} is for diffusion models, and {workdir} holds an autoencoder: it samples by its "
                "decoder and a seed alone"
            )
    if config.machine.distributed:
        raise UserError("machine.distributed=True: an autoencoder's samples are drawn by one process; start it alone")
    wanted, step = config.sample, model.step
    model.prior(1)  # whether there is one
    stack.enter_context(owned(shards.folder, "--out"))
    check_clear(shards.folder, [IMAGES], begun=_begun(shards))
    request = {"step": step, "seed": wanted.seed, "weights": fingerprint(model.weights)}
    if not shards.finished(request, wanted.num_images):
        rows, _ = shards.begin(request)
        for first in range(rows, wanted.num_images, wanted.batch_size):
            count = min(wanted.batch_size, wanted.num_images - first)
            shards.write(first, {"images": model.prior(count, first=first)})
        shards.finish(request, wanted.num_images)
    for number, image in enumerate(itertools.chain.from_iterable(shards.blocks("images"))):
        if wanted.save_images:
            pictures.save_png(shards.folder / "images" / f"{number:06d}.png", model.shown(image[None])[0])
    few = np.stack(list(itertools.islice(itertools.chain.from_iterable(shards.blocks("images")), previews.GRID_IMAGES)))
    pictures.save_png(shards.folder / "grid.png", pictures.grid(model.shown(few)))
    beta = config.autoencoder.beta
    if beta < WEAK_PRIOR:
        say(
            f"autoencoder.beta={beta:g} hardly draws latents to the prior N(0, 1), so these look little like the data: "
            f"train a diffusion model of the latents, with model.space='latents' and space.autoencoder={workdir}"
        )
    say(
        f"{wanted.num_images} images from the prior, step {step}\nsamples: {shards.file}\n"
        f"picture: {shards.folder / 'grid.png'}"
    )
    return 0


def _sample(
    model: Model, past: Path, asked: Request, shards: Shards, interrupt: Interrupt[Drawing], stack: ExitStack
) -> int:
    request, work = model.identity(asked), interrupt.work
    first = begin(asked, request, shards, stack)
    if first == FINISHED:
        drawn = f"all {asked.count} images of this request are there already"
    else:
        work.count, work.done, work.drawing = asked.count, first, True
        seconds, calls = draw(model, asked, shards, interrupt)
        work.drawing = False
        if interrupt.signal:
            say(work.there())
            return 128 + interrupt.signal
        if is_first_process():
            shards.finish(request, asked.count)
        work.done = None
        drawn = (
            f"{asked.count} images from step {model.step}: {asked.config.sample.sampler}, NFE {calls}, "
            f"{calls * asked.passes()} network passes, guidance {asked.config.sample.guidance_scale}, {seconds:.1f} s "
            "with compilation"
        )
    add_pictures(model, asked, shards)
    say(
        f"{drawn}\nsamples: {shards.file}\npicture: {shards.folder / 'grid.png'}"
        + (f"\nimages: {shards.folder / IMAGES}" if asked.names else "")
        + (f"\nhistory of the run: {past}" if past.is_file() else "")
    )
    return 0


def begin(asked: Request, request: Mapping[str, Any], shards: Shards, stack: ExitStack) -> int:
    """How many images of this request are there already, or FINISHED. Tells what is to come; the folder is this
    command's own from now on. Raises UserError where another writes there, OSError where it cannot be written.
    """
    rows, fault = FAULT, None
    if is_first_process():
        try:
            stack.enter_context(owned(shards.folder, "--out"))
            check_clear(shards.folder, [IMAGES], begun=_begun(shards), reads=asked.config.sample.condition_dir)
            if shards.finished(request, asked.count):
                rows = FINISHED
            else:
                rows, other = shards.begin(request)
                if other:
                    say(f"{shards.parts} held images of another request ({', '.join(other[:5])}); drawing anew")
        except (OSError, UserError) as error:
            fault = error
    rows = of_first_process(lambda: rows)
    if rows == FAULT:
        raise fault or UserError("the first process cannot write the samples")
    if rows == FINISHED:
        return rows
    sample = asked.config.sample
    if rows:
        say(f"{rows} of {asked.count} images are there already, in {shards.parts}; drawing the rest")
    for told in filter(None, (asked.note, class_mix(asked))):
        say(told)
    size = min(sample.batch_size, asked.count)
    say(f"drawing {asked.count - rows:,} images, {size:,} at a time: {asked.calls_told()} for each {size:,}")
    return rows


def _begun(shards: Shards) -> bool:
    return bool(shards.told()) or shards.parts.is_dir()


def draw(model: Model, asked: Request, shards: Shards, interrupt: Interrupt[Drawing]) -> tuple[float, int]:
    """(seconds, denoiser calls for an image): draw the images that are not there, each batch into a shard, until a
    signal comes.
    """
    began, calls, work = time.monotonic(), asked.sampler.nfe(len(asked.sigmas) - 1) or 0, interrupt.work
    first = work.done or 0
    for batch in model.draw(asked, first=first, progress=model.config.log.progress):
        if is_first_process():
            shards.write(first, arrays_of(batch, asked))
        calls, first = max(calls, batch.calls), first + len(batch.indices)
        work.done = first
        if interrupt.asked(first, 1):
            break
    return time.monotonic() - began, calls


def arrays_of(batch: Batch, asked: Request) -> dict[str, np.ndarray]:
    """What a shard holds; texts and names of the dtype that holds all."""
    known = {"images": batch.images, "labels": batch.labels}
    for name, values in (("texts", asked.captions), ("names", asked.names)):
        known[name] = np.array(values)[batch.indices % len(values)] if values else None
    return {name: values for name, values in known.items() if values is not None}


def images_of(asked: Request) -> list[str]:
    """The names of the images' files: those of their conditions' files, where there are some."""
    count, names = asked.count, asked.names
    if not names:
        return [f"{IMAGES}/{number:06d}.png" for number in range(count)]
    return [
        f"{IMAGES}/{names[i % len(names)]}{f'_{i // len(names) + 1}' if count > len(names) else ''}.png"
        for i in range(count)
    ]


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
    given = {"cond_images": asked.in_turn["image"]} if asked.names else {}
    if settings.trajectory:
        stages["trajectory"] = model.trajectory(first, **given)
    if settings.compare_steps:
        compared = model.compare_steps(settings.compare_steps, first, **given)
        stages["steps"] = np.stack([model.shown(images) for images in compared])
    return stages


def add_pictures(model: Model, asked: Request, shards: Shards) -> None:
    """Write the pictures that are asked for, where they are not there already."""
    settings, told = asked.config.sample, shards.told()
    wanted = {
        "save_images": settings.save_images or bool(asked.names),
        "trajectory": settings.trajectory,
        "compare_steps": list(settings.compare_steps),
    }
    names = ["grid.png"]
    names += ["trajectory.png", "trajectory.gif"] if settings.trajectory else []
    names += ["steps.png"] if settings.compare_steps else []
    names += images_of(asked) if wanted["save_images"] else []
    there = told.get("pictures") == wanted and all((shards.folder / name).is_file() for name in names)
    if of_first_process(lambda: there):
        return
    stages = draw_stages(model, asked)
    if is_first_process():
        request = {key: value for key, value in told.items() if key != "pictures"}
        shards.tell(request)
        write_pictures(model, asked, shards, stages)
        shards.tell(request | {"pictures": wanted})


def write_pictures(model: Model, asked: Request, shards: Shards, stages: dict[str, np.ndarray]) -> None:
    """grid.png, and what else config.sample asks for."""
    settings, out = asked.config.sample, shards.folder
    for stale in (
        *out.glob("trajectory.*"),
        *out.glob("steps.png"),
        *out.glob(f"{IMAGES}/**/*.png"),
    ):  # of an earlier call
        stale.unlink()
    images: Iterator[np.ndarray] = itertools.chain.from_iterable(shards.blocks("images"))
    shown = previews.numbers_of(asked)
    few = {number: image for number, image in zip(range(max(shown) + 1), images, strict=False) if number in shown}
    pictures.save_png(out / "grid.png", previews.grid(model, np.stack([few[number] for number in shown]), asked))
    if settings.save_images or asked.names:
        names = iter(images_of(asked))
        for block in shards.blocks("images"):
            for image in model.shown(block):
                pictures.save_png(out / next(names), image)
    if "trajectory" in stages:
        pictures.save_png(out / "trajectory.png", previews.strip(stages["trajectory"]))
        pictures.save_gif(out / "trajectory.gif", [pictures.grid(frame) for frame in stages["trajectory"]])
    if "steps" in stages:
        pictures.save_png(out / "steps.png", previews.columns(stages["steps"]))

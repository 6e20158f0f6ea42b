"""--mode=reconstruct: images through an autoencoder and back, with numbers and pictures."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import jdiff.config
from jdiff import from_config, previews, scoring
from jdiff.common import pictures
from jdiff.common.errors import UserError
from jdiff.common.files import replace_file
from jdiff.common.ownership import owned
from jdiff.common.progress import Progress, progress_bar, say
from jdiff.common.ranges import SCREEN
from jdiff.evaluation.gather import Pictures
from jdiff.evaluation.numbers import LOWER, OVER_IMAGES, Number
from jdiff.model import Model, restore
from jdiff.networks.bottlenecks import Gaussian
from jdiff.scoring import report
from jdiff.scoring.data import Data, open_data, open_files
from jdiff.scoring.latent_use import LatentUse
from jdiff.scoring.reconstruction import Features, Scores, score
from jdiff.spaces import AUTOENCODER
from jdiff.tasks.autoencoder import AutoencoderTask
from jdiff.weights.read import names_another_autoencoder

FILE = "reconstruction.json"
SHOWN = 16  # pairs in a picture
BITS = 1_000  # images whose bits are bounded
FRAMES = 10  # of an interpolation


def reconstruct(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Write reconstruction.json and pictures (pairs, the worst, the best, a way through the latents) to `out`; print
    the numbers; the exit status.
    """
    if config.machine.distributed:
        raise UserError("machine.distributed=True: --mode=reconstruct works by one process; start it alone")
    out = out or workdir / "reconstruction"
    model = autoencoder_of(config, workdir)
    config, images, data = _images(model.config)
    bar: Callable[[str], Progress] = lambda what: progress_bar(what, show=config.log.progress)  # noqa: E731
    task = model.task
    assert isinstance(task, AutoencoderTask)
    features, left_out = _features(config, model, data, bar) if len(images) > 1 else (None, "distances of one image")
    found = score(
        images,
        model.given_back,
        LatentUse(task.first_stage.bottleneck, model.weights.state),
        stride=task.first_stage.stride,
        lpips=_lpips(model),
        features=features,
        progress=bar("reconstructing"),
    )
    numbers = [*found.numbers, *_bits(model, images)]
    try:
        with owned(out, "--out"):
            _write(out, model, config, images, found, numbers)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error}; make room, or give another folder with --out") from error
    lines = report.lines(numbers, [left_out] if left_out else [])
    say("\n".join([*lines, *found.faults, "", f"of {len(images):,} {_what(config)}, step {model.step:,}", f"in {out}"]))
    return 0


def autoencoder_of(config: ConfigDict, workdir: Path) -> Model:
    """The autoencoder of a run: itself, or the one whose latents it models."""
    if config.model.space != "latents":
        model = restore(config, workdir)
        if not isinstance(model.task, AutoencoderTask):
            raise UserError(
                f"{workdir} holds a run of task={config.task!r} in pixels; --mode=reconstruct is for a run of "
                "task='autoencoder', or of latents"
            )
        return model
    if names_another_autoencoder(config, workdir):
        raise UserError(
            f"--mode=reconstruct is of the autoencoder that {workdir} keeps: leave space.autoencoder out (another, "
            "where it is a run, is reconstructed by its own --workdir)"
        )
    folder = workdir / AUTOENCODER
    own = jdiff.config.of_run(folder)
    config = config.copy_and_resolve_references()
    for group in ("data", "eval", "log", "machine"):
        own[group] = config[group]
    own.autoencoder.lpips_weights, own.space.tile = config.autoencoder.lpips_weights, config.space.tile
    return restore(own, folder)


def _images(config: ConfigDict) -> tuple[ConfigDict, Pictures, Data | None]:
    """(config, images: those of eval.images, or else those held out, or else training images; the data if they are
    there).
    """
    if config.eval.images:
        images, _ = open_files(config, as_trained=True)
        shape = images.of([0])[0].shape[1:]
        if shape[2] != config.data.shape[2]:
            raise UserError(
                f"eval.images={config.eval.images!r}: these images have {shape[2]} channels, and the autoencoder's "
                f"{config.data.shape[2]}"
            )
        return config, images, None
    config, data = open_data(config)
    if data.held_out is None:
        say("no images are held out: these are training images")
    return config, data.train if data.held_out is None else data.held_out, data


def _features(
    config: ConfigDict, model: Model, data: Data | None, bar: Callable[[str], Progress]
) -> tuple[Features | None, str]:
    """(what a distance is of, why there is none)."""
    protocol = from_config.evaluation.protocol(config)
    of = from_config.evaluation.features(protocol.features)
    missing = "eval.images are scored without the model's own data"
    try:
        space, read = scoring.reading(config, model.mesh, protocol, data, missing, bar)
    except UserError as error:
        if config.eval.features or config.eval.protocol != from_config.evaluation.OWN:
            raise
        return None, f"r{of.title}: {error}"
    return Features(name=f"r{of.name}", title=f"r{of.title}", read=read, dimension=space.dimension), ""


def _lpips(model: Model) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """LPIPS of pairs as they are on a screen, where the config has its weights."""
    if not model.config.autoencoder.lpips_weights:
        return None
    compare = jax.jit(from_config.lpips(model.config))
    return lambda images, others: np.asarray(compare(*(SCREEN.to_model(jnp.asarray(one)) for one in (images, others))))


def _bits(model: Model, images: Pictures) -> list[Number]:
    """A VAE's bound on the bits of a value, over the first images."""
    task = model.task
    if not isinstance(task, AutoencoderTask) or not isinstance(task.first_stage.bottleneck, Gaussian):
        return []
    if not images.values.has_levels:
        return []
    given, _ = images.raw(np.arange(min(BITS, len(images))))
    bits = model.elbo(given)
    error = float(bits.std(ddof=1) / np.sqrt(len(bits))) if len(bits) > 1 else None
    return [
        Number(
            name="elbo_bits",
            title="bits/dim",
            value=float(bits.mean()),
            error=error,
            spread=OVER_IMAGES,
            better=LOWER,
            about="at most so many bits a pixel value the VAE needs to tell an image (its ELBO)",
            count=len(bits),
        )
    ]


def _what(config: ConfigDict) -> str:
    return f"images of {config.eval.images}" if config.eval.images else f"held-out images of {config.data.name}"


def _write(out: Path, model: Model, config: ConfigDict, images: Pictures, found: Scores, numbers: list[Number]) -> None:
    order = np.argsort(found.psnr, kind="stable")
    count = min(SHOWN, len(images))
    for name, rows in {"pairs": np.arange(count), "worst": order[:count], "best": order[::-1][:count]}.items():
        given, _ = images.raw(np.sort(rows) if name == "pairs" else rows)
        pictures.save_png(out / f"{name}.png", previews.pairs(model, given))
    if len(images) > 1:
        ends, _ = images.raw(np.array([0, len(images) - 1]))
        way = model.shown(model.interpolate(ends[0], ends[1], FRAMES))
        pictures.save_png(out / "interpolation.png", pictures.grid(way, FRAMES))
        pictures.save_gif(out / "interpolation.gif", [pictures.grid(frame[None]) for frame in way])
    held = {
        "numbers": {one.name: asdict(one) for one in numbers},
        "faults": found.faults,
        "images": _what(config),
        "count": len(images),
        "step": model.step,
        "protocol": from_config.evaluation.protocol(config).name,
        "psnr": [float(one) for one in found.psnr],
    }
    replace_file(out / FILE, json.dumps(held, indent=1) + "\n")

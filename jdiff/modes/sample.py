"""--mode=sample: images from a trained model, into a folder. Also the pictures drawn during training."""

import time
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Num, UInt8
from ml_collections import ConfigDict

from jdiff.common import pictures
from jdiff.common.errors import UserError
from jdiff.model import Model, restore

GRID_IMAGES = 256  # most images in a grid
STRIP_IMAGES = 8  # images in a strip
STRIP_FRAMES = 10  # rungs shown in a strip


def sample(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Write samples.npz, grid.png and what else config.sample asks for to `out`; the exit status."""
    model = restore(config, workdir)
    settings = config.sample
    out = out or workdir / "samples" / settings.name
    labels, texts = model.conditions.labels(config), model.conditions.texts(config)
    began = time.monotonic()
    images = model.sample(progress=config.log.progress)
    seconds = time.monotonic() - began
    if jax.process_index() > 0:
        return 0
    calls, passes = model.nfe()
    print(
        f"{len(images)} images from step {model.step}: {settings.sampler}, NFE {calls}, "
        f"{passes} network passes, guidance {settings.guidance_scale}, {seconds:.1f} s with compilation"
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for stale in (
            *out.glob("trajectory.*"),
            *out.glob("steps.png"),
            *out.glob("images/*.png"),
        ):  # of an earlier call
            stale.unlink()
        known = {"labels": labels, "texts": None if texts is None else np.array(texts)}
        arrays = {"images": images, **{name: values for name, values in known.items() if values is not None}}
        np.savez(out / "samples.npz", **arrays)  # type: ignore[arg-type]
        pictures.save_png(out / "grid.png", grid(model, images))
        if settings.save_images:
            for index, image in enumerate(model.shown(images)):
                pictures.save_png(out / "images" / f"{index:06d}.png", image)
        if settings.trajectory:
            frames = trajectory(model)
            pictures.save_png(out / "trajectory.png", strip(frames))
            pictures.save_gif(out / "trajectory.gif", [pictures.grid(frame) for frame in frames])
        if settings.compare_steps:
            compared = model.compare_steps(settings.compare_steps, min(STRIP_IMAGES, settings.num_images))
            pictures.save_png(out / "steps.png", columns(np.stack([model.shown(images) for images in compared])))
    except OSError as error:
        raise UserError(f"cannot write the samples to {out}: {error}; give another folder with --out") from error
    print(f"samples: {out / 'samples.npz'}\npicture: {out / 'grid.png'}")
    return 0


def grid(model: Model, images: Num[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "H W c2"]:
    """The first images as one picture; where every class comes in turn, a column a class."""
    classes = len(model.config.data.class_names)
    by_label = tuple(model.config.model.conditions) == ("label",)
    in_turn = by_label and not model.config.sample.labels and 1 < classes <= 20
    return pictures.grid(model.shown(images[:GRID_IMAGES]), classes if in_turn else None)


def strip(frames: UInt8[np.ndarray, "rungs n h w c"]) -> UInt8[np.ndarray, "H W c2"]:
    """A row an image, from noise on the left to the image on the right."""
    chosen = np.unique(np.round(np.linspace(0, len(frames) - 1, STRIP_FRAMES)).astype(int))
    return columns(frames[chosen])


def columns(stages: UInt8[np.ndarray, "stages n h w c"]) -> UInt8[np.ndarray, "H W c2"]:
    """A row an image, a column a stage."""
    rows = stages.swapaxes(0, 1)
    return pictures.grid(rows.reshape(-1, *rows.shape[2:]), len(stages))


def trajectory(model: Model) -> UInt8[np.ndarray, "rungs n h w c"]:
    """How the first images come out of the noise."""
    return model.trajectory(min(STRIP_IMAGES, model.config.sample.num_images))

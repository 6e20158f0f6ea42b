"""--mode=sample: images from a trained model, into a folder."""

import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from jdiff import previews
from jdiff.common import pictures
from jdiff.common.errors import UserError
from jdiff.model import restore


def sample(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Write samples.npz, grid.png and what else config.sample asks for to `out`; the exit status."""
    model = restore(config, workdir)
    settings = config.sample
    out = out or workdir / "samples" / settings.name
    asked = model.request()
    began = time.monotonic()
    images, calls = model.draw(asked, progress=config.log.progress)
    seconds = time.monotonic() - began
    if jax.process_index() > 0:
        return 0
    print(
        f"{len(images)} images from step {model.step}: {settings.sampler}, NFE {calls}, "
        f"{calls * asked.passes()} network passes, guidance {settings.guidance_scale}, {seconds:.1f} s with compilation"
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for stale in (
            *out.glob("trajectory.*"),
            *out.glob("steps.png"),
            *out.glob("images/*.png"),
        ):  # of an earlier call
            stale.unlink()
        known = {"labels": asked.labels, "texts": None if asked.texts is None else np.array(asked.texts)}
        arrays = {"images": images, **{name: values for name, values in known.items() if values is not None}}
        np.savez(out / "samples.npz", **arrays)  # type: ignore[arg-type]
        pictures.save_png(out / "grid.png", previews.grid(model, images))
        if settings.save_images:
            for index, image in enumerate(model.shown(images)):
                pictures.save_png(out / "images" / f"{index:06d}.png", image)
        few = min(previews.STRIP_IMAGES, settings.num_images)
        if settings.trajectory:
            frames = model.trajectory(few)
            pictures.save_png(out / "trajectory.png", previews.strip(frames))
            pictures.save_gif(out / "trajectory.gif", [pictures.grid(frame) for frame in frames])
        if settings.compare_steps:
            compared = model.compare_steps(settings.compare_steps, few)
            stages = np.stack([model.shown(images) for images in compared])
            pictures.save_png(out / "steps.png", previews.columns(stages))
    except OSError as error:
        raise UserError(f"cannot write the samples to {out}: {error}; give another folder with --out") from error
    print(f"samples: {out / 'samples.npz'}\npicture: {out / 'grid.png'}")
    return 0

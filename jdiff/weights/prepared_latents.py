"""Latents that --mode=prepare wrote: of which autoencoder and images they are."""

import json
from pathlib import Path
from typing import Any

from jaxtyping import PyTree
from ml_collections import ConfigDict

from jdiff.common.arrays import fingerprint
from jdiff.common.errors import UserError
from jdiff.common.files import replace_file
from jdiff.common.paths import expanded
from jdiff.data.fingerprint import fingerprint as fingerprint_of_data
from jdiff.data.sources import Source
from jdiff.data.sources.moments import MIRRORED
from jdiff.data.sources.packed import Packed
from jdiff.spaces import meaning

ORIGIN = "latents.json"
# Keys of the group `data` that say which images a source's records become.
VIEW = ("image_size", "resize", "channels", "shape", "dtype", "range")


def refuse_unprepared(config: ConfigDict) -> None:
    """Raises UserError where training changes images at every step in a way that prepared latents cannot follow."""
    data = config.data
    changed = {
        "data.flip_vertical=True": data.flip_vertical,
        "data.quarter_turns=True": data.quarter_turns,
        f"data.augment={data.augment}": bool(data.augment),
        "data.resize='random_crop'": data.resize == "random_crop",
        f"data.buckets={data.buckets}": bool(data.buckets),
        "model.conditions with 'image'": "image" in config.model.conditions,
    }
    for key, is_set in changed.items():
        if is_set:
            raise UserError(
                f"{key}: prepared latents are of whole images as they are, and mirrored with data.flip; leave it out, "
                "or train without space.prepared, which encodes at every step"
            )


def write_origin(folder: Path, config: ConfigDict, own: PyTree, source: Source) -> None:
    """Write down, beside the latents, what they are of."""
    replace_file(folder / ORIGIN, json.dumps(_origin(config, own, source), indent=1))


def read_prepared(
    config: ConfigDict, own: PyTree, source: Source, held_out: Source | None
) -> tuple[Source, Source | None]:
    """(training latents, held-out latents) in space.prepared. own: the autoencoder's part of a model's state.

    Raises UserError where they are of another autoencoder, other images, or another view of them.
    """
    refuse_unprepared(config)
    folder = expanded(config.space.prepared)
    again = "prepare them again: --mode=prepare --out=DIR, and set space.prepared=DIR"
    try:
        there = json.loads((folder / ORIGIN).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"space.prepared={folder} holds no {ORIGIN}, as latents of --mode=prepare do; {again}"
        ) from error
    here = json.loads(json.dumps(_origin(config, own, source)))
    for name, what in (("encoder", "another autoencoder"), ("images", "other images")):
        if there.get(name) != here[name]:
            raise UserError(f"space.prepared={folder} holds latents of {what}; {again}")
    if there.get("dtype") != here["dtype"]:
        raise UserError(
            f"space.prepared={folder} was encoded in {there.get('dtype')}, and space.dtype={here['dtype']!r}; {again}"
        )
    for name, value in here["view"].items():
        if there["view"].get(name) != value:
            raise UserError(
                f"space.prepared={folder} was prepared with data.{name}={there['view'].get(name)!r}, and this is "
                f"{value!r}; {again}"
            )
    latents = Packed(str(folder), "train")
    if config.data.flip and MIRRORED not in latents.pictures:
        raise UserError(f"space.prepared={folder} was prepared with data.flip=False, and this is True; {again}")
    return latents, None if held_out is None else Packed(str(folder), "test")


def _origin(config: ConfigDict, own: PyTree, source: Source) -> dict[str, Any]:
    return {
        "encoder": fingerprint(meaning(own)),
        "images": fingerprint_of_data(source),
        "view": {name: config.data[name] for name in VIEW},
        "dtype": config.space.dtype,
    }

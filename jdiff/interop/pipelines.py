"""diffusers' pipelines: a folder with model_index.json and a folder for each part, described.

    StableDiffusionPipeline   unet, vae, text_encoder, tokenizer, scheduler
    LDMPipeline               unet, vqvae, scheduler: unconditional
    DiTPipeline               transformer, vae, scheduler: of classes

The network lives in latents x = scaling_factor z of the autoencoder's z.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdiff.common.errors import UserError, first_line
from jdiff.interop import KINDS
from jdiff.interop.schedulers import SCHEDULER, read_process, sampling_of
from jdiff.interop.tensors import read_config

INDEX = "model_index.json"


@dataclass(frozen=True)
class Form:
    """A class of pipelines: its parts by role, each (folder, the classes that are known there); the scale of guidance
    that its call has by default, None where it has none; and settings of its scheduler that it replaces.
    """

    network: tuple[str, tuple[str, ...]]
    autoencoder: tuple[str, tuple[str, ...]]
    texts: bool = False
    guidance_scale: float | None = None
    scheduler: Mapping[str, Any] | None = None


FORMS = {
    "StableDiffusionPipeline": Form(
        ("unet", ("UNet2DConditionModel",)),
        ("vae", ("AutoencoderKL",)),
        texts=True,
        guidance_scale=7.5,
        scheduler={"steps_offset": 1, "clip_sample": False},
    ),
    "LDMPipeline": Form(("unet", ("UNet2DModel",)), ("vqvae", ("VQModel",))),
    "DiTPipeline": Form(
        ("transformer", ("DiTTransformer2DModel", "Transformer2DModel")),
        ("vae", ("AutoencoderKL",)),
        guidance_scale=4.0,
    ),
}
TEXT_PARTS = {"text_encoder": ("CLIPTextModel",), "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast")}
# Parts that say nothing of the images that are drawn, with what they do.
PASSED_OVER = {
    "safety_checker": "images are not checked",
    "feature_extractor": "",
    "image_encoder": "images as prompts are not read",
}


@dataclass(frozen=True)
class Pipeline:
    """What a pipeline's folder says.

    kind: its class. network, autoencoder, text_encoder: the folders of these parts; text_encoder is None where it takes
    no texts, and else text_length is the tokens of a text. sides: the (height, width) of the images that it draws.
    channels: theirs. latents: channels of latents. mean, std: of latents, x = (z - mean) / std. process: keys of the
    group `model`. sampling: keys of how it draws, by dotted names. class_names: () where it knows no classes. notes:
    what of it is left out.
    """

    folder: Path
    kind: str
    network: Path
    autoencoder: Path
    text_encoder: Path | None
    text_length: int
    sides: tuple[int, int]
    channels: int
    latents: int
    mean: float
    std: float
    process: Mapping[str, Any]
    sampling: Mapping[str, Any]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def is_pipeline(folder: Path) -> bool:
    """Whether a pipeline, of whatever class, lies there."""
    return (folder / INDEX).is_file()


def is_known(folder: Path) -> bool:
    """Whether a pipeline of a class that `read` knows lies there."""
    return is_pipeline(folder) and _json(folder / INDEX).get("_class_name") in FORMS


def read(folder: Path) -> Pipeline:
    """What the pipeline in `folder` is. Raises UserError for a class that is not known, a part that is lacking or of
    another class, and parts that do not fit each other.
    """
    index = _json(folder / INDEX)
    kind = index.get("_class_name")
    if kind not in FORMS:
        raise UserError(
            f"{folder} is a pipeline of the class {kind!r}, which is not known here; {', '.join(FORMS)} are"
        )
    try:
        return _read(folder, index, FORMS[kind])
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{folder} cannot be read as a {kind}: {type(error).__name__}: {first_line(error)}") from error


def _read(folder: Path, index: Mapping[str, Any], form: Form) -> Pipeline:
    kind = index["_class_name"]
    parts = dict([form.network, form.autoencoder], **(TEXT_PARTS if form.texts else {}))
    for name, classes in {**parts, "scheduler": ()}.items():
        _check_part(folder, index, name, classes)
    network, autoencoder = folder / form.network[0], folder / form.autoencoder[0]
    ours, theirs = _settings(network, form.network[1]), _settings(autoencoder, form.autoencoder[1])
    channels, latents = ours["in_channels"], theirs["latent_channels"]
    if kind == "LDMPipeline":
        latents = theirs["vq_embed_dim"] or latents
    if channels != latents:
        raise UserError(
            f"{folder}: {network.name} takes {channels} channels, and latents of {autoencoder.name} have {latents}"
        )
    learned = ours["out_channels"] == 2 * channels
    if not learned and ours["out_channels"] not in (None, channels):
        raise UserError(
            f"{folder}: {network.name} gives {ours['out_channels']} channels for {channels}; as many or twice are known"
        )
    if ours.get("num_class_embeds"):
        raise UserError(f"{folder}: {network.name} takes classes, which a {kind} does not give it")
    for name in ("shift_factor", "latents_mean", "latents_std"):
        if theirs.get(name):
            raise UserError(
                f"{folder}: {name}={theirs[name]!r} of {autoencoder.name} is not read by a {kind}, so which latents "
                f"{network.name} learned is not known"
            )
    scheduler = folder / "scheduler" / SCHEDULER
    settings = {**_json(scheduler), "_class_name": index["scheduler"][1]}  # diffusers goes by the index, too
    process = read_process(scheduler, settings["_class_name"])
    if process.why_not:
        raise UserError(
            f"{folder}: the process that it was trained under is not known: {process.why_not} ({scheduler})"
        )
    sampling = sampling_of({**settings, **(form.scheduler or {})})
    return Pipeline(
        folder=folder,
        kind=kind,
        network=network,
        autoencoder=autoencoder,
        text_encoder=folder / "text_encoder" if form.texts else None,
        text_length=_text_length(folder, ours) if form.texts else 0,
        sides=_sides(folder, network, ours, 2 ** (len(theirs["block_out_channels"]) - 1)),
        channels=theirs["out_channels"],
        latents=latents,
        mean=0.0,
        std=1 / theirs["scaling_factor"],
        process={**process.keys, "learned_variance": learned},
        sampling={**sampling, "sample.guidance_scale": form.guidance_scale},
        class_names=_class_names(index, ours["num_embeds_ada_norm"]) if "num_embeds_ada_norm" in ours else (),
        notes=_notes(folder, index),
    )


def _check_part(folder: Path, index: Mapping[str, Any], name: str, classes: tuple[str, ...]) -> None:
    """classes: those that are known; (): any."""
    _, kind = _entry(folder, index, name)
    if kind is None:
        raise UserError(f"{folder}: its {INDEX} names no {name}, which a {index['_class_name']} has")
    if not (folder / name).is_dir():
        raise UserError(f"{folder} lacks the folder {name}, a {kind} by its {INDEX}: copy the whole pipeline")
    if classes and kind not in classes:
        raise UserError(f"{folder}: its {name} is a {kind}, which is not known here; only a {classes[0]} is")


def _entry(folder: Path, index: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """(library, class) of a part; None, None where there is none."""
    entry = index.get(name) or [None, None]
    if not isinstance(entry, list) or len(entry) != 2:
        raise UserError(f"{folder / INDEX}: {name} is {entry!r}, where a library and a class stand")
    return entry[0], entry[1]


def _notes(folder: Path, index: Mapping[str, Any]) -> tuple[str, ...]:
    left = {name: why for name, why in PASSED_OVER.items() if _entry(folder, index, name)[1] is not None}
    why = "; ".join(why for why in left.values() if why)
    return (f"{folder}: {', '.join(left)} left out{f' ({why})' if why else ''}",) if left else ()


def _settings(folder: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """The settings of a part's config.json, those that it leaves out by its class's defaults."""
    config = read_config(folder)
    kind = config.get("_class_name")
    if kind not in classes:
        raise UserError(f"{folder} holds a {kind}, where a {classes[0]} is needed")
    return {**KINDS[kind].defaults, **config}


def _sides(folder: Path, network: Path, settings: Mapping[str, Any], stride: int) -> tuple[int, int]:
    size = settings["sample_size"]
    sides = (size, size) if isinstance(size, int) else tuple(size or ())
    if len(sides) != 2:
        raise UserError(f"{network}: its sample_size={size!r} does not say of which size its latents are")
    return sides[0] * stride, sides[1] * stride


def _text_length(folder: Path, network: Mapping[str, Any]) -> int:
    """The tokens of a text: the tokenizer's most, or the encoder's where that is less."""
    encoder, tokenizer = read_config(folder / "text_encoder"), folder / "tokenizer" / "tokenizer_config.json"
    width, wanted = encoder.get("hidden_size", 512), network["cross_attention_dim"]
    if width != wanted:
        raise UserError(f"{folder}: unet takes tokens of {wanted} features, and text_encoder gives {width}")
    if encoder.get("use_attention_mask"):
        raise UserError(f"{folder}: use_attention_mask=True of text_encoder is not known here")
    positions = encoder.get("max_position_embeddings", 77)
    return int(min(positions, _json(tokenizer).get("model_max_length", positions)))


def _class_names(index: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The names that the pipeline has for its classes, by number; a class without one is called by its number."""
    known = {int(number): str(name) for number, name in (index.get("id2label") or {}).items()}
    return tuple(known.get(number, str(number)) for number in range(classes))


def _json(file: Path) -> dict[str, Any]:
    try:
        contents = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{file.parent} lacks {file.name} ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from error
    if not isinstance(contents, dict):
        raise UserError(f"{file} must hold a JSON object")
    return contents

"""What the page draws: pictures for a screen, by a model. Nothing here knows Gradio."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num, UInt8
from PIL import Image

from jdiff import from_config
from jdiff.common import pictures
from jdiff.common.arrays import slerp
from jdiff.common.errors import UserError
from jdiff.demo.asked import Asked
from jdiff.evaluation import windows
from jdiff.evaluation.overlay import overlay
from jdiff.evaluation.told import VARIANCE, most
from jdiff.model import Model
from jdiff.request import Request
from jdiff.spaces import Masks

Picture = UInt8[np.ndarray, "h w 3"]
LEAST_SIDE, MOST_SIDE = 384, 2048  # pixels that a picture has on the page
AS_IN_TRAINING, AS_IT_IS = "as_in_training", "as_is"
SHARE_PAINTED = 0.5  # of a pixel of the model's size that the brush must cover


class Frame(NamedTuple):
    """picture: of all images. told: how far they are denoised, or what one took. images: themselves, in the last."""

    picture: Picture
    told: str
    images: UInt8[np.ndarray, "n h w c"] | None


def drawn(model: Model, asked: Asked, photo: Picture | None = None) -> Iterator[Frame]:
    """The images, as they are denoised. photo: what the model's image condition is made of."""
    given = {} if photo is None else {"cond_images": condition_of(model, photo, asked.view)}
    request = model.request(asked.num_images, **asked.settings, **given)  # refuses before anything is shown
    rungs = len(request.sigmas) - 1

    def shown() -> Iterator[Frame]:
        for rung, images in enumerate(model.frames(request), start=1):
            last = rung == rungs
            told = calls(request) if last else f"step {rung} of {rungs}"
            yield Frame(on_page(seen(model, images)), told, images if last else None)

    return shown()


def calls(request: Request) -> str:
    """What an image costs, in words."""
    nfe = request.sampler.nfe(len(request.sigmas) - 1)
    if nfe is None:
        return "as many network calls an image as the solver chose"
    passes = nfe * request.passes()
    return f"{nfe} network calls an image" + (f", {passes} passes with guidance" if passes != nfe else "")


def path_between(model: Model, asked: Asked, last_seed: int, frames: int) -> list[Picture]:
    """Images from one seed's to another's, through the noise (slerp), under one condition: the first image's."""
    first, last = (jnp.asarray(model.noise([0], seed)[0]) for seed in (asked.seed, last_seed))
    noise = slerp(first, last, jnp.linspace(0, 1, frames))
    request = model.request(frames, **asked.settings)
    alike = replace(request, in_turn=jax.tree.map(lambda values: values[:1], request.in_turn))
    images = np.concatenate([batch.images for batch in model.draw(alike, {"noise": np.asarray(noise)})])
    return [on_page(image[None]) for image in seen(model, model.shown(images))]


def painted_anew(model: Model, asked: Asked, picture: Picture, brush: Float[np.ndarray, "h w"]) -> Picture:
    """The picture, brought to the model's size, with what the brush covers drawn anew. brush: its opacity, 0 to 1."""
    height, width, _ = model.config.data.shape
    covered = np.asarray(Image.fromarray(brush.astype(np.float32)).resize((width, height), Image.Resampling.BOX))
    mask: Bool[np.ndarray, "h w"] = covered >= SHARE_PAINTED
    if not mask.any():
        raise UserError("nothing is painted over: brush over what is to be drawn anew")
    known = np.repeat(of_model(model, picture)[None], asked.num_images, axis=0)
    return on_page(model.shown(model.inpaint(known, mask, **asked.settings)))


def segmented(model: Model, photo: Picture, members: int, seed: int) -> tuple[Picture, Picture, str]:
    """(the photo with the borders of its masks; how unsure each pixel is; in words)."""
    found = model.segment(condition_of(model, photo), members=members, seed=seed)
    if (shrunk := MOST_SIDE / max(photo.shape[:2])) < 1:
        height, width = (max(1, round(shrunk * side)) for side in photo.shape[:2])
        photo = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BOX))
    probabilities = windows.enlarged(found.probabilities[0], photo.shape[:2])  # then masks, as --mode=segment has it
    numbers = probabilities.argmax(axis=-1).astype(np.uint8)
    unsure = np.rint(255 * found.variance[0] / most(VARIANCE, len(found.classes))).clip(0, 255).astype(np.uint8)
    share, sure = (numbers > 0).mean(), np.maximum(found.foreground[0], 1 - found.foreground[0]).mean()
    told = f"{share:.1%} of the picture; {sure:.1%} sure, a pixel on average; {members} members"
    return overlay(photo, numbers), enlarged(pictures.coloured(unsure[..., None])), told


def condition_of(model: Model, photo: Picture, view: str = AS_IN_TRAINING) -> Num[np.ndarray, "1 h w c"]:
    """A picture as the model's image condition: resized, and made as in training, its sketch drawn, or taken as it is
    (sample.condition_view).
    """
    config = model.config.copy_and_resolve_references()
    config.sample.condition_view = view
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(photo).save(Path(folder) / "picture.png")
        try:
            return from_config.condition_files(config, folder).images
        except UserError as error:
            raise UserError(str(error).replace(folder, "the picture")) from error


def of_model(model: Model, picture: Picture) -> UInt8[np.ndarray, "h w c"]:
    """A picture of any size as an image of the model's."""
    height, width, channels = model.config.data.shape
    image = Image.fromarray(picture).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BOX)
    values = np.asarray(image)
    return values[..., None] if channels == 1 else values


def seen(model: Model, images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h w c"]:
    """Images of a screen as a visitor can tell them apart: of masks, the classes as even greys from black to white."""
    space = model.task.space
    if not isinstance(space, Masks):
        return images
    greys = np.linspace(0, 255, len(space.classes)).round().astype(np.uint8)
    return greys[np.asarray(space.numbers(jnp.asarray(images)))][..., None]


def on_page(images: UInt8[np.ndarray, "n h w c"]) -> Picture:
    """Images side by side, large enough to be looked at; one has no frame."""
    return enlarged(pictures.coloured(pictures.grid(images) if len(images) > 1 else images[0]))


def enlarged(picture: Picture) -> Picture:
    factor = max(1, -(-LEAST_SIDE // max(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def can_segment(model: Model) -> bool:
    """Whether the model tells masks of pictures."""
    return isinstance(model.task.space, Masks) and "image" in model.config.model.conditions


def can_inpaint(model: Model) -> bool:
    """Whether pictures of a screen are the model's images."""
    space = model.task.space
    return not isinstance(space, Masks) and space.values.is_plain and model.config.data.shape[2] in (1, 3)

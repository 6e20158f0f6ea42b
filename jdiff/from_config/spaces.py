"""What x lives in."""

from collections.abc import Callable
from typing import get_args

from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.config import one_of
from jdiff.from_config.autoencoders import first_stage, pixels
from jdiff.from_config.names import pick
from jdiff.spaces import Latents, Masks, Space
from jdiff.spaces.masks import Code


def latents(config: ConfigDict) -> Latents:
    """The latents of the config's autoencoder. Raises UserError where their mean and deviation are not known."""
    group, stage = config.space, first_stage(config, config.space.dtype)
    channels = stage.bottleneck.channels
    if len(group.mean) != channels or len(group.std) != channels:
        raise UserError(
            f"space.mean={tuple(group.mean)} and space.std={tuple(group.std)}: they must have a number for each of "
            f"{channels} channels of latents; training measures them when it starts, and keeps them in config.json"
        )
    return Latents(first_stage=stage, mean=tuple(group.mean), std=tuple(group.std), sampled=group.sampled)


def masks(config: ConfigDict) -> Masks:
    """The codes of the masks that are modelled. Raises UserError where pictures are, or their values are not known."""
    data, group = config.data, config.space
    if data.target not in data.masks:
        raise UserError(
            f"model.space='masks' models masks, and data.target={data.target!r} is none: set data.target to one of "
            f"{tuple(data.masks)}"
            if data.masks
            else "model.space='masks' models masks, and these data have none: data.masks names them, of data.name=pairs"
        )
    if len(data.classes_of_masks) < 2:
        raise UserError(
            f"model.space='masks' needs the values of the masks, and data.classes_of_masks={data.classes_of_masks}: "
            "data that were packed before these were kept must be packed again"
        )
    return Masks(
        sides=tuple(data.shape[:2]),
        classes=tuple(data.classes_of_masks),
        code=one_of("space.code", group.code, get_args(Code)),  # type: ignore[arg-type]
        scale=group.scale,
        values=pixels(config).values,
    )


SPACES: dict[str, Callable[[ConfigDict], Space]] = {"pixels": pixels, "latents": latents, "masks": masks}


def space(config: ConfigDict) -> Space:
    """The space of a resolved config."""
    return pick("model.space", config.model.space, SPACES)(config)


def of_images(config: ConfigDict) -> ConfigDict:
    """The config with its data as images, where training reads latents that were prepared of them."""
    if not config.space.prepared:
        return config
    config = config.copy_and_resolve_references()
    config.space.prepared = ""
    return config

"""Pictures in files that condition a trained model."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Num
from ml_collections import ConfigDict

from jdiff.conditions.image import Image
from jdiff.config import one_of
from jdiff.data.given import Given, given, stems
from jdiff.data.sources import Picture
from jdiff.from_config.conditions import conditions
from jdiff.from_config.spaces import of_images
from jdiff.from_config.views import view

KEY = "sample.condition_dir"


def image_condition(config: ConfigDict) -> Image:
    """The image condition of a model that has one."""
    return next(one for one in conditions(config) if isinstance(one, Image))


def files_of(config: ConfigDict, folder: str) -> Given:
    """The pictures below a folder, read as those that the model's condition was made of in training."""
    data, wanted = config.data, config.condition.image
    low, high = wanted.range
    picture = Picture(
        tuple(wanted.shape),
        wanted.dtype,
        kind="mask" if wanted.of in data.masks else "image",
        low=low,
        high=high,
        alpha=wanted.of in data.alpha,
        values=wanted.mask_values,
    )
    half = (data.halves, data.names.index(wanted.of)) if data.halves else None
    return given(folder, KEY, picture, data.slice_axis, half)


@dataclass(frozen=True, kw_only=True, eq=False)
class ConditionFiles:
    """names: what is made of each is called. images: as the network is given them. truth: the images that they were
    made of, where these are what the model draws. note: what was done to them that nobody may expect.
    """

    names: tuple[str, ...]
    images: Num[np.ndarray, "n h w c"]
    truth: Num[np.ndarray, "n h w c2"] | None
    note: str = ""


def condition_files(config: ConfigDict, folder: str) -> ConditionFiles:
    """The pictures below a folder, each slice of a volume one, as the model's condition: brought to size and viewed as
    held-out images are. Raises UserError where there are none, or one cannot be read.
    """
    config = of_images(config)
    condition = image_condition(config)
    view_of = one_of("sample.condition_view", config.sample.condition_view, ("as_in_training", "as_is"))
    made = view_of == "as_in_training"
    files = files_of(config, folder) if made else given(folder, KEY, condition.seen)
    resize = view(config, train=False).resize
    resize = resize if files.picture.alpha else replace(resize, alpha=frozenset())
    names, sized = [], []
    for name, stem in stems(files.names).items():
        pages = files.pages(name)
        for page in range(pages):
            names.append(stem if pages == 1 else f"{stem}_{page:04d}")
            sized.append(resize({condition.of: files.read(name, page)})[condition.of])
    images = [condition.of_record({}, {condition.of: one}) for one in sized] if made else sized
    own = made and condition.make is not None and condition.of == config.data.target
    note, both = "", files.both()
    if both:
        part = config.data.halves.split(",")[config.data.names.index(config.condition.image.of)]
        some = f"{len(both)} of {len(files.names)} files ({both[0]}, ...)"
        note = f"{some} are taken for two pictures: of each the {part} is read"
    truth = np.stack(sized) if own else None
    return ConditionFiles(names=tuple(names), images=np.stack(images), truth=truth, note=note)

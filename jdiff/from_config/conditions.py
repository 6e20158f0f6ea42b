"""What a model is conditioned on."""

from collections.abc import Callable
from typing import get_args

from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.conditions import Condition
from jdiff.conditions.aspect import Aspect
from jdiff.conditions.image import Image
from jdiff.conditions.label import Label
from jdiff.conditions.scalars import Scalars
from jdiff.conditions.text import Text
from jdiff.config import one_of
from jdiff.data.edges import Canny, XDoG
from jdiff.data.frozen_text import FrozenEncoder, Padding
from jdiff.data.sources import Picture
from jdiff.data.transforms import Grey, Thumbnail
from jdiff.data.views import Make
from jdiff.from_config.names import pick
from jdiff.from_config.networks import pixels_a_side


def label(config: ConfigDict, drop_rate: float) -> Label:
    """Classes: the data's names, by number."""
    return Label(
        class_names=tuple(config.data.class_names),
        class_counts=tuple(config.data.class_counts),
        per_image=config.data.labels_per_image,
        drop_rate=drop_rate,
    )


def text(config: ConfigDict, drop_rate: float) -> Text:
    """Captions, by a transformer trained along or by a frozen encoder."""
    wanted = config.condition.text
    encoder = one_of("condition.text.encoder", wanted.encoder, ("transformer", "frozen"))
    if encoder == "frozen" and (wanted.shuffle_tags or wanted.drop_tags):
        raise UserError(
            "condition.text.shuffle_tags and .drop_tags need condition.text.encoder=transformer: a frozen encoder's "
            "features are computed once"
        )
    null = one_of("condition.text.null", wanted.null, ("learned", "empty"))
    if null == "empty" and (encoder != "frozen" or wanted.projected):
        raise UserError(
            "condition.text.null='empty' is for the features of a frozen encoder as they are: set "
            "condition.text.encoder=frozen and condition.text.projected=False, or condition.text.null=learned"
        )
    return Text(
        length=wanted.length,
        on_long=one_of("condition.text.on_long", wanted.on_long, ("truncate", "error")),  # type: ignore[arg-type]
        frozen_width=config.data.text_width if encoder == "frozen" else 0,
        path=wanted.path,
        projected=wanted.projected,
        padding=one_of("condition.text.padding", wanted.padding, get_args(Padding)),  # type: ignore[arg-type]
        clip_skip=wanted.clip_skip,
        null=null,  # type: ignore[arg-type]
        vocabulary=wanted.vocabulary,
        width=wanted.width,
        depth=wanted.depth,
        heads=wanted.heads,
        shuffle_tags=wanted.shuffle_tags,
        drop_tags=wanted.drop_tags,
        drop_rate=drop_rate,
    )


def frozen_text(config: ConfigDict) -> FrozenEncoder:
    """The pretrained encoder of texts in condition.text.path."""
    wanted = config.condition.text
    padding = one_of("condition.text.padding", wanted.padding, get_args(Padding))
    return FrozenEncoder(wanted.path, wanted.length, wanted.on_long, padding, wanted.clip_skip)  # type: ignore[arg-type]


def image(config: ConfigDict, drop_rate: float) -> Image:
    """A record's picture, or a view of it."""
    wanted = config.condition.image
    makers: dict[str, Callable[[], Make | None]] = {
        "as_is": lambda: None,
        "thumbnail": lambda: Thumbnail(wanted.factor),
        "grey": Grey,
        "canny": Canny,
        "xdog": XDoG,
    }
    low, high = wanted.range
    return Image(
        of=wanted.of,
        picture=Picture(tuple(wanted.shape), wanted.dtype, low=low, high=high),
        sides=tuple(config.data.shape[:2]),
        make=pick("condition.image.view", wanted.view, makers)(),
        patch=pixels_a_side(config),
        into=one_of("condition.image.into", wanted.into, ("concat", "cross_attention", "adapter")),  # type: ignore[arg-type]
        width=wanted.width,
        downsamples=wanted.downsamples,
        drop_rate=drop_rate,
    )


def scalars(config: ConfigDict, drop_rate: float) -> Scalars:
    """Numbers of a record."""
    wanted = config.condition.scalars
    names, mean, std = tuple(wanted.names), tuple(wanted.mean), tuple(wanted.std)
    if not len(mean) == len(std) in (0, len(names)):
        raise UserError(
            f"condition.scalars.mean={mean} and .std={std} must hold a number for each of condition.scalars.names="
            f"{names}, or nothing, and the data's own are taken"
        )
    return Scalars(names=names, mean=mean, std=std, drop_rate=drop_rate)


def aspect(config: ConfigDict, drop_rate: float) -> Aspect:
    """The images' shape; it is always known, and so never dropped."""
    return Aspect(target=config.data.target)


# A kind of condition: (config, drop rate) -> the condition. Its own keys are the config's group condition.<kind>.
CONDITIONS: dict[str, Callable[[ConfigDict, float], Condition]] = {
    "label": label,
    "text": text,
    "image": image,
    "scalars": scalars,
    "aspect": aspect,
}


def conditions(config: ConfigDict) -> tuple[Condition, ...]:
    """What the model is given, in the order of model.conditions."""
    made = []
    for name in config.model.conditions:
        make = pick("model.conditions", name, CONDITIONS)
        own = config.condition[name].drop_rate if name in config.condition else None
        made.append(make(config, config.model.drop_rate if own is None else own))
    return tuple(made)

"""Pixels themselves as features, for images so small that these mean something."""

import jax.numpy as jnp

from jdiff.common.errors import UserError
from jdiff.networks.features.space import Extractor, FeatureSpace, Plain

MOST = 4096  # values of an image: 64 x 64 grey, 36 x 36 in colour


def load(shape: tuple[int, int, int]) -> Extractor:
    """The extractor of "pixels" in [-1, 1], [h w c]. Raises UserError for images of more than MOST values."""
    height, width, channels = shape
    size = height * width * channels
    if size > MOST:
        raise UserError(
            f"eval.features='pixels': images of {height}x{width}x{channels} have {size:,} values, and pixels are "
            f"features for at most {MOST:,}; use classifier"
        )
    seen = Plain(sides=(height, width), channels=channels)
    space = FeatureSpace(name="pixels", dimension=size, input=seen, weights="")
    return Extractor(
        spaces={"pixels": space}, input=seen, params={}, apply=lambda _, x: {"pixels": jnp.reshape(x, (len(x), -1))}
    )

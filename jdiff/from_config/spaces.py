"""What x lives in."""

from collections.abc import Callable

from ml_collections import ConfigDict

from jdiff.common.ranges import Range
from jdiff.from_config.names import pick
from jdiff.spaces import Pixels, Space

SPACES: dict[str, Callable[[ConfigDict], Space]] = {
    "pixels": lambda config: Pixels(tuple(config.data.shape), Range(config.data.dtype, *config.data.range)),
}


def space(config: ConfigDict) -> Space:
    """The space of a resolved config."""
    return pick("model.space", config.model.space, SPACES)(config)

"""A function of one channel, applied to each channel of a picture in float32 and cast back to its dtype."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Num

DTYPES = ("uint8", "uint16", "float32")


def by_channel(
    picture: Num[np.ndarray, "h w c"], change: Callable[[Float[np.ndarray, "h w"]], Float[np.ndarray, "h2 w2"]]
) -> Num[np.ndarray, "h2 w2 c"]:
    """`change` of each channel, in the picture's dtype.

    Interpolation overshoots at edges: integers are rounded and cut at the ends of their dtype, floats at the channel's
    own least and greatest value. float32 holds every uint16. Raises ValueError for other dtypes than DTYPES.
    """
    if picture.dtype.name not in DTYPES:
        raise ValueError(f"a picture of {picture.dtype}; allowed: {', '.join(DTYPES)}")
    channels = np.moveaxis(picture, -1, 0).astype(np.float32, order="C", copy=False)
    changed = np.stack([change(channel) for channel in channels], axis=-1)
    if picture.dtype == np.float32:
        return np.clip(changed, picture.min((0, 1)), picture.max((0, 1))).astype(np.float32)
    limits = np.iinfo(picture.dtype)
    return np.clip(np.rint(changed), limits.min, limits.max).astype(picture.dtype)

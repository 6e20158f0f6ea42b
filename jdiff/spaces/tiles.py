"""A function of images in overlapping tiles, one after the other, for the memory of one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def in_tiles(
    decode: Callable[[Float[Array, "b h w c"]], Float[Array, "b H W C"]],
    z: Float[Array, "b h w c"],
    *,
    side: int,
    overlap: int,
    scale: int,
) -> Float[Array, "b H W C"]:
    """decode(z), whose sides are those of z times `scale`, of tiles of `side` that overlap by at least `overlap`.

    Where tiles overlap, they are blended: the weight of each falls linearly towards its edge, and next to it, where a
    convolution sees the zeros around a tile, it counts for nothing beside the other's.
    """
    height, width = z.shape[1:3]
    rows, columns = (starts(whole, side, overlap) for whole in (height, width))
    tile = min(side, height), min(side, width)
    corners = jnp.array([(row, column) for row in rows for column in columns])

    def decoded(corner: Array) -> Array:
        part = jax.lax.dynamic_slice(z, (0, corner[0], corner[1], 0), (z.shape[0], *tile, z.shape[3]))
        return decode(part)

    tiles = jax.lax.map(decoded, corners)
    weight = jnp.asarray(np.outer(*(ramp(one * scale, overlap * scale) for one in tile)), jnp.float32)[None, :, :, None]
    whole = jnp.zeros((z.shape[0], height * scale, width * scale, tiles.shape[-1]))
    total = jnp.zeros((1, height * scale, width * scale, 1))
    for one, (row, column) in zip(tiles, ((row, column) for row in rows for column in columns), strict=True):
        place = (
            slice(None),
            slice(row * scale, (row + tile[0]) * scale),
            slice(column * scale, (column + tile[1]) * scale),
        )
        whole, total = whole.at[place].add(weight * one), total.at[place].add(weight)
    return whole / total


def starts(whole: int, side: int, overlap: int) -> list[int]:
    """Where tiles begin: as few as overlap enough, evenly spread."""
    if whole <= side:
        return [0]
    count = 1 + -(-(whole - side) // (side - overlap))
    return np.round(np.linspace(0, whole - side, count)).astype(int).tolist()


def ramp(side: int, overlap: int) -> np.ndarray:
    """1 in the middle, falling linearly over the middle half of the overlap at both ends to next to 0: not to 0, since
    at the image's border there is no other tile.
    """
    from_edge = np.minimum(np.arange(side), np.arange(side)[::-1]) + 1
    return np.clip((from_edge - overlap / 4) / max(1, overlap / 2), 1e-6, 1.0)

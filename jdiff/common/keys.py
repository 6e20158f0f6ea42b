"""Random keys.

Every random number belongs to a name, a step or an image, never to a place in a call order:

    key_i      = fold_in(key(seed), i)        the key of image i
    prior      = normal(named(key_i, "prior"))  its initial noise
    step noise = normal(fold_in(key_i, rung))   its noise at one rung of the ladder

so image i does not depend on the batch size, on the number of devices, or on the images beside it.
"""

import zlib

import jax
from jaxtyping import Array, Float, Integer, Key


def named(key: Key[Array, "*b"], name: str) -> Key[Array, "*b"]:
    """The key that belongs to `name`: fold_in(key, crc32(name)); one key or an array of them."""
    return folded(key, zlib.crc32(name.encode()))


def folded(key: Key[Array, "*b"], number: int | Integer[Array, ""]) -> Key[Array, "*b"]:
    """fold_in(key, number), for one key or for each of an array of keys."""
    fold = jax.random.fold_in
    for _ in range(key.ndim):
        fold = jax.vmap(fold, in_axes=(0, None))
    return fold(key, number)


def image_keys(seed: int | Integer[Array, ""], indices: Integer[Array, " b"]) -> Key[Array, " b"]:
    """key_i = fold_in(key(seed), i) for each index i."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), indices)


def normal(keys: Key[Array, " b"], like: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Standard normal noise of `like`'s shape and dtype, row i drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)

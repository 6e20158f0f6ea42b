"""Random keys.

Every random number belongs to a name, a step or an image, never to a place in a call order:

    key_i      = fold_in(root_key(seed), i)       the key of image i
    prior      = normal(named(key_i, "prior"))    its initial noise
    step noise = normal(fold_in(key_i, rung))     its noise at one rung of the ladder

so image i does not depend on the batch size, on the number of devices, or on the images beside it. Nor does it depend
on the settings jax_default_prng_impl and jax_threefry_partitionable: `root_key` fixes the generator, threefry2x32
(Salmon et al., SC 2011), and how it counts.
"""

import zlib
from typing import Any

import jax
from jax.extend.random import define_prng_impl, threefry_prng_impl
from jaxtyping import Array, Float, Integer, Key, UInt32


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    with jax.threefry_partitionable(True):
        return threefry_prng_impl.split(key, shape)


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    with jax.threefry_partitionable(True):
        return threefry_prng_impl.random_bits(key, bit_width, shape)


# JAX reads jax_threefry_partitionable when it lowers a program, after the code that draws has run, so a context around
# that code has no effect. This generator is JAX's own with the setting on, in which each device computes its share of
# the numbers alone.
GENERATOR: Any = define_prng_impl(
    key_shape=threefry_prng_impl.key_shape,
    seed=threefry_prng_impl.seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=threefry_prng_impl.fold_in,
    name="threefry2x32_partitionable",
    tag="fryp",
)


def root_key(seed: int | Integer[Array, ""]) -> Key[Array, ""]:
    """The key of a seed; every key of jdiff descends from one of these."""
    return jax.random.key(seed, impl=GENERATOR)


def wrapped(data: UInt32[Array, "*b 2"]) -> Key[Array, "*b"]:
    """The key with this data, as jax.random.key_data gives and checkpoints hold it."""
    return jax.random.wrap_key_data(data, impl=GENERATOR)


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
    """key_i = fold_in(root_key(seed), i) for each index i."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(root_key(seed), indices)


def normal(keys: Key[Array, " b"], like: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Standard normal noise of `like`'s shape and dtype, row i drawn from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)

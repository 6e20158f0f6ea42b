"""Functions of JAX arrays."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped, UInt32


def per_image(value: Shaped[Array, "*b"], x: Float[Array, "b ..."]) -> Shaped[Array, "..."]:
    """value [B] as [B, 1, ..., 1], which broadcasts against x; a scalar unchanged."""
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def microbatches(rows: Shaped[Array, "b ..."], count: int) -> Shaped[Array, "n m ..."]:
    """A batch in `count` parts: part j is rows j, j + count, ..., so that every device holds its share of each."""
    return rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1)


def fingerprint(tree: PyTree) -> str:
    """A number of 32 bits, in hexadecimal, that differs where any bit of the arrays or their order does, save by rare
    chance; the same however they are sharded.
    """
    return f"{int(_fingerprint(jax.tree.leaves(tree))):08x}"


@jax.jit
def _fingerprint(arrays: list[Shaped[Array, "..."]]) -> UInt32[Array, ""]:
    """A sum modulo 2^32 of the bytes, each times an odd number of its own: it is the same in any order."""
    total = jnp.uint32(2166136261)
    for array in arrays:
        bits = array if array.dtype == bool else jax.lax.bitcast_convert_type(array, jnp.uint8)
        number = jnp.zeros(bits.shape, jnp.uint32)
        for axis, side in enumerate(bits.shape):  # not by ravel, which would gather what is sharded
            number = number * jnp.uint32(side) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        number *= jnp.uint32(2654435761)
        odd = (number ^ (number >> 15)) | 1
        total = total * jnp.uint32(16777619) + jnp.sum(bits.astype(jnp.uint32) * odd, dtype=jnp.uint32)
    return total


def slerp(a: Float[Array, "..."], b: Float[Array, "..."], fractions: Float[Array, " n"]) -> Float[Array, "n ..."]:
    """sin((1 - f) w)/sin(w) a + sin(f w)/sin(w) b for each fraction f, w being the angle between a and b: spherical
    interpolation (Shoemake 1985; Song et al., arXiv 2010.02502, eq. 67), which keeps the norm of Gaussian noise.
    """
    cosine = jnp.sum(a * b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
    angle = jnp.maximum(jnp.arccos(jnp.clip(cosine, -1.0, 1.0)), 1e-4)
    f = fractions.reshape(-1, *[1] * a.ndim)
    return (jnp.sin((1 - f) * angle) * a + jnp.sin(f * angle) * b) / jnp.sin(angle)

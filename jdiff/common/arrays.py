"""Functions of JAX arrays."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def per_image(value: Shaped[Array, "*b"], x: Float[Array, "b ..."]) -> Shaped[Array, "..."]:
    """value [B] as [B, 1, ..., 1], which broadcasts against x; a scalar unchanged."""
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def slerp(a: Float[Array, "..."], b: Float[Array, "..."], fractions: Float[Array, " n"]) -> Float[Array, "n ..."]:
    """sin((1 - f) w)/sin(w) a + sin(f w)/sin(w) b for each fraction f, w being the angle between a and b: spherical
    interpolation (Shoemake 1985; Song et al., arXiv 2010.02502, eq. 67), which keeps the norm of Gaussian noise.
    """
    cosine = jnp.sum(a * b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
    angle = jnp.maximum(jnp.arccos(jnp.clip(cosine, -1.0, 1.0)), 1e-4)
    f = fractions.reshape(-1, *[1] * a.ndim)
    return (jnp.sin((1 - f) * angle) * a + jnp.sin(f * angle) * b) / jnp.sin(angle)

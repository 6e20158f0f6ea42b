"""Small things about arrays."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def per_image(value: Shaped[Array, "*b"], x: Float[Array, "b ..."]) -> Shaped[Array, "..."]:
    """A number per image [B] (or one for all) in a shape that multiplies x."""
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def slerp(a: Float[Array, "..."], b: Float[Array, "..."], fractions: Float[Array, " n"]) -> Float[Array, "n ..."]:
    """sin((1 - f) w)/sin(w) a + sin(f w)/sin(w) b, w the angle between a and b: between two Gaussian noises, such means
    are as likely as noise (Shoemake, 1985; Song et al., arXiv 2010.02502, eq. 67).
    """
    cosine = jnp.sum(a * b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
    angle = jnp.maximum(jnp.arccos(jnp.clip(cosine, -1.0, 1.0)), 1e-4)
    f = fractions.reshape(-1, *[1] * a.ndim)
    return (jnp.sin((1 - f) * angle) * a + jnp.sin(f * angle) * b) / jnp.sin(angle)

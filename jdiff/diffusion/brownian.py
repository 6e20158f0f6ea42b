"""Brownian motion over v = sigma^2, one path an image: a function of the image's key and sigma alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jdiff.common.keys import folded, named, normal

LEVELS = 14  # of a tree; within its 2^14 intervals the path is a straight line
PIECE_OFFSET = 2**16  # fold_in takes no negative numbers


def noise(
    keys: Key[Array, " b"], like: Float[Array, "b ..."], sigma: Float[Array, ""], sigma_next: Float[Array, ""]
) -> Float[Array, "b ..."]:
    """(W(sigma^2) - W(sigma_next^2)) / sqrt(sigma^2 - sigma_next^2) of `like`'s shape, sigma > sigma_next > 0.

    Standard normal, and independent for steps that do not overlap; 0 where sigma_next is 0, to which no noise belongs.
    The path W is the same whatever the number of steps, so refining a ladder refines the image. Between 2^(k-1) and 2^k
    it is a Brownian tree of its own on u = (v - 4^(k-1)) / (3 4^(k-1)): increments are independent, so the pieces make
    one path over all sigmas, as fine at small sigmas as at large ones.
    """
    keys = named(keys, "brownian")
    low = jnp.where(sigma_next > 0, sigma_next, sigma)
    (_, first), (_, last) = jnp.frexp(low), jnp.frexp(sigma)  # sigma = m 2^k, 1/2 <= m < 1

    def add(k, total):
        bottom = jnp.ldexp(jnp.ones_like(sigma), 2 * (k - 1))
        lower = jnp.where(k == first, (low**2 - bottom) / (3 * bottom), 0.0)
        upper = jnp.where(k == last, (sigma**2 - bottom) / (3 * bottom), 1.0)
        piece = folded(keys, k + PIECE_OFFSET)
        return total + jnp.sqrt(3 * bottom) * (tree(piece, like, upper) - tree(piece, like, lower))

    increment = jax.lax.fori_loop(first, last + 1, add, jnp.zeros_like(like))
    return jnp.where(sigma_next > 0, increment / jnp.sqrt(jnp.maximum(sigma**2 - low**2, 1e-30)), 0.0)


def tree(keys: Key[Array, " b"], like: Float[Array, "b ..."], u: Float[Array, ""]) -> Float[Array, "b ..."]:
    """B(u), 0 <= u <= 1, of `like`'s shape: one Brownian motion from B(0) = 0 for each number of each image (Li et al.,
    arXiv 2001.01328, section 4; diffrax's trees talk to the host at every call).

    B(1) ~ N(0, 1), and by Levy's construction the middle of an interval of width w is

        B(middle) = (B(left) + B(right)) / 2 + sqrt(w) / 2 z

    with z drawn from the key of that interval alone.
    """

    def halve(level, interval):
        left, node, b_left, b_right = interval
        width = 0.5**level
        b_middle = (b_left + b_right) / 2 + jnp.sqrt(width) / 2 * normal(folded(keys, node), like)
        is_right = u >= left + width / 2
        return (
            jnp.where(is_right, left + width / 2, left),
            2 * node + is_right,
            jnp.where(is_right, b_middle, b_left),
            jnp.where(is_right, b_right, b_middle),
        )

    # Intervals are numbered as in a heap: 1 is the whole, 2 n and 2 n + 1 are the halves of n; 0 draws the end.
    whole = (jnp.zeros_like(u), jnp.ones((), jnp.int32), jnp.zeros_like(like), normal(folded(keys, 0), like))
    left, _, b_left, b_right = jax.lax.fori_loop(0, LEVELS, halve, whole)
    return b_left + (u - left) * 2.0**LEVELS * (b_right - b_left)

"""Vector quantisation (van den Oord et al., arXiv 1711.00937)."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def nearest(codes: Float[Array, "k d"], z: Float[Array, "... d"]) -> tuple[Float[Array, "... d"], Int[Array, "..."]]:
    """(q, i): i = argmin_k ||z - e_k||^2, the first of several, and q = e_i in float32, e_k being the rows of `codes`.

    The gradient is the straight-through estimate: dq/dz = 1, dq/de = 0 (for the codes' own, take `codes[i]`).
    """
    codes, z = codes.astype(jnp.float32), z.astype(jnp.float32)
    indices = _nearest_rows(codes, z)
    # Summed in this order, q is the code to the bit; z + (code - z) is not.
    return lax.stop_gradient(codes[indices]) + (z - lax.stop_gradient(z)), indices


def _nearest_rows(codes: Float[Array, "k d"], z: Float[Array, "... d"]) -> Int[Array, "..."]:
    """argmin_k ||z - e_k||^2 = argmin_k (||e_k||^2 - 2 z e_k).

    ||z||^2 is left out: added, it would round away the small differences between codes. So would codes far from 0 and
    products in TF32; hence both are centred on the codes' mean and multiplied in float32.
    """
    middle = codes.mean(axis=0)
    codes, z = codes - middle, z - middle
    products = jnp.einsum("...d,kd->...k", z, codes, precision=lax.Precision.HIGHEST)
    return jnp.argmin(jnp.sum(codes**2, axis=-1) - 2 * products, axis=-1)

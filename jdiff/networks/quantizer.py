"""Vector quantisation (van den Oord et al., arXiv 1711.00937): each latent becomes the nearest code of a codebook.

i(z) = argmin_k ||z - e_k||^2,   q(z) = e_{i(z)},   dq/dz = 1 (the straight-through estimate)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def nearest(codes: Float[Array, "k d"], z: Float[Array, "... d"]) -> tuple[Float[Array, "... d"], Int[Array, "..."]]:
    """(q, i): the code nearest to each z, float32, and its row in `codes`; of several as near, the first.

    The gradient of q goes to z unchanged, and none to the codes (take `codes[i]` for theirs).
    """
    codes, z = codes.astype(jnp.float32), z.astype(jnp.float32)
    indices = _nearest_rows(codes, z)
    # In this order q is the code to the bit, which z + (code - z) is not.
    return lax.stop_gradient(codes[indices]) + (z - lax.stop_gradient(z)), indices


class Codebook(nn.Module):
    """K learned codes of width d; called as `nearest` on them."""

    size: int
    width: int

    def setup(self) -> None:
        # As a JAX array: a loaded model's are NumPy's, which no traced index can look up.
        self.codes = jnp.asarray(self.param("codes", _uniform, (self.size, self.width)))

    def __call__(self, z: Float[Array, "... d"]) -> tuple[Float[Array, "... d"], Int[Array, "..."]]:
        return nearest(self.codes, z)

    def lookup(self, indices: Int[Array, "..."]) -> Float[Array, "... d"]:
        """The codes of these rows; NaN where there is no such row."""
        return jnp.take(self.codes, indices, axis=0, mode="fill")


def _nearest_rows(codes: Float[Array, "k d"], z: Float[Array, "... d"]) -> Int[Array, "..."]:
    """argmin_k of ||z - e_k||^2 = ||z||^2 - 2 z e_k + ||e_k||^2.

    Without ||z||^2, which all codes share: added to the small differences between them it would round these away. For
    the same reason from the codes' mean, not from 0, and with products in full float32 where a device has less.
    """
    middle = codes.mean(axis=0)
    codes, z = codes - middle, z - middle
    products = jnp.einsum("...d,kd->...k", z, codes, precision=lax.Precision.HIGHEST)
    return jnp.argmin(jnp.sum(codes**2, axis=-1) - 2 * products, axis=-1)


def _uniform(key: Array, shape: tuple[int, int]) -> Array:
    """Uniform in +-1/K, so that a latent of any direction has a code near."""
    return jax.random.uniform(key, shape, minval=-1 / shape[0], maxval=1 / shape[0])

"""Two-dimensional convolution, in the form that each backend runs fastest.

XLA:CPU runs 3x3 convolutions of stride 1 well. Kernels of 1x1, strides, and inputs of few channels it runs two to three
times slower, taken alone, than the matrix products that they are; so there they are written as these
(benchmarks/RESULTS.md has the measurements). Both forms are slices, concatenations and products: every JAX transform
goes through.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

FEW_CHANNELS = 4


def conv2d(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "size size c f"],
    *,
    stride: int = 1,
    padding: tuple[int, int] | None = None,
) -> Float[Array, "b h2 w2 f"]:
    """y[i, j] = sum_{u, v} x[stride i + u - before, stride j + v - before] kernel[u, v], zeros outside.

    padding: (before, after) of both axes; by default size//2 on either side, so that h2 = ceil(h / stride) where size
    is odd.
    """
    before, after = padding or (kernel.shape[0] // 2,) * 2
    as_products = kernel.shape[0] == 1 or stride > 1 or x.shape[-1] <= FEW_CHANNELS
    if as_products and jax.default_backend() == "cpu":
        return _products(x, kernel, stride, before, after)
    around = [(before, after)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), around, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _products(x: Array, kernel: Array, stride: int, before: int, after: int) -> Array:
    """One matrix product for each row of the kernel, over that row's shifted copies of x side by side."""
    size, _, channels, features = kernel.shape
    batch, height, width, _ = x.shape
    rows, columns = ((side + before + after - size) // stride + 1 for side in (height, width))
    padded = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))

    def shifted(u: int, v: int) -> Array:
        last = (batch, u + stride * (rows - 1) + 1, v + stride * (columns - 1) + 1, channels)
        return lax.slice(padded, (0, u, v, 0), last, (1, stride, stride, 1))

    side_by_side = [jnp.concatenate([shifted(u, v) for v in range(size)], axis=-1) for u in range(size)]
    if channels <= FEW_CHANNELS:  # too thin a product for each row: all rows in one
        side_by_side, kernel = [jnp.concatenate(side_by_side, axis=-1)], kernel.reshape(1, 1, -1, features)
    weights = kernel.reshape(len(side_by_side), -1, features)
    return sum((taps @ weights[u] for u, taps in enumerate(side_by_side[1:], start=1)), side_by_side[0] @ weights[0])

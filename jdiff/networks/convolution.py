"""Two-dimensional convolution, in the form that each backend runs fastest.

XLA:CPU runs 3x3 convolutions of stride 1 well. It runs 1x1 kernels, strides and inputs of few channels two to three
times slower than the equal matrix products (im2col; benchmarks/RESULTS.md has the measurements), which therefore
replace them there.
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
    """y[i, j] = sum_{u, v} x[stride i + u - before, stride j + v - before] kernel[u, v], with zeros outside x.

    padding: (before, after) of both axes, by default size//2 each; then h2 = ceil(h / stride) for odd sizes.
    """
    before, after = padding or (kernel.shape[0] // 2,) * 2
    faster_as_matmul = kernel.shape[0] == 1 or stride > 1 or x.shape[-1] <= FEW_CHANNELS
    if faster_as_matmul and jax.default_backend() == "cpu":
        return _im2col(x, kernel, stride, before, after)
    padding_2d = [(before, after)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding_2d, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _im2col(x: Array, kernel: Array, stride: int, before: int, after: int) -> Array:
    """A sum over the kernel's rows of one matrix product each, with that row's shifted copies of x concatenated."""
    size, _, channels, features = kernel.shape
    batch, height, width, _ = x.shape
    rows, columns = ((side + before + after - size) // stride + 1 for side in (height, width))
    padded = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))

    def shifted(u: int, v: int) -> Array:
        last = (batch, u + stride * (rows - 1) + 1, v + stride * (columns - 1) + 1, channels)
        return lax.slice(padded, (0, u, v, 0), last, (1, stride, stride, 1))

    rows_of_taps = [jnp.concatenate([shifted(u, v) for v in range(size)], axis=-1) for u in range(size)]
    if channels <= FEW_CHANNELS:  # a row alone is too small a product: all rows in one
        rows_of_taps, kernel = [jnp.concatenate(rows_of_taps, axis=-1)], kernel.reshape(1, 1, -1, features)
    weights = kernel.reshape(len(rows_of_taps), -1, features)
    return sum((taps @ weights[u] for u, taps in enumerate(rows_of_taps[1:], start=1)), rows_of_taps[0] @ weights[0])

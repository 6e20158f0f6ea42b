"""An adaptive Runge-Kutta integrator with an error control per image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.integrate import RK45

# Stage i is at y + h sum_j A[i, j] slope_j; the last one is the step's end, and its slope starts the next step.
A = np.vstack([np.pad(RK45.A, ((0, 0), (0, 2))), np.append(RK45.B, 0.0)])
C = np.append(RK45.C, 1.0)
MAX_CALLS = 60_000  # a field that is nowhere finite must not hang

Field = Callable[[Float[Array, "b n"], Float[Array, " b"]], Float[Array, "b n"]]  # (y, sigma) -> dy/dsigma


def integrate(
    field: Field,
    y: Float[Array, "b n"],
    start: Float[Array, ""],
    end: Float[Array, ""],
    *,
    rtol: float,
    atol: float,
) -> tuple[Float[Array, "b n"], Int[Array, ""]]:
    """(y at sigma = end, calls of the field), up or down, by Dormand and Prince's pair of orders 5 and 4 (J. Comput.
    Appl. Math. 6, 1980); NaN for an image that does not get there, as where the field is not finite.

    Steps follow Hairer, Norsett & Wanner, "Solving Ordinary Differential Equations I", section II.4:

        error = RMS over the image of (y5 - y4) / (atol + rtol max(|y|, |y5|)),  accepted where <= 1
        h    <- h clip(0.9 error^(-1/5), 0.2, 10)

    Each image keeps its own sigma and step while the field is called on the whole batch at once: diffrax has one clock
    for all images, or, mapped over them, one condition and one call for each.
    """

    def one_step(state):
        y, slope, sigma, h, calls = state
        h = jnp.where(jnp.abs(h) < jnp.abs(end - sigma), h, end - sigma)

        def stage(i, slopes):
            along = jnp.tensordot(jnp.asarray(A, y.dtype)[i], slopes, axes=1)
            return slopes.at[i].set(field(y + h[:, None] * along, sigma + jnp.asarray(C, y.dtype)[i] * h))

        slopes = jnp.zeros((len(C), *y.shape), y.dtype).at[0].set(slope)
        slopes = jax.lax.fori_loop(1, len(C), stage, slopes)
        y_next = y + h[:, None] * jnp.tensordot(jnp.asarray(A[-1], y.dtype), slopes, axes=1)
        error = h[:, None] * jnp.tensordot(jnp.asarray(RK45.E, y.dtype), slopes, axes=1)
        scale = atol + rtol * jnp.maximum(jnp.abs(y), jnp.abs(y_next))
        error = jnp.sqrt(jnp.mean((error / scale) ** 2, axis=1))
        accepted = error <= 1
        factor = jnp.where(jnp.isfinite(error), jnp.clip(0.9 * jnp.maximum(error, 1e-10) ** -0.2, 0.2, 10.0), 0.2)
        there = jnp.abs(end - sigma) <= jnp.abs(h)
        return (
            jnp.where(accepted[:, None], y_next, y),
            jnp.where(accepted[:, None], slopes[-1], slope),
            jnp.where(accepted, jnp.where(there, end, sigma + h), sigma),
            h * factor,
            calls + len(C) - 1,
        )

    def unfinished(state):
        _, _, sigma, _, calls = state
        return jnp.any(sigma != end) & (calls < MAX_CALLS)

    sigma = jnp.full(y.shape[:1], start, y.dtype)
    state = (y, field(y, sigma), sigma, jnp.full_like(sigma, (end - start) / 10), jnp.ones((), jnp.int32))
    y, _, sigma, _, calls = jax.lax.while_loop(unfinished, one_step, state)
    return jnp.where((sigma == end)[:, None], y, jnp.nan), calls

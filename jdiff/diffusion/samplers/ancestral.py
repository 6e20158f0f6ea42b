"""The split of an ancestral step."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def split(
    sigma: Float[Array, ""], sigma_next: Float[Array, ""], eta: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sigma_down, sigma_up): down the ODE to sigma_down, then up with noise to sigma_next (Song et al., arXiv
    2010.02502, eq. 16, in sigma coordinates).

        sigma_up   = eta s' sqrt(1 - s'^2 / s^2)
        sigma_down = sqrt(s'^2 - sigma_up^2)

    eta = 1 is the posterior's variance.
    """
    ratio = sigma_next / sigma
    up = eta * sigma_next * jnp.sqrt(jnp.maximum(1 - ratio**2, 0.0))  # 0 for a walk upwards, which takes eta = 0
    # sqrt(s'^2 - up^2), in a form that rounding cannot make imaginary on a long step.
    down = sigma_next * jnp.sqrt((1 - eta**2) + (eta * ratio) ** 2)
    return down, up

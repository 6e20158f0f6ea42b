"""Bounds on a variational autoencoder's likelihood of images."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from jdiff.common.keys import folded, normal
from jdiff.common.weights import Weights
from jdiff.diffusion.variational import discretized_gaussian
from jdiff.networks.bottlenecks import Gaussian
from jdiff.spaces.first_stage import FirstStage


def bits_per_dim(
    first_stage: FirstStage, weights: Weights, images: Num[Array, "b h w c"], keys: Key[Array, " b"], samples: int = 1
) -> Float[Array, " b"]:
    """-log2((1/K) sum_k p(x | z_k) p(z_k) / q(z_k | x)) / (H W C),   z_k ~ q(z | x),   K = `samples`

    An upper bound, in the mean, on -log2 p(x) a value: the negative ELBO for K = 1 (Kingma & Welling, arXiv 1312.6114),
    and tighter the larger K is (Burda et al., arXiv 1509.00519). p(z) = N(0, 1); p(x | z) is the mass of
    N(decode(z), mse) on the levels of the data, the outer levels open-ended, with the state's "mse". The samples are
    decoded one after the other. Raises ValueError where the bottleneck is no Gaussian.
    """
    bottleneck = first_stage.bottleneck
    if not isinstance(bottleneck, Gaussian):
        raise ValueError(f"the bottleneck is {bottleneck}: only a Gaussian's likelihood has a bound")
    x = first_stage.pixels.encode(weights, images, None)
    mean, log_variance = bottleneck.moments(first_stage.features(weights, images))
    ln_mse, half_level = jnp.log(weights.state["mse"]), first_stage.pixels.values.half_level

    def add(total: Array, sample: Array) -> tuple[Array, None]:
        eps = normal(folded(keys, sample), mean)
        z = mean + jnp.exp(log_variance / 2) * eps
        # ln p(z) - ln q(z | x), whose constants cancel
        ratio = 0.5 * jnp.sum(eps**2 + log_variance - z**2, axis=(1, 2, 3))
        likelihood = discretized_gaussian(x, first_stage.decode(weights, z), ln_mse, half_level)
        return jnp.logaddexp(total, ratio + jnp.sum(likelihood, axis=(1, 2, 3))), None

    total, _ = jax.lax.scan(add, jnp.full(len(x), -jnp.inf), jnp.arange(samples))
    return (math.log(samples) - total) / (math.prod(x.shape[1:]) * math.log(2))

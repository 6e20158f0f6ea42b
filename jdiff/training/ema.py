"""Averages of the weights: the exponential one that samplers load, and power-function ones to be recombined later."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, UInt32

from jdiff.training.profiles import gamma_of


@dataclass(frozen=True, kw_only=True)
class Ema:
    """ema <- beta ema + (1 - beta) params, beta = 0.5^(batch_size / halflife) (Karras et al., arXiv 2206.00364, F.2).

    halflife = min(halflife_images, rampup * images seen), or halflife_images where rampup is 0. The ramp-up lets the
    average follow the weights while they change fast; without it, early samples are noise. halflife_images 0: no
    averaging.
    """

    halflife_images: float
    rampup: float = 0.05

    def decay(self, step: Int[Array, ""], batch_size: int) -> Float[Array, ""]:
        """beta after `step` steps of batch_size images."""
        halflife = jnp.float32(self.halflife_images)
        if self.rampup:
            halflife = jnp.minimum(halflife, self.rampup * step.astype(jnp.float32) * batch_size)
        return jnp.where(halflife > 0, 0.5 ** (batch_size / jnp.maximum(halflife, 1e-8)), 0.0)

    def update(self, ema: PyTree, params: PyTree, step: Int[Array, ""], batch_size: int) -> PyTree:
        """beta ema + (1 - beta) params."""
        beta = self.decay(step, batch_size)
        return _between(ema, params, beta, 1 - beta)


@dataclass(frozen=True, kw_only=True)
class PowerEma:
    """Averages of power-function profiles (Karras et al., arXiv 2312.02696, section 3.1), one for each relative width:

        theta_gamma <- beta theta_gamma + (1 - beta) params,    beta = (1 - batch_size / t)^(gamma + 1)

    where t are the images seen so far, those of this step included: the paper's t in images. Weights thus count by the
    images trained on since the step before, whatever batch sizes there were: at t an average is exactly the integral of
    the profile p(t) over the weights as steps of a function of t. At the first step beta = 0: the averages are its
    weights. widths (): nothing is kept. See training/profiles.py.
    """

    widths: tuple[float, ...] = ()

    def init(self, params: PyTree) -> PyTree:
        """{"images": t = 0, "averages": a copy of params for each width}; {} without widths."""
        if not self.widths:
            return {}
        # Copies: the state is donated, and no buffer can be given away twice.
        copies = tuple(jax.tree.map(jnp.copy, params) for _ in self.widths)
        return {"images": jnp.zeros(2, jnp.uint32), "averages": copies}

    def update(self, kept: PyTree, params: PyTree, batch_size: int) -> PyTree:
        """What `init` gives, one step on."""
        if not self.widths:
            return {}
        images = _added(kept["images"], batch_size)
        share = jnp.float32(batch_size) / (images[1].astype(jnp.float32) * 2.0**32 + images[0].astype(jnp.float32))
        averages = []
        for width, average in zip(self.widths, kept["averages"], strict=True):
            log_beta = (gamma_of(width) + 1) * jnp.log1p(-share)  # 1 - beta by expm1: exact where it is tiny
            averages.append(_between(average, params, jnp.exp(log_beta), -jnp.expm1(log_beta)))
        return {"images": images, "averages": tuple(averages)}


def images_of(kept: PyTree) -> int:
    """The images t that the averages of a PowerEma have seen."""
    low, high = (int(part) for part in kept["images"])
    return high * 2**32 + low


def _added(images: UInt32[Array, "2"], count: int) -> UInt32[Array, "2"]:
    """A count in two parts, low and high: long trainings see more than 2^32 images."""
    low = images[0] + jnp.uint32(count)
    return jnp.stack([low, images[1] + (low < images[0]).astype(jnp.uint32)])


def _between(average: PyTree, params: PyTree, beta: Float[Array, ""], rest: Float[Array, ""]) -> PyTree:
    """beta average + rest params, rest being 1 - beta, from the nearer of the two: exact for beta = 0 and for weights
    that are frozen.
    """

    def mean(e: Array, p: Array) -> Array:
        gap = p.astype(e.dtype) - e
        return jnp.where(beta > 0.5, e + rest * gap, p.astype(e.dtype) - beta * gap)

    return jax.tree.map(mean, average, params)


def groups(params: PyTree, names: tuple[str, ...]) -> PyTree:
    """The top groups of params with these names; (): all."""
    return {name: params[name] for name in names} if names else params

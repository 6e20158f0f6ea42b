"""What of its latents an autoencoder uses."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jdiff.evaluation.numbers import HIGHER, Number
from jdiff.networks.bottlenecks import FSQ, VQ, Bottleneck, Gaussian

COLLAPSED = 0.01  # nats: a channel whose divergence from the prior is less, a place, tells nothing of an image
CONSTANT = 1e-3  # of the largest deviation of a channel


@dataclass
class LatentUse:
    """Sums over the latents of images. state: the bottleneck's. images, places: counted. nats: by channel, of the
    divergence from the prior. codes: how often each occurs.
    """

    bottleneck: Bottleneck
    state: Any
    images: int = 0
    places: int = 0
    total: Float[np.ndarray, " c"] | float = 0.0
    squares: Float[np.ndarray, " c"] | float = 0.0
    nats: Float[np.ndarray, " c"] | float = 0.0
    codes: Int[np.ndarray, " k"] | int = 0

    def add(self, features: Float[np.ndarray, "b h w f"]) -> None:
        """Take in what the encoder says of some images."""
        between, said = self.bottleneck, jnp.asarray(features)
        z = between.latents(said, None)
        over = (0, 1, 2)
        self.images += len(z)
        self.places += z[..., 0].size
        self.total += np.asarray(z, np.float64).sum(axis=over)
        self.squares += (np.asarray(z, np.float64) ** 2).sum(axis=over)
        if isinstance(between, Gaussian):
            mean, log_variance = (np.asarray(part, np.float64) for part in between.moments(said))
            self.nats += 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=over)
        if isinstance(between, VQ | FSQ):
            indices = np.asarray(between.indices(self.state, z)).ravel()
            self.codes += np.bincount(indices, minlength=between.size)

    def numbers(self) -> list[Number]:
        """What a Gaussian's latents hold; the codes in use, and their perplexity."""
        between = self.bottleneck
        if isinstance(between, Gaussian):
            held = float(np.sum(self.nats)) / self.images
            return [self._number("kl_nats", "KL", held, "", "nats that the latent of an image holds")]
        if not isinstance(between, VQ | FSQ):
            return []
        p = np.asarray(self.codes) / np.sum(self.codes)
        entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
        used, about = (
            float((p > 0).mean()),
            f"as varied as so many codes that are equally frequent, of {between.size:,}",
        )
        return [
            self._number("codes_used", "codes in use", used, HIGHER, f"share of the {between.size:,} codes that occur"),
            self._number("perplexity", "perplexity", float(np.exp(entropy)), HIGHER, about),
        ]

    def _number(self, name: str, title: str, value: float, better: str, about: str) -> Number:
        return Number(name=name, title=title, value=value, better=better, about=about, count=self.images)

    def faults(self) -> list[str]:
        """What is not used, a line each."""
        idle, between = self.idle(), self.bottleneck
        if len(idle) == between.channels:
            if isinstance(between, Gaussian):
                return [
                    "posterior collapse: the latents tell nothing of the image; lower autoencoder.beta and train again"
                ]
            return ["the latents are the same for all images, and tell nothing of them: train again"]
        if not len(idle):
            return []
        named = f"channel{'s' if len(idle) > 1 else ''} {', '.join(map(str, idle))}"
        return [f"{named} of the latents' {between.channels} tell nothing of the image: fewer would do as well"]

    def idle(self) -> Int[np.ndarray, " m"]:
        """The channels that tell nothing."""
        if isinstance(self.bottleneck, Gaussian):
            return np.flatnonzero(np.asarray(self.nats) / self.places < COLLAPSED)
        variance = np.asarray(self.squares) / self.places - (np.asarray(self.total) / self.places) ** 2
        deviation = np.sqrt(np.maximum(variance, 0))
        return np.flatnonzero(deviation <= CONSTANT * deviation.max())

"""The autoencoder task: reconstruct images through a bottleneck; the first stage of latent diffusion."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import getitem

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jdiff.common.keys import folded, named
from jdiff.common.weights import Weights
from jdiff.networks.bottlenecks import Gaussian, Trained
from jdiff.spaces.first_stage import FirstStage
from jdiff.spaces.pixels import Pixels
from jdiff.tasks import adversary, equivariance
from jdiff.tasks.adversary import Adversary
from jdiff.tasks.reconstruction import Term, l2
from jdiff.training.ema import Ema

MSE = Ema(halflife_images=5000)
LAST_KERNEL = ("autoencoder", "decoder", "last", "kernel")


@dataclass(frozen=True, kw_only=True, eq=False)
class AutoencoderTask:
    """loss = mean over images of sum_i weight_i distance_i(x, x_hat) + the bottleneck's terms, + the adversary's.

    equivariance: the share of a batch's rows that are decoded from transformed latents and compared with transformed
    images (equivariance.py); the adversary sees the others. frozen_encoder: only the decoder learns; the encoder, and a
    codebook, stay as they are. Held-out images are scored without transforms, adversary and dropout.

    State: the bottleneck's, and with a Gaussian "mse", the moving average of mean (x - x_hat)^2: the variance of the
    decoder's Gaussian in `elbo`.
    """

    first_stage: FirstStage
    reconstruction: tuple[Term, ...]
    adversary: Adversary | None = None
    equivariance: float = 0.0
    frozen_encoder: bool = False
    averaged: tuple[str, ...] = ("autoencoder",)

    reads_average = False

    @property
    def space(self) -> Pixels:
        return self.first_stage.pixels

    @property
    def sampling_task(self) -> "AutoencoderTask":
        return self

    def init(self, key: Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        weights = self.first_stage.init(key)
        params, state = dict(weights.params), dict(weights.state)
        if self.adversary:
            params["discriminator"] = self.adversary.init(named(key, "discriminator"), self.space.shape)
        if isinstance(self.first_stage.bottleneck, Gaussian):
            state["mse"] = jnp.ones(())
        return params, state

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        """logs: distances by name, without their weights, of images that are not transformed; "equivariance", their
        weighted sum for those that are; the bottleneck's terms and logs; the adversary's.
        """
        stage, weights = self.first_stage, Weights(params, state)
        dropout = named(key, "dropout") if train else None
        x = self.space.encode(weights, batch["x0"], None)
        features = stage.features(weights, batch["x0"], dropout)
        z_q, terms, after, logs = self._through(state, features, named(key, "latent"))
        share, (_, height, width, _) = self.equivariance if train else 0.0, z_q.shape
        first, *others = equivariance.groups(len(x), share, (height, width))

        def decode(last_kernel: Array) -> tuple[Array, Array]:
            known = Weights(_with_leaf(params, LAST_KERNEL, last_kernel), state)
            x_hat = stage.decode_quantized(known, first.take(z_q), dropout)
            return first.unchanged(x_hat), first.changed(x_hat)

        fake, to_last_kernel, turned = jax.vjp(decode, _leaf(params, LAST_KERNEL), has_aux=True)
        real = first.unchanged(first.take(x))
        total, distances = self._score(real, fake)
        totals = [total]
        if len(turned):
            totals.append(self._score(first.changed(first.take(x)), turned)[0])
        for index, group in enumerate(others):
            z_t = stage.bottleneck.quantized(state, group.take(z_q))
            x_t = stage.decode_quantized(weights, z_t, dropout if dropout is None else folded(dropout, index))
            totals.append(self._score(group.take(x, stage.stride), x_t)[0])
        loss = jnp.mean(jnp.concatenate(totals)) + sum(jnp.mean(term) for term in terms.values())
        logs |= {name: jnp.mean(values) for name, values in {**distances, **terms}.items()}
        if len(totals) > 1:
            logs["equivariance"] = jnp.mean(jnp.concatenate(totals[1:]))
        if not train:
            return loss, (state, logs)

        if "mse" in state:
            error = lax.stop_gradient(jnp.mean(l2(real, fake)))
            after = {**after, "mse": MSE.update(state["mse"], error, step, len(x))}
        if self.adversary:
            term, more = self._players(self.adversary, params["discriminator"], real, fake, to_last_kernel)
            loss += self.adversary.active(term, step)
            logs |= more
        return loss, (after, logs)

    def merged(self, weights: Weights) -> Weights:
        return weights

    def init_from(self, weights: Weights, pretrained: Weights) -> Weights:
        return Weights({**weights.params, **pretrained.params}, {**weights.state, **pretrained.state})

    def _through(self, state: PyTree, features: Float[Array, "b h w f"], key: Array) -> Trained:
        """What the decoder is given, and what the bottleneck adds."""
        stage = self.first_stage
        if self.frozen_encoder:
            z = stage.latents(lax.stop_gradient(features), key)
            return stage.bottleneck.quantized(state, z), {}, state, {}
        return stage.bottleneck.train(state, features, key, math.prod(self.space.shape))

    def _players(
        self, player: Adversary, known: PyTree, real: Array, fake: Array, to_last_kernel: Callable
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """(both players' losses as one, logs). known: the discriminator's parameters. to_last_kernel: takes a gradient
        of `fake` to one of the decoder's last kernel.
        """
        generator, weight, logs = player.generator(known, fake), jnp.float32(player.weight), {}
        if player.adaptive:
            losses = lambda fake: jnp.mean(self._score(real, fake)[0]), lambda fake: player.generator(known, fake)
            logs["adaptive_weight"] = adversary.ratio(to_last_kernel, fake, *losses)
            weight *= logs["adaptive_weight"]
        discriminator, more = player.discriminator(known, real, fake)
        return weight * generator + discriminator, {"generator": generator, **logs, **more}

    def _score(self, x: Array, x_hat: Array) -> tuple[Float[Array, " b"], dict[str, Array]]:
        """(the weighted sum of distances, distances by name)"""
        distances = {term.name: term.distance(x, x_hat) for term in self.reconstruction}
        return jnp.stack([term.weight * distances[term.name] for term in self.reconstruction]).sum(axis=0), distances


def _leaf(tree: PyTree, path: tuple[str, ...]) -> Array:
    return reduce(getitem, path, tree)


def _with_leaf(tree: PyTree, path: tuple[str, ...], leaf: Array) -> PyTree:
    """The tree with another leaf at this path."""
    return {**tree, path[0]: _with_leaf(tree[path[0]], path[1:], leaf)} if path else leaf

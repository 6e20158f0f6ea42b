"""The diffusion task: learn the denoiser D(x0 + sigma eps, sigma, cond) of x0."""

from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, PyTree

from jdiff.common.arrays import per_image
from jdiff.common.keys import named
from jdiff.conditions import Condition
from jdiff.diffusion import variational
from jdiff.diffusion.denoiser import JUMP, Cond, Denoise, Denoised, make_denoiser
from jdiff.diffusion.guidance import GUIDANCE_SCALE
from jdiff.diffusion.objective import Objective, uncertain
from jdiff.diffusion.parameterization import Parameterization
from jdiff.diffusion.tables import DDPMTable
from jdiff.networks.adapter import ADAPTER_SCALE
from jdiff.spaces import Space
from jdiff.tasks import Weights


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffusionTask:
    """loss = mean over images of objective.losses(x0, D(x0 + sigma eps, sigma, cond), sigma),  sigma ~ objective.draw

    conditions: what the network is given of a batch's "cond"; in training each is replaced, in a share of the examples,
    by its learned null, so that the model also learns to do without (classifier-free guidance). learned_variance: the
    network answers with twice the channels; jumps: it knows where it goes (denoiser.make_denoiser). scale_input: it is
    told the scale of a guidance that is trained in; 1 where none is asked for. uncertainty: learns u(ln sigma) along,
    for objective.uncertain; its parameters lie beside the network's.
    """

    network: nn.Module
    parameterization: Parameterization
    objective: Objective
    space: Space
    conditions: tuple[Condition, ...] = ()
    learned_variance: bool = False
    jumps: bool = False
    scale_input: bool = False
    uncertainty: nn.Module | None = None
    averaged: tuple[str, ...] = ("network",)

    reads_average = False

    @property
    def sampling_task(self) -> "DiffusionTask":
        return self

    def init(self, key: Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        x0 = jnp.zeros((len(batch["x0"]), *self.space.shape))
        sigma = jnp.ones(x0.shape[0])
        cond = {**batch["cond"], GUIDANCE_SCALE: sigma, JUMP: jnp.zeros((len(x0), 2))}
        params = {"network": self.network.init(key, x0, sigma, self._known(cond))["params"]}
        if self.uncertainty:
            params["uncertainty"] = self.uncertainty.init(named(key, "uncertainty"), sigma)["params"]
        return params, {}

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        weights = Weights(params, state)
        x0, cond = self.examples(weights, batch, key, train=train)
        sigma = self.objective.sigmas(named(key, "sigma"), len(x0))
        x = x0 + per_image(sigma, x0) * jax.random.normal(named(key, "eps"), x0.shape)
        denoised = self.denoises(weights, named(key, "dropout") if train else None)(x, sigma, cond)
        losses = self.objective.losses(x0, denoised.x0, sigma)
        logs = {}
        if self.uncertainty:
            logs["error"] = jnp.mean(losses)
            u: Any = self.uncertainty.apply({"params": params["uncertainty"]}, jnp.log(sigma))
            losses = uncertain(losses, u)
        if self.learned_variance:
            bits = self._variational(x0, x, sigma, denoised)
            logs["vlb_bits"] = jnp.mean(bits)
            losses += self.objective.vlb * bits
        return jnp.mean(losses), (state, logs)

    def examples(self, weights: Weights, batch: PyTree, key: Array, *, train: bool) -> tuple[Array, dict[str, Any]]:
        """(x0, its conditions, some of which are dropped in training) of a batch."""
        x0, cond = self.space.encode(weights, batch["x0"], named(key, "encode")), dict(batch["cond"])
        if train and self.conditions:
            drops = self._drops(named(key, "drop"), len(x0))
            cond["drop"] = dict(zip([condition.name for condition in self.conditions], drops, strict=True))
        return x0, cond

    def denoiser(self, weights: Weights) -> "Denoiser":
        """D with these weights, as samplers see it."""
        return Denoiser(self, weights)

    def merged(self, weights: Weights) -> Weights:
        return weights

    def init_from(self, weights: Weights, pretrained: Weights) -> Weights:
        return Weights({**weights.params, **pretrained.params}, {**weights.state, **pretrained.state})

    def denoises(self, weights: Weights, dropout_key: Array | None) -> Denoise:
        """D with these weights, in training where there is a key of what dropout leaves out."""
        rngs = {} if dropout_key is None else {"dropout": dropout_key}

        def network(x: Float[Array, "b ..."], c_noise: Float[Array, " b"], cond: Cond) -> Any:
            if self.scale_input:
                cond = {GUIDANCE_SCALE: jnp.ones(len(x)), **cond}
            params, known = weights.params["network"], self._known(cond)
            return self.network.apply({"params": params}, x, c_noise, known, train=bool(rngs), rngs=rngs)

        return make_denoiser(network, self.parameterization, learned_variance=self.learned_variance, jumps=self.jumps)

    def _drops(self, key: Array, images: int) -> Bool[Array, "conditions b"]:
        """Which conditions are dropped, each at its own rate. In half of the images by one draw for all conditions, so
        that often all are dropped, which is what guidance leads away from.
        """
        rates = jnp.array([condition.drop_rate for condition in self.conditions])
        draws = jax.random.uniform(key, (len(rates), images))
        together = jax.random.bernoulli(named(key, "together"), shape=(images,))
        return jnp.where(together, draws[0], draws) < rates[:, None]

    def _variational(self, x0: Array, x: Array, sigma: Array, denoised: Any) -> Float[Array, " b"]:
        """T L_t in bits a value, an estimate of the bound; it trains the variance alone (2102.09672, section 3.1)."""
        table = self.parameterization.schedule
        assert isinstance(table, DDPMTable)
        t = jnp.round(table.time(sigma)).astype(int)
        fixed_mean = replace(denoised, x0=jax.lax.stop_gradient(denoised.x0))
        sigmas, half_level = jnp.asarray(table.sigmas, x.dtype), self.space.values.half_level
        return len(table.betas) * variational.term(sigmas, x0, x, t, fixed_mean, half_level)

    def _known(self, cond: Cond) -> dict[str, Any]:
        """What the network is told: its conditions, which of them are dropped, and what is no condition of the data."""
        known = {each.name: each.encode(cond[each.name]) for each in self.conditions if each.name in cond}
        besides = ("augment", "drop", ADAPTER_SCALE, JUMP, GUIDANCE_SCALE)
        return known | {name: cond[name] for name in besides if name in cond}


@struct.dataclass
class Denoiser:
    """The denoiser of a task with its weights, as one pytree: `denoise(x, sigma, cond, to)`."""

    task: DiffusionTask = struct.field(pytree_node=False)
    weights: Any

    def __call__(
        self, x: Float[Array, "b ..."], sigma: Float[Array, "*b"], cond: Cond, to: Float[Array, "*b"] | None = None
    ) -> Denoised:
        return self.task.denoises(self.weights, None)(x, sigma, cond, to)

"""The diffusion task."""

from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jdiff.common.arrays import per_image
from jdiff.common.keys import named
from jdiff.common.pictures import to_float
from jdiff.diffusion import variational
from jdiff.diffusion.denoiser import Cond, Denoise, make_denoiser
from jdiff.diffusion.objective import Objective, uncertain
from jdiff.diffusion.parameterization import Parameterization
from jdiff.diffusion.tables import DDPMTable


@dataclass(frozen=True, kw_only=True)
class DiffusionTask:
    """Learn the denoiser D(x, sigma, cond) = E[x0 given x = x0 + sigma eps]:

    loss = mean over images of objective.losses(x0, D(x0 + sigma eps, sigma, cond), sigma),   sigma ~ objective.draw

    conditions: the names in batch["cond"] that the model is given. drop_rates: the probability, in training, that an
    example's condition is replaced by its learned null (classifier-free guidance; Ho & Salimans, arXiv 2207.12598).
    learned_variance: the network has twice the channels (`make_denoiser`). uncertainty: u(ln sigma) of
    `objective.uncertain`, with parameters beside the network's.
    """

    network: nn.Module
    parameterization: Parameterization
    objective: Objective
    conditions: tuple[str, ...] = ()
    drop_rates: tuple[float, ...] = ()
    learned_variance: bool = False
    uncertainty: nn.Module | None = None

    def init(self, key: Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        """({"network": ..., "uncertainty": ...}, {}), the latter params only with `uncertainty`."""
        x0 = to_float(batch["x0"])
        sigma = jnp.ones(x0.shape[0])
        params = {"network": self.network.init(key, x0, sigma, self._known(batch["cond"]))["params"]}
        if self.uncertainty:
            params["uncertainty"] = self.uncertainty.init(named(key, "uncertainty"), sigma)["params"]
        return params, {}

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        """The loss above; logs "error", its value before `uncertain`, and "vlb_bits", where they differ or exist."""
        x0, cond = to_float(batch["x0"]), self._known(batch["cond"])
        images = x0.shape[0]
        if train and cond:
            cond["drop"] = dict(zip(self.conditions, self._drops(named(key, "drop"), images), strict=True))
        sigma = self.objective.sigmas(named(key, "sigma"), images)
        x = x0 + per_image(sigma, x0) * jax.random.normal(named(key, "eps"), x0.shape)
        denoise = self._denoiser(params, dropout_key=named(key, "dropout") if train else None)
        denoised = denoise(x, sigma, cond)
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

    def denoiser(self, params: PyTree) -> Denoise:
        """D with these parameters, as samplers see it."""
        return self._denoiser(params, dropout_key=None)

    def _denoiser(self, params: PyTree, *, dropout_key: Array | None) -> Denoise:
        rngs = {} if dropout_key is None else {"dropout": dropout_key}

        def network(x: Float[Array, "b ..."], c_noise: Float[Array, " b"], cond: Cond) -> Any:
            known = self._known(cond)
            return self.network.apply({"params": params["network"]}, x, c_noise, known, train=bool(rngs), rngs=rngs)

        return make_denoiser(network, self.parameterization, learned_variance=self.learned_variance)

    def _drops(self, key: Array, images: int) -> Bool[Array, "conditions b"]:
        """Which conditions are dropped, each at its own rate. In half of the images by one draw for all conditions, so
        that often all are dropped, which is what guidance leads away from.
        """
        draws = jax.random.uniform(key, (len(self.drop_rates), images))
        together = jax.random.bernoulli(named(key, "together"), shape=(images,))
        return jnp.where(together, draws[0], draws) < jnp.array(self.drop_rates)[:, None]

    def _variational(self, x0: Array, x: Array, sigma: Array, denoised: Any) -> Float[Array, " b"]:
        """T L_t in bits a value, an estimate of the bound; it trains the variance alone (2102.09672, section 3.1)."""
        table = self.parameterization.schedule
        assert isinstance(table, DDPMTable)
        t = jnp.round(table.time(sigma)).astype(int)
        fixed_mean = replace(denoised, x0=jax.lax.stop_gradient(denoised.x0))
        return len(table.betas) * variational.term(jnp.asarray(table.sigmas, x.dtype), x0, x, t, fixed_mean)

    def _known(self, cond: Cond) -> dict[str, Any]:
        """Those of the conditions that the network is given, images as floats, and how images were augmented."""
        known = {name: cond[name] for name in (*self.conditions, "augment", "drop") if name in cond}
        return known | ({"image": to_float(known["image"])} if "image" in known else {})

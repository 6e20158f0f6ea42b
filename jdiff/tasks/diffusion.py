"""The diffusion task: learn the denoiser D(x0 + sigma eps, sigma, cond) of x0.

loss = mean over images and pixels of weight(sigma) |D(x0 + sigma eps, sigma, cond) - x0|^2,   sigma ~ draw
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jdiff.common.keys import named
from jdiff.common.pictures import to_float
from jdiff.diffusion.denoiser import Cond, Denoise, make_denoiser, per_image
from jdiff.diffusion.objective import Objective
from jdiff.diffusion.parameterization import Parameterization


@dataclass(frozen=True, kw_only=True)
class DiffusionTask:
    """conditions: the names in a batch's "cond" that the model is given. drop_rate: how often, in training, an
    example's condition is replaced by the learned null, so that the model also learns to do without (classifier-free
    guidance).
    """

    network: nn.Module
    parameterization: Parameterization
    objective: Objective
    conditions: tuple[str, ...] = ()
    drop_rate: float = 0.1

    def init(self, key: Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        x0 = to_float(batch["x0"])
        variables = self.network.init(key, x0, jnp.zeros(x0.shape[0]), self._cond(batch))
        return variables["params"], {}

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        x0, cond = to_float(batch["x0"]), self._cond(batch)
        images = x0.shape[0]
        if train and cond:
            rows = jax.random.bernoulli(named(key, "drop"), self.drop_rate, (len(cond), images))
            cond["drop"] = dict(zip(self.conditions, rows, strict=True))
        sigma = self.objective.draw(named(key, "sigma"), (images,))
        eps = jax.random.normal(named(key, "eps"), x0.shape)
        denoise = self._denoiser(params, dropout_key=named(key, "dropout") if train else None)
        error = denoise(x0 + per_image(sigma, x0) * eps, sigma, cond).x0 - x0
        loss = jnp.mean(per_image(self.objective.weight(sigma), x0) * error**2)
        return loss, (state, {})

    def denoiser(self, params: PyTree) -> Denoise:
        """D with these parameters, as samplers see it."""
        return self._denoiser(params, dropout_key=None)

    def _denoiser(self, params: PyTree, *, dropout_key: Array | None) -> Denoise:
        rngs = {} if dropout_key is None else {"dropout": dropout_key}

        def network(x: Float[Array, "b ..."], c_noise: Float[Array, " b"], cond: Cond) -> Any:
            return self.network.apply({"params": params}, x, c_noise, cond, train=bool(rngs), rngs=rngs)

        return make_denoiser(network, self.parameterization)

    def _cond(self, batch: PyTree) -> dict[str, Any]:
        return {name: batch["cond"][name] for name in self.conditions}

"""Guidance, and what of it a model cannot do."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.config import one_of
from jdiff.diffusion import guidance, schedules
from jdiff.diffusion.denoiser import Denoise
from jdiff.from_config.conditions import check_conditions, drop_rates
from jdiff.from_config.sampling import FIRST_ORDER, ladder, sampler
from jdiff.tasks.diffusion import DiffusionTask


def is_guided(config: ConfigDict) -> bool:
    """Whether guidance changes anything."""
    scale = config.sample.guidance_scale
    return scale is not None and changes(config, scale)


def changes(config: ConfigDict, scale: float) -> bool:
    """Whether guidance of this scale differs from the conditional model: a scale of 1 is that model, save where it is
    the strength of a push (classifier: 0 is) or the direction changes in any case (cfg_plus_plus).
    """
    return config.guidance.method == "cfg_plus_plus" or scale != (config.guidance.method != "classifier")


def check_sampling(config: ConfigDict, made_schedule: schedules.Schedule) -> None:
    """Raises UserError where `config.sample` and `config.guidance` cannot work, so that this is told before the first
    picture is due.
    """
    sampler(config.sample)
    ladder(config.sample, made_schedule)
    check_conditions(config)
    sample, wanted = config.sample, config.guidance
    if sample.sampler == "ddpm" and sample.variance == "learned" and not config.model.learned_variance:
        raise UserError(
            "sample.variance='learned': this model learned none (model.learned_variance); use small or large"
        )
    method = one_of("guidance.method", wanted.method, list(GUIDANCE))
    one_of("guidance.threshold", wanted.threshold, ("none", "static", "dynamic"))
    for name, low, high in (("rescale", 0, 1), ("quantile", 0, 1)):
        if not low <= wanted[name] <= high:
            raise UserError(f"guidance.{name}={wanted[name]} must lie in [{low}, {high}]")
    if wanted.sigma_high is not None and not wanted.sigma_low < wanted.sigma_high:
        raise UserError(f"guidance.sigma_low={wanted.sigma_low} must be below guidance.sigma_high={wanted.sigma_high}")
    if not is_guided(config):
        return
    if not math.isfinite(sample.guidance_scale):
        raise UserError(f"sample.guidance_scale={sample.guidance_scale} must be a finite number")
    if method in ("classifier_free", "cfg_plus_plus") and not config.model.conditions:
        raise UserError("guidance_scale: an unconditional model has nothing to guide; leave it out")
    if wanted.conditions and method not in ("classifier_free", "cfg_plus_plus"):
        raise UserError(f"guidance.conditions={wanted.conditions} goes with classifier_free and cfg_plus_plus alone")
    for name in wanted.conditions:
        one_of("guidance.conditions", name, list(config.model.conditions))
    if method in ("classifier_free", "cfg_plus_plus"):
        away_from(config)
    if method == "cfg_plus_plus":
        if sample.sampler not in FIRST_ORDER:
            raise UserError(f"guidance.method='cfg_plus_plus' goes with the samplers {', '.join(FIRST_ORDER)} alone")
        if not 0 <= sample.guidance_scale <= 1:
            raise UserError(f"sample.guidance_scale={sample.guidance_scale} of cfg_plus_plus must lie in [0, 1]")
    if method == "autoguidance" and not wanted.weak_workdir:
        raise UserError("guidance.method='autoguidance' needs a second, weaker run: set guidance.weak_workdir")
    if method == "classifier" and not wanted.classifier_workdir:
        raise UserError("guidance.method='classifier' needs a classifier's run: set guidance.classifier_workdir")
    if method == "classifier" and config.data.labels_per_image > 1:
        raise UserError("guidance.method='classifier' guides to one class, and these images have several labels")
    if method == "classifier" and not config.data.class_names:
        raise UserError("guidance.method='classifier' guides to a class, and this model's data have none")


def away_from(config: ConfigDict) -> tuple[str, ...]:
    """The conditions that classifier-free guidance drops. Raises UserError where the model never learned to do without
    one.
    """
    conditions, named = config.model.conditions, config.guidance.conditions
    without = [name for name, rate in zip(conditions, drop_rates(config), strict=True) if rate > 0]
    needed = [name for name in named or conditions if name not in without]
    if needed and (named or not without):
        raise UserError(
            f"guidance_scale: this model never learned to do without its {needed[0]}, which was never dropped in "
            "training (condition.*.drop_rate, model.drop_rate): there is nothing to guide away from"
        )
    return tuple(named or without)


# What each method makes of the denoiser. conditions: those that it drops. helpers: the other runs' tasks, with their
# weights beside the model's.


def _classifier_free(denoise: Denoise, rows: Any, conditions: Any, rescale: Any, weights: Any, helpers: Any) -> Denoise:
    return guidance.ClassifierFree(rows["scale"], rescale, conditions)(denoise)


def _cfg_plus_plus(denoise: Denoise, rows: Any, conditions: Any, rescale: Any, weights: Any, helpers: Any) -> Denoise:
    return guidance.CFGPlusPlus(rows["scale"], conditions)(denoise)


def _autoguidance(denoise: Denoise, rows: Any, conditions: Any, rescale: Any, weights: Any, helpers: Any) -> Denoise:
    weak = helpers["weak"].denoiser(weights["weak"])
    return guidance.Autoguidance(rows["scale"], weak, rescale)(denoise)


def _classifier(denoise: Denoise, rows: Any, conditions: Any, rescale: Any, weights: Any, helpers: Any) -> Denoise:
    def log_probability(x: Array, sigma: Array, cond: Any) -> Array:
        """ln p(class | D(x)): a classifier of clean images reads the denoised one."""
        logits, _ = helpers["classifier"].classify(weights["classifier"], x)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), cond["label"][:, None], axis=1)[:, 0]

    return guidance.ClassifierGuidance(rows["scale"], log_probability)(denoise)


GUIDANCE: dict[str, Callable[..., Denoise]] = {
    "classifier_free": _classifier_free,
    "cfg_plus_plus": _cfg_plus_plus,
    "autoguidance": _autoguidance,
    "classifier": _classifier,
}


def guidance_runs(config: ConfigDict) -> dict[str, tuple[str, str]]:
    """The other runs that the guidance needs, name -> (workdir, checkpoint)."""
    if not is_guided(config):
        return {}
    wanted = config.guidance
    if wanted.method == "autoguidance":
        return {"weak": (wanted.weak_workdir, wanted.weak_checkpoint)}
    return {"classifier": (wanted.classifier_workdir, "latest")} if wanted.method == "classifier" else {}


def guidance_numbers(config: ConfigDict) -> dict[str, np.float32]:
    """The guidance's numbers, which a compiled program takes as they come."""
    wanted = config.guidance
    numbers = {
        "rescale": wanted.rescale,
        "sigma_low": wanted.sigma_low,
        "sigma_high": math.inf if wanted.sigma_high is None else wanted.sigma_high,
        "quantile": wanted.quantile,
    }
    return {name: np.float32(value) for name, value in numbers.items()}


def guide(config: ConfigDict, task: DiffusionTask, helpers: Mapping[str, Any]) -> tuple[Any, Callable]:
    """(a key that tells this form of guidance from others, (weights, rows) -> the guided denoiser).

    weights: "model", each helper's, and "guidance", the numbers; rows: "scale" [B].
    """
    wanted, guided = config.guidance, is_guided(config)
    limited = wanted.sigma_low > 0 or wanted.sigma_high is not None
    runs = tuple(guidance_runs(config).values())
    conditions = away_from(config) if guided and wanted.method in ("classifier_free", "cfg_plus_plus") else ()
    form = (guided, wanted.method, conditions, bool(wanted.rescale), limited, wanted.threshold, *runs)

    def make(weights: Any, rows: Any) -> Denoise:
        plain, numbers = task.denoiser(weights["model"]), weights["guidance"]
        denoise = plain
        if guided:
            rescale = numbers["rescale"] if wanted.rescale else None

            def made(plain: Denoise) -> Denoise:
                return GUIDANCE[wanted.method](plain, rows, conditions, rescale, weights, helpers)

            denoise = made(plain)
            if limited:
                denoise = guidance.Interval(made, numbers["sigma_low"], numbers["sigma_high"])(plain)
        if wanted.threshold == "static":
            return guidance.StaticThreshold()(denoise)
        return guidance.DynamicThreshold(numbers["quantile"])(denoise) if wanted.threshold == "dynamic" else denoise

    return form, make

"""Guidance."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.config import one_of
from jdiff.diffusion.guidance import (
    Autoguidance,
    CFGPlusPlus,
    ClassifierFree,
    ClassifierGuidance,
    DynamicThreshold,
    Guidance,
    Interval,
    StaticThreshold,
    TrainedIn,
)
from jdiff.from_config.conditions import conditions
from jdiff.from_config.names import pick

Helpers = Mapping[str, Any]  # "weak": a denoiser; "classifier": ln p(class | x)


def _classifier_free(config: ConfigDict, scale: Any, helpers: Helpers) -> Guidance:
    return ClassifierFree(scale, rescale=_rescale(config), conditions=away_from(config))


def _cfg_plus_plus(config: ConfigDict, scale: Any, helpers: Helpers) -> Guidance:
    return CFGPlusPlus(scale, conditions=away_from(config))


def _autoguidance(config: ConfigDict, scale: Any, helpers: Helpers) -> Guidance:
    return Autoguidance(scale, helpers["weak"], rescale=_rescale(config))


def _classifier(config: ConfigDict, scale: Any, helpers: Helpers) -> Guidance:
    return ClassifierGuidance(scale, helpers["classifier"])


# guidance.method -> (config, the scale of each image, helpers) -> its guidance.
GUIDANCES: dict[str, Callable[[ConfigDict, Any, Helpers], Guidance]] = {
    "classifier_free": _classifier_free,
    "cfg_plus_plus": _cfg_plus_plus,
    "autoguidance": _autoguidance,
    "classifier": _classifier,
    "trained_in": lambda config, scale, helpers: TrainedIn(scale),
}

THRESHOLDS: dict[str, Callable[[ConfigDict], tuple[Guidance, ...]]] = {
    "none": lambda config: (),
    "static": lambda config: (StaticThreshold(),),
    "dynamic": lambda config: (DynamicThreshold(np.float32(config.guidance.quantile)),),
}


def guidances(config: ConfigDict, scale: Any, helpers: Helpers, *, guided: bool) -> tuple[Guidance, ...]:
    """The guidances that `config` asks for, in the order of their use. scale: of each image. guided: whether any
    scale changes anything.
    """
    wanted = config.guidance
    method = pick("guidance.method", wanted.method, GUIDANCES)
    thresholds = pick("guidance.threshold", wanted.threshold, THRESHOLDS)(config)
    if not guided:
        return thresholds
    guidance = method(config, scale, helpers)
    if wanted.sigma_low > 0 or wanted.sigma_high is not None:
        high = math.inf if wanted.sigma_high is None else wanted.sigma_high
        guidance = Interval(guidance, np.float32(wanted.sigma_low), np.float32(high))
    return (guidance, *thresholds)


def helper_runs(config: ConfigDict) -> dict[str, tuple[str, str]]:
    """The other runs that the guidance needs, by name: (workdir, checkpoint)."""
    wanted = config.guidance
    runs = {
        "autoguidance": {"weak": (wanted.weak_workdir, wanted.weak_checkpoint)},
        "classifier": {"classifier": (wanted.classifier_workdir, "latest")},
    }
    return runs.get(wanted.method, {})


def away_from(config: ConfigDict) -> tuple[str, ...]:
    """The conditions that classifier-free guidance drops. Raises UserError where the model never learned to do without
    one.
    """
    named = config.guidance.conditions
    for name in named:
        one_of("guidance.conditions", name, list(config.model.conditions))
    without = [condition.name for condition in conditions(config) if condition.drop_rate > 0]
    needed = [name for name in named or config.model.conditions if name not in without]
    if needed and (named or not without):
        raise UserError(
            f"guidance_scale: this model never learned to do without its {needed[0]}, which was never dropped in "
            "training (condition.*.drop_rate, model.drop_rate): there is nothing to guide away from"
        )
    return tuple(named or without)


def _rescale(config: ConfigDict) -> np.float32 | None:
    return np.float32(config.guidance.rescale) if config.guidance.rescale else None

"""Settings of sampling that --mode=tune found, by the number of denoiser calls: a run's tune/tuned.json."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jdiff.common.errors import UserError

FOLDER, FILE = "tune", "tuned.json"
# What a preset says; all else is as the config has it.
KEYS = (
    *(f"sample.{key}" for key in ("sampler", "steps", "ladder", "sigmas", "rho", "sigma_min", "sigma_max")),
    *(f"sample.{key}" for key in ("eta", "order", "s_churn", "s_min", "s_max", "s_noise", "guidance_scale")),
    *(f"sample.{key}" for key in ("variance", "corrector_steps", "langevin_step", "final_sigma", "flow_shift")),
    *(f"guidance.{key}" for key in ("method", "weak_workdir", "weak_checkpoint", "classifier_workdir", "conditions")),
    *(f"guidance.{key}" for key in ("rescale", "sigma_low", "sigma_high", "threshold", "quantile")),
)
RUNGS = ("sample.ladder", "sample.sigmas")


def read(workdir: Path | None, calls: int) -> dict[str, Any]:
    """The contents of the run's tuned.json. Raises UserError where there is none."""
    file = (workdir or Path()) / FOLDER / FILE
    command = f'--mode=tune --workdir={workdir or "DIR"} --config.tune.nfe="({calls},)"'
    if workdir is None or not file.is_file():
        raise UserError(f"sample.preset={calls}: {file} is not there, which {command} writes")
    try:
        held = json.loads(file.read_text("utf-8"))
        return {**held, "budgets": dict(held["budgets"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"sample.preset={calls}: {file} is damaged ({error}); {command} writes it anew") from error


def resolved(config: ConfigDict, workdir: Path | None, calls: int, given: Collection[str]) -> ConfigDict:
    """The config with the run's settings for so many calls; what the caller gives, by the keys `given`, stays. Raises
    UserError for a budget that was not tuned.
    """
    budgets = read(workdir, calls)["budgets"]
    if str(calls) not in budgets:
        known = ", ".join(sorted(budgets, key=int))
        raise UserError(
            f"sample.preset={calls} is none of the budgets tuned for {workdir}, {known}: "
            f'--mode=tune --workdir={workdir} --config.tune.nfe="({calls},)" adds it'
        )
    settings = budgets[str(calls)]["settings"]
    if "sample.steps" in given and settings["sample.ladder"] == "by_hand" and not set(RUNGS) & set(given):
        raise UserError(
            f"sample.preset={calls} has a ladder of {len(settings['sample.sigmas'])} rungs, which sample.steps does "
            "not change: leave sample.steps out, or give sample.ladder too"
        )
    return applied(config, {name: value for name, value in settings.items() if name in KEYS and name not in given})


def applied(config: ConfigDict, settings: Mapping[str, Any]) -> ConfigDict:
    """The config with these values in place of its keys, None among them."""
    config = config.copy_and_resolve_references()
    for name, value in settings.items():
        group, _, key = name.partition(".")
        config[group][key] = tuple(value) if isinstance(value, list) else value
    return config


def settings_of(config: ConfigDict) -> dict[str, Any]:
    """What the config says of a preset's keys."""
    groups = (name.partition(".") for name in KEYS)
    return {name: config[group][key] for name, (group, _, key) in zip(KEYS, groups, strict=True)}

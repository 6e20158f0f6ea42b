"""Samplers and their ladders."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.config import check_sample, known_as
from jdiff.diffusion import ladders, samplers, schedules, tables
from jdiff.from_config.names import pick

# The noise of the samplers that read sample.eta.
ETA_UNLESS_SET = {"ddim": 0.0, "euler_ancestral": 1.0, "dpmpp_2s_ancestral": 1.0, "dpmpp_2m_sde": 1.0, "dpmpp_sde": 1.0}


def noise_share(sample: ConfigDict) -> float:
    """eta of a sampler that has one."""
    return ETA_UNLESS_SET[sample.sampler] if sample.eta is None else sample.eta


def sampler(sample: ConfigDict) -> samplers.Sampler:
    """The solver that `config.sample` asks for."""

    def given(name: str, default: Any) -> Any:
        return default if sample[name] is None else sample[name]

    def heun() -> samplers.Heun:
        churn = {"s_churn": sample.s_churn, "s_min": sample.s_min, "s_max": given("s_max", math.inf)}
        rungs = len(sample.sigmas) if sample.ladder == "by_hand" else sample.steps
        return samplers.Heun(steps=rungs, s_noise=sample.s_noise, **churn)

    def ddpm() -> samplers.Sampler:
        variances: dict[str, Callable[[], samplers.Sampler]] = {
            "small": lambda: samplers.DDIM(eta=1.0),
            "large": lambda: samplers.DDPM(variance="large"),
            "learned": lambda: samplers.DDPM(variance="learned"),
        }
        return pick("sample.variance", sample.variance, variances)()

    families: dict[str, Callable[[], samplers.Sampler]] = {
        "ddpm": ddpm,
        "ddim": lambda: samplers.DDIM(eta=noise_share(sample)),
        "euler": lambda: samplers.DDIM(eta=0.0),
        "euler_ancestral": lambda: samplers.DDIM(eta=noise_share(sample)),
        "heun": heun,
        "dpm2": samplers.DPM2,
        "dpmpp_2s_ancestral": lambda: samplers.DPMpp2SAncestral(eta=noise_share(sample)),
        "dpmpp_2m": samplers.DPMpp2M,
        "dpmpp_3m": samplers.DPMpp3M,
        "dpmpp_2m_sde": lambda: samplers.DPMpp2MSDE(eta=noise_share(sample)),
        "dpmpp_sde": lambda: samplers.DPMppSDE(eta=noise_share(sample)),
        "lms": lambda: samplers.LMS(order=given("order", 4)),
        "unipc": lambda: samplers.UniPC(predictor_order=given("order", 2)),
        "langevin": lambda: samplers.Langevin(r=given("langevin_step", 0.25), corrector_steps=sample.moves),
        "predictor_corrector": lambda: samplers.PredictorCorrector(
            r=given("langevin_step", 0.1), corrector_steps=sample.moves
        ),
        "ode": lambda: samplers.ODE(rtol=sample.rtol, atol=sample.atol),
    }
    return pick("sample.sampler", sample.sampler, families)()


FIRST_ORDER = ("ddpm", "ddim", "euler", "euler_ancestral")
# Where a ladder starts unless sample.sigma_max says otherwise, though the schedule goes further: the linear table's
# last sigma is 157. Above, nothing of the image is to be seen, and solvers of higher order, like eps prediction, lose
# their footing.
LARGEST_START = 160.0


def ladder(sample: ConfigDict, made_schedule: schedules.Schedule) -> ladders.Ladder:
    """The sigmas that `config.sample` asks for, [steps + 1]; of the adaptive solver, [start, end, 0]."""
    start = min(made_schedule.sigma_max, LARGEST_START) if sample.sigma_max is None else sample.sigma_max
    end = made_schedule.sigma_min if sample.sigma_min is None else sample.sigma_min
    if not 0 < end < start:
        raise UserError(
            f"the ladder's ends, sample.sigma_min={end:g} and sample.sigma_max={start:g}, must rise from above 0"
        )

    def by_hand() -> ladders.Ladder:
        try:
            return ladders.by_hand(sample.sigmas)
        except ValueError as error:
            raise UserError(f"sample.sigmas={error}") from error

    def table() -> tables.DDPMTable:
        """The steps of the model's table up to the start; all of them where more are asked for."""
        if not isinstance(made_schedule, tables.DDPMTable):
            raise UserError(
                f"sample.ladder={sample.ladder!r} takes the steps of a table, and this model has none; use karras"
            )
        if sample.steps > len(made_schedule.betas):
            raise UserError(f"sample.steps={sample.steps} is more than the table's {len(made_schedule.betas)} steps")
        steps = int(np.searchsorted(made_schedule.sigmas, start * (1 + 1e-6), side="right"))
        return tables.DDPMTable(made_schedule.betas[: max(steps, sample.steps)])

    def karras(low: float) -> ladders.Ladder:
        return ladders.karras(sample.steps, sigma_min=low, sigma_max=start, rho=sample.rho)

    def auto() -> ladders.Ladder:
        if sample.sampler == "ode":
            return ladders.by_hand((start, end))
        if not isinstance(made_schedule, tables.DDPMTable):
            return karras(end)
        if sample.sampler in FIRST_ORDER:
            return ladders.trailing(sample.steps, table())
        # The noise at which a table's walk of so many steps ends: below it a discrete model is often poor.
        T = len(made_schedule.betas)
        low = float(made_schedule.sigmas[max(T // sample.steps, 1) - 1])
        return karras(low if sample.sigma_min is None and low < start else end)

    families: dict[str, Callable[[], ladders.Ladder]] = {
        "auto": auto,
        "karras": lambda: karras(end),
        "logsnr": lambda: ladders.logsnr(sample.steps, sigma_min=end, sigma_max=start),
        "flow": lambda: ladders.flow(sample.steps, sigma_max=start, shift=sample.flow_shift),
        "uniform": lambda: ladders.uniform(sample.steps, made_schedule, sigma_max=start),
        "by_hand": by_hand,
        "leading": lambda: ladders.leading(sample.steps, table()),
        "trailing": lambda: ladders.trailing(sample.steps, table()),
        "linspace": lambda: ladders.linspace(sample.steps, table()),
        "quadratic": lambda: ladders.quadratic(sample.steps, table()),
        "exponential": lambda: ladders.exponential(sample.steps, table()),
    }
    rungs = pick("sample.ladder", sample.ladder, families)()
    if rungs[0] > made_schedule.sigma_max * (1 + 1e-6):
        raise UserError(
            f"the ladder starts at sigma {rungs[0]:g}, above this model's sigmas ({made_schedule.sigma_min:g} to "
            f"{made_schedule.sigma_max:g}); lower sample.sigma_max or sample.sigmas"
        )
    if not (np.diff(rungs.astype(np.float32)) < 0).all():
        raise UserError(
            "the ladder's rungs do not all fall in float32; take fewer sample.steps, or sigmas further apart"
        )
    return rungs


# Those that inpainting changes x under: without a memory of other rungs, and with noise of the step's own.
MEMORYLESS = (*FIRST_ORDER, "heun", "dpm2", "dpmpp_2s_ancestral", "predictor_corrector")
ALWAYS_NOISY = ("ddpm", "langevin", "predictor_corrector")


def is_noiseless(sample: ConfigDict) -> bool:
    """Whether the sampler follows the probability flow alone, so that it can also be walked upwards."""
    if sample.sampler in ETA_UNLESS_SET:
        return noise_share(sample) == 0
    return sample.sampler not in ALWAYS_NOISY and not (sample.sampler == "heun" and sample.s_churn)


def settings(config: ConfigDict, **given: Any) -> ConfigDict:
    """The config with what is given (not None) in place of its keys of the groups sample and guidance; raises UserError
    for what cannot be right.
    """
    config = config.copy_and_resolve_references()
    for name, value in given.items():
        if value is not None:
            known_as(name, [*config.sample, *config.guidance])
            group = "guidance" if name in config.guidance else "sample"
            try:
                value = value.item() if isinstance(value, np.generic) else value
                config[group][name] = float(value) if name == "guidance_scale" else value
            except (KeyError, AttributeError, TypeError, ValueError) as error:
                raise UserError(f"{group}.{name}={value!r}: {' '.join(str(error).split())}") from error
    check_sample(config.sample)
    return config

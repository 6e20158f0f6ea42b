"""Samplers and their ladders."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.config import one_of
from jdiff.diffusion import ladders, samplers, schedules, tables
from jdiff.from_config.names import pick


def _given(sample: ConfigDict, name: str, default: Any) -> Any:
    return default if sample[name] is None else sample[name]


def _heun(sample: ConfigDict) -> samplers.Heun:
    churn = {"s_churn": sample.s_churn, "s_min": sample.s_min, "s_max": _given(sample, "s_max", math.inf)}
    rungs = len(sample.sigmas) if sample.ladder == "by_hand" else sample.steps
    return samplers.Heun(steps=rungs, s_noise=sample.s_noise, **churn)


def _ddpm(sample: ConfigDict) -> samplers.Sampler:
    variances: dict[str, Callable[[], samplers.Sampler]] = {
        "small": lambda: samplers.DDIM(eta=1.0),
        "large": lambda: samplers.DDPM(variance="large"),
        "learned": lambda: samplers.DDPM(variance="learned"),
    }
    return pick("sample.variance", sample.variance, variances)()


def _langevin(sample: ConfigDict) -> samplers.Langevin:
    return samplers.Langevin(r=_given(sample, "langevin_step", 0.25), corrector_steps=sample.corrector_steps)


def _predictor_corrector(sample: ConfigDict) -> samplers.PredictorCorrector:
    return samplers.PredictorCorrector(r=_given(sample, "langevin_step", 0.1), corrector_steps=sample.corrector_steps)


# sample.sampler -> (config.sample) -> its solver.
SAMPLERS: dict[str, Callable[[ConfigDict], samplers.Sampler]] = {
    "ddpm": _ddpm,
    "ddim": lambda sample: samplers.DDIM(eta=_given(sample, "eta", 0.0)),
    "euler": lambda sample: samplers.DDIM(eta=0.0),
    "euler_ancestral": lambda sample: samplers.DDIM(eta=_given(sample, "eta", 1.0)),
    "heun": _heun,
    "dpm2": lambda sample: samplers.DPM2(),
    "dpmpp_2s_ancestral": lambda sample: samplers.DPMpp2SAncestral(eta=_given(sample, "eta", 1.0)),
    "dpmpp_2m": lambda sample: samplers.DPMpp2M(),
    "dpmpp_3m": lambda sample: samplers.DPMpp3M(),
    "dpmpp_2m_sde": lambda sample: samplers.DPMpp2MSDE(eta=_given(sample, "eta", 1.0)),
    "dpmpp_sde": lambda sample: samplers.DPMppSDE(eta=_given(sample, "eta", 1.0)),
    "lms": lambda sample: samplers.LMS(order=_given(sample, "order", 4)),
    "unipc": lambda sample: samplers.UniPC(predictor_order=_given(sample, "order", 2)),
    "langevin": _langevin,
    "predictor_corrector": _predictor_corrector,
    "flow_map": lambda sample: samplers.DDIM(eta=_given(sample, "eta", 0.0), jumps=True),
    "consistency": lambda sample: samplers.Consistency(),
    "ode": lambda sample: samplers.ODE(rtol=sample.rtol, atol=sample.atol),
}


def sampler(sample: ConfigDict) -> samplers.Sampler:
    """The solver that `config.sample` asks for."""
    return pick("sample.sampler", sample.sampler, SAMPLERS)(sample)


def is_first_order(solver: samplers.Sampler) -> bool:
    """Whether it steps by one denoised image alone, as DDIM does: what CFG++ and a table's trailing steps are for."""
    return solver.order == 1 and not solver.remembers


def names(fits: Callable[[samplers.Sampler], bool], sample: ConfigDict) -> str:
    """The names of the samplers that fit, with the config's other keys as they are."""
    return ", ".join(name for name, make in SAMPLERS.items() if fits(make(sample)))


# Where a ladder starts unless sample.sigma_max says otherwise, though the schedule goes further: the linear table's
# last sigma is 157. Above, nothing of the image is to be seen, and solvers of higher order, like eps prediction, lose
# their footing.
LARGEST_START = 160.0


def _table(sample: ConfigDict, schedule: schedules.Schedule, start: float) -> tables.DDPMTable:
    """The steps of the model's table up to the start; all of them where more are asked for."""
    if not isinstance(schedule, tables.DDPMTable):
        raise UserError(
            f"sample.ladder={sample.ladder!r} takes the steps of a table, and this model has none; use karras"
        )
    if sample.steps > len(schedule.betas):
        raise UserError(f"sample.steps={sample.steps} is more than the table's {len(schedule.betas)} steps")
    steps = int(np.searchsorted(schedule.sigmas, start * (1 + 1e-6), side="right"))
    return tables.DDPMTable(schedule.betas[: max(steps, sample.steps)])


def _auto(sample: ConfigDict, schedule: schedules.Schedule, start: float, end: float) -> ladders.Ladder:
    solver = sampler(sample)
    if solver.nfe(1) is None:  # it chooses its own steps
        return ladders.by_hand((start, end))
    if solver.jumps:  # the last jump leads to 0, so that none need begin at the lower end
        return np.delete(ladders.karras(sample.steps + 1, sigma_min=end, sigma_max=start, rho=sample.rho), -2)
    if not isinstance(schedule, tables.DDPMTable):
        return _karras(sample, schedule, start, end)
    if is_first_order(solver):
        return ladders.trailing(sample.steps, _table(sample, schedule, start))
    # The noise at which a table's walk of so many steps ends: below it a discrete model is often poor.
    low = float(schedule.sigmas[max(len(schedule.betas) // sample.steps, 1) - 1])
    return _karras(sample, schedule, start, low if sample.sigma_min is None and low < start else end)


def _karras(sample: ConfigDict, schedule: schedules.Schedule, start: float, end: float) -> ladders.Ladder:
    return ladders.karras(sample.steps, sigma_min=end, sigma_max=start, rho=sample.rho)


def _by_hand(sample: ConfigDict, schedule: schedules.Schedule, start: float, end: float) -> ladders.Ladder:
    try:
        return ladders.by_hand(sample.sigmas)
    except ValueError as error:
        raise UserError(f"sample.sigmas={error}") from error


def _leading(sample: ConfigDict, schedule: schedules.Schedule, start: float, end: float) -> ladders.Ladder:
    try:
        return ladders.leading(sample.steps, _table(sample, schedule, start), sample.steps_offset)
    except ValueError as error:
        raise UserError(
            f"sample.steps_offset={sample.steps_offset} with sample.steps={sample.steps}: {error}"
        ) from error


def _of_table(ladder: Callable[[int, tables.DDPMTable], ladders.Ladder]) -> "MakeLadder":
    return lambda sample, schedule, start, end: ladder(sample.steps, _table(sample, schedule, start))


MakeLadder = Callable[[ConfigDict, schedules.Schedule, float, float], ladders.Ladder]

# sample.ladder -> (config.sample, schedule, the ladder's ends) -> its sigmas.
OF_STEPS: dict[str, MakeLadder] = {  # of a table
    "leading": _leading,
    "trailing": _of_table(ladders.trailing),
    "linspace": _of_table(ladders.linspace),
    "quadratic": _of_table(ladders.quadratic),
    "exponential": _of_table(ladders.exponential),
}
LADDERS: dict[str, MakeLadder] = {
    "auto": _auto,
    "karras": _karras,
    "logsnr": lambda sample, _, start, end: ladders.logsnr(sample.steps, sigma_min=end, sigma_max=start),
    "flow": lambda sample, _, start, end: ladders.flow(sample.steps, sigma_max=start, shift=sample.flow_shift),
    "uniform": lambda sample, schedule, start, end: ladders.uniform(sample.steps, schedule, sigma_max=start),
    "by_hand": _by_hand,
    **OF_STEPS,
}


def ladder(sample: ConfigDict, schedule: schedules.Schedule) -> ladders.Ladder:
    """The sigmas that `config.sample` asks for, [steps + 1]; of the adaptive solver, [start, end, 0]. Where a
    table's end above 0, rungs at that end are one.
    """
    start = min(schedule.sigma_max, LARGEST_START) if sample.sigma_max is None else sample.sigma_max
    end = schedule.sigma_min if sample.sigma_min is None else sample.sigma_min
    if not 0 < end < start:
        raise UserError(
            f"the ladder's ends, sample.sigma_min={end:g} and sample.sigma_max={start:g}, must rise from above 0"
        )
    rungs = pick("sample.ladder", sample.ladder, LADDERS)(sample, schedule, start, end)
    final = one_of("sample.final_sigma", sample.final_sigma, ("zero", "sigma_min"))
    if final == "sigma_min" and sample.ladder in OF_STEPS:
        rungs = np.append(rungs[rungs > end * (1 + 1e-6)], end)
    if rungs[0] > schedule.sigma_max * (1 + 1e-6):
        raise UserError(
            f"the ladder starts at sigma {rungs[0]:g}, above this model's sigmas ({schedule.sigma_min:g} to "
            f"{schedule.sigma_max:g}); lower sample.sigma_max or sample.sigmas"
        )
    if not (np.diff(rungs.astype(np.float32)) < 0).all():
        raise UserError(
            "the ladder's rungs do not all fall in float32; take fewer sample.steps, or sigmas further apart"
        )
    return rungs

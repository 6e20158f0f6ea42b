"""The diffusion process, what the network predicts of it, and what training asks."""

import math
from collections.abc import Callable

from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.config import one_of
from jdiff.diffusion import draws, parameterization, schedules, tables, weights
from jdiff.diffusion.objective import Objective
from jdiff.from_config.names import pick


def schedule(config: ConfigDict) -> schedules.Schedule:
    """The process of `model.schedule`: sigma as a function of time."""
    model, steps = config.model, config.model.schedule_steps
    ends = {name: model[name] for name in ("sigma_min", "sigma_max") if model[name] is not None}
    betas = {"beta_start": model.beta_start, "beta_end": model.beta_end}
    processes: dict[str, Callable[[], schedules.Schedule]] = {
        "edm": lambda: schedules.EDM(**ends),
        "ve": lambda: schedules.VE(**ends),
        "vp": lambda: schedules.VP(beta_min=1000 * model.beta_start, beta_max=1000 * model.beta_end),
        "cosine_continuous": schedules.Cosine,
        "flow": lambda: schedules.Flow(shift=model.flow_shift),
    }
    in_steps: dict[str, Callable[[], tuple[float, ...]]] = {
        "linear": lambda: tables.linear_betas(steps, **betas),
        "scaled_linear": lambda: tables.scaled_linear_betas(steps, **betas),
        "sigmoid": lambda: tables.sigmoid_betas(steps, **betas),
        "cosine": lambda: tables.cosine_betas(steps),
        "sigmoid_alpha_bar": lambda: tables.sigmoid_alpha_bar_betas(steps),
    }
    name = one_of("model.schedule", model.schedule, [*processes, *in_steps])
    if name not in in_steps:
        if model.zero_terminal_snr:
            raise UserError(
                f"model.zero_terminal_snr needs a table ({', '.join(in_steps)}), not model.schedule={name!r}"
            )
        made = processes[name]()
        if not 0 < made.sigma_min < made.sigma_max:
            raise UserError(
                f"model.sigma_min={made.sigma_min} and model.sigma_max={made.sigma_max} must rise from above 0"
            )
        return made
    if not model.zero_terminal_snr:
        return tables.DDPMTable(in_steps[name]())
    if steps < 2:
        raise UserError("model.zero_terminal_snr needs model.schedule_steps of at least 2")
    return tables.DDPMTable(tables.zero_terminal_snr(in_steps[name]()))


def sigma_data(config: ConfigDict) -> float:
    """The deviation of x0: model.sigma_data, scaled where codes of masks are."""
    return config.model.sigma_data * (config.space.scale if config.model.space == "masks" else 1.0)


def prediction(config: ConfigDict) -> parameterization.Parameterization:
    """The four functions of `model.prediction` on that schedule."""
    made_schedule = schedule(config)
    predictions: dict[str, Callable[[], parameterization.Parameterization]] = {
        "edm": lambda: parameterization.Edm(made_schedule, sigma_data(config)),
        "eps": lambda: parameterization.Eps(made_schedule),
        "x0": lambda: parameterization.X0(made_schedule),
        "v": lambda: parameterization.V(made_schedule),
        "flow": lambda: parameterization.Flow(made_schedule),
    }
    made = pick("model.prediction", config.model.prediction, predictions)()
    if config.model.prediction == "eps" and made_schedule.sigma_max >= schedules.LARGEST_SIGMA:
        raise UserError(
            "model.prediction='eps' says nothing of the image where there is no signal, and this schedule ends there; "
            "predict v, x0 or edm, or choose another schedule (or model.zero_terminal_snr=False)"
        )
    return made


def objective(config: ConfigDict, predicted: parameterization.Parameterization) -> Objective:
    """How training draws sigma, and what an error costs there."""
    wanted, made_schedule = config.objective, predicted.schedule

    def lognormal(mean: float, std: float) -> draws.LogNormal:
        return draws.LogNormal(mean if wanted.mean is None else wanted.mean, std if wanted.std is None else wanted.std)

    def logit_normal() -> draws.Draw:
        """ln sigma = ln shift + logit t."""
        normal = lognormal(0.0, 1.0)
        return draws.LogNormal(normal.mean + math.log(config.model.flow_shift), normal.std)

    def steps() -> draws.Draw:
        if not isinstance(made_schedule, tables.DDPMTable):
            raise UserError(
                f"objective.draw='steps' needs a table, and model.schedule={config.model.schedule!r} is none"
            )
        return draws.Steps(made_schedule)

    draw_families: dict[str, Callable[[], draws.Draw]] = {
        "lognormal": lambda: lognormal(-1.2, 1.2),
        "log_uniform": lambda: draws.LogUniform(made_schedule),
        "logit_normal": logit_normal,
        "uniform": lambda: draws.Uniform(made_schedule),
        "steps": steps,
    }

    def gamma(default: float) -> float:
        return default if wanted.gamma is None else wanted.gamma

    weight_families: dict[str, Callable[[], weights.Weight]] = {
        "simple": lambda: weights.Simple(predicted),
        "edm": lambda: weights.Edm(sigma_data(config)),
        "min_snr": lambda: weights.MinSNR(gamma(5.0)),
        "soft_min_snr": lambda: weights.SoftMinSNR(gamma(5.0)),
        "p2": lambda: weights.P2(gamma(1.0)),
        "v_uniform": weights.VUniform,
    }
    return Objective(
        draw=pick("objective.draw", wanted.draw, draw_families)(),
        weight=pick("objective.weight", wanted.weight, weight_families)(),
        rho=one_of("objective.loss", wanted.loss, ("l2", "l1", "huber")),  # type: ignore[arg-type]
        huber_delta=wanted.huber_delta,
        stratified=wanted.stratified,
        vlb=wanted.vlb,
    )

"""Settings to try: solvers with their noise, and guidances. A setting is a mapping of a preset's keys (see
from_config/presets.py), all of them.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.config import one_of
from jdiff.diffusion.samplers import Sampler
from jdiff.from_config import presets
from jdiff.from_config.guidance import away_from
from jdiff.from_config.sampling import SAMPLERS

Settings = Mapping[str, Any]

USUAL = "dpmpp_2m"  # with ladder auto: what a model is compared with
ETA = 0.3  # of samplers that take one, beside none
CHURN = 0.1  # of heun: gamma at every rung, beside none
SCALES = (1.0, 1.25, 1.5, 2.0, 3.0)
# Where guidance acts, in units of the images' standard deviation: not where nothing of the image is decided any more,
# and not where nothing is to be seen yet (Kynkaanniemi et al., arXiv 2404.07724).
INTERVALS = ((0.25, 6.0), (0.5, 2.5))
LEAST_SCALE = 1.5  # weaker guidance is tried everywhere alone


@dataclass(frozen=True, kw_only=True)
class Solver:
    """A solver in a budget. settings: all but guidance. noisy: it adds noise. twin: the same without, whose ladders it
    takes; None where its ladder is not told by trajectories.
    """

    settings: Settings
    twin: Sampler | None
    noisy: bool = False


def steps_for(config: ConfigDict, name: str, calls: int) -> int:
    """The most rungs that a sampler walks in so many denoiser calls; 0 where it chooses its own."""
    for steps in range(calls, 0, -1):
        made = from_config.sampler(presets.applied(config, _of_sampler(name, steps)).sample).nfe(steps)
        if made is None:
            return 0
        if made <= calls:
            return steps
    return 0


def solvers(config: ConfigDict, calls: int) -> Iterator[Solver]:
    """The samplers of tune.samplers, each without noise and with some. Raises UserError for one that cannot be."""
    for name in config.tune.samplers:
        one_of("tune.samplers", name, list(SAMPLERS))
        steps = steps_for(config, name, calls)
        if not steps:
            raise UserError(f"tune.samplers holds {name!r}, which chooses its number of calls itself: leave it out")
        plain = {**presets.settings_of(config), **_of_sampler(name, steps)}
        made = from_config.sampler(presets.applied(config, plain).sample)
        fields = {field.name for field in dataclasses.fields(made)}  # type: ignore[arg-type]
        if "eta" in fields:
            # Of a sampler with noise by default, no noise is another sampler, which is in the list by its own name.
            etas = (ETA,) if made.random else (0.0, ETA)
            twin = dataclasses.replace(made, eta=0.0)  # type: ignore[type-var]
            for eta in etas:
                yield Solver(settings={**plain, "sample.eta": eta}, twin=_twin(twin), noisy=eta > 0)
        elif "s_churn" in fields:
            twin = dataclasses.replace(made, s_churn=0.0)  # type: ignore[type-var]
            for churn in (0.0, CHURN * steps):
                yield Solver(settings={**plain, "sample.s_churn": churn}, twin=_twin(twin), noisy=churn > 0)
        else:
            yield Solver(settings=plain, twin=_twin(made))


def usual(config: ConfigDict, calls: int) -> Settings:
    """dpmpp_2m on its ladder auto, with what else the config says."""
    return {**presets.settings_of(config), **_of_sampler(USUAL, steps_for(config, USUAL, calls))}


def own(config: ConfigDict, calls: int) -> Settings | None:
    """The config's own sampler and ladder in so many calls; None where its number of calls is not to be chosen."""
    steps = steps_for(config, config.sample.sampler, calls)
    if not steps or config.sample.ladder == "by_hand":
        return None
    return {**presets.settings_of(config), "sample.steps": steps}


def guidances(config: ConfigDict, spread: float) -> list[Settings]:
    """The guidances to try, the config's own first: that alone, where a model has nothing to guide, or is guided to a
    class. spread: the images' standard deviation.
    """
    names = ("sample.guidance_scale", "guidance.sigma_low", "guidance.sigma_high")
    known = presets.settings_of(config)
    found: list[Settings] = [{name: known[name] for name in names}]
    if not _scales(config):
        return found
    for scale in SCALES:
        intervals = INTERVALS if scale >= LEAST_SCALE else ()
        places: list[tuple[float, float | None]] = [(0.0, None)]
        places += [(_rounded(low * spread), _rounded(high * spread)) for low, high in intervals]
        found += [dict(zip(names, (scale, low, high), strict=True)) for low, high in places]
    first = found[0]
    return [first, *(one for one in found[1:] if one != first and not (_none(one) and _none(first)))]


def _none(guidance: Settings) -> bool:
    return guidance["sample.guidance_scale"] in (None, 1.0)


def _scales(config: ConfigDict) -> bool:
    """Whether the scale is free: 1 is none."""
    if config.guidance.method == "autoguidance":
        return bool(config.guidance.weak_workdir)
    if config.guidance.method != "classifier_free" or not config.model.conditions:
        return False
    try:
        return bool(away_from(config))
    except UserError:  # it never learned to do without
        return False


def _twin(solver: Sampler) -> Sampler | None:
    return solver if solver.order and not solver.random and not solver.jumps and solver.arrives else None


def _of_sampler(name: str, steps: int) -> dict[str, Any]:
    plain = {"sample.ladder": "auto", "sample.sigmas": (), "sample.eta": None, "sample.order": None}
    return {"sample.sampler": name, "sample.steps": steps, **plain, "sample.s_churn": 0.0}


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def in_words(settings: Settings) -> str:
    """A setting in a line."""
    steps = settings["sample.steps"]
    words = [settings["sample.sampler"], f"{steps} step{'s' * (steps > 1)}"]
    if settings["sample.eta"] is not None:
        words.append(f"eta {settings['sample.eta']:g}")
    if settings["sample.s_churn"]:
        words.append(f"churn {settings['sample.s_churn']:g}")
    ladder = settings["sample.ladder"]
    if ladder == "by_hand":
        words.append(f"free ladder {settings['sample.sigmas'][0]:.3g} to {settings['sample.sigmas'][-1]:.2g}")
    elif ladder == "karras":
        low, high = (settings[f"sample.{name}"] for name in ("sigma_min", "sigma_max"))
        ends = f" {high:.3g} to {low:.2g}" if low and high else ""
        words.append(f"karras{ends} rho {settings['sample.rho']:g}")
    else:
        words.append(f"ladder {ladder}")
    return ", ".join([*words, guidance_in_words(settings)])


def guidance_in_words(settings: Settings) -> str:
    """Its guidance."""
    scale, low, high = (
        settings[name] for name in ("sample.guidance_scale", "guidance.sigma_low", "guidance.sigma_high")
    )
    if scale in (None, 1.0):
        return "no guidance"
    return f"guidance {scale:g}" + (f" in ({low:g}, {'inf' if high is None else f'{high:g}'}]" if low or high else "")

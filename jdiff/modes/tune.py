"""--mode=tune: the best settings of sampling in a number of denoiser calls, of a trained run."""

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import jdiff.config
from jdiff import from_config, scoring
from jdiff.common.arrays import fingerprint
from jdiff.common.errors import UserError, keeping_in
from jdiff.common.ownership import owned
from jdiff.common.progress import say
from jdiff.common.signals import leave
from jdiff.from_config import presets
from jdiff.model import Model, restore
from jdiff.scoring.plan import conditions
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training.interrupt import Interrupt
from jdiff.tuning import choices, report
from jdiff.tuning.ladders import Trajectories
from jdiff.tuning.search import FINE, counts, fine, planned, search, seeds
from jdiff.tuning.trials import Stopped, Trials

LADDERS = "ladders.json"


@dataclass
class Tuning:
    """place: where scores are kept. drawing: whether a batch is under way."""

    place: Path
    drawing: bool = False

    def ending(self) -> str | None:
        """The batch; there is nothing else to bring to an end."""
        return "finishing this batch, then stopping" if self.drawing else None

    def left(self) -> str:
        """What is there, and what is not."""
        return f"stopped; {self.there()}" if self.drawing else "stopped; nothing is lost"

    def there(self) -> str:
        """What the same command finds."""
        return f"the scores so far are in {self.place}; the same command goes on"


def tune(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Write tuned.json, table.md and tuned.png to `out`, by default the run's folder tune, where sample.preset finds
    them; the exit status (128 + signal where one ended it).
    """
    out = out or workdir / presets.FOLDER
    check(config)
    with Interrupt(Tuning(out)) as interrupt, keeping_in(out), ExitStack() as stack:
        batches = itertools.count(1)

        def stop(done: int) -> bool:
            return interrupt.asked(next(batches), 1)

        try:
            model = restore(config, workdir)
            check_model(model)
            stack.enter_context(owned(out, "--out"))
            _tune(model, out, stop, interrupt.work)
        except Stopped:
            say(interrupt.work.there())
    if interrupt.signal:
        leave(128 + interrupt.signal)
    return 0


def check(config: ConfigDict) -> None:
    """Raises UserError for what cannot be tuned, by the config alone."""
    if not config.tune.nfe:
        raise UserError("tune.nfe=() asks for nothing: give numbers of denoiser calls, as in tune.nfe=(4, 8, 16)")
    if not config.tune.samplers:
        raise UserError("tune.samplers=() leaves none to try: name some, as in tune.samplers=('dpmpp_2m',)")
    if config.sample.preset:
        raise UserError(f"sample.preset={config.sample.preset} is what tuning finds: leave it out")
    if config.machine.distributed:
        raise UserError("machine.distributed=True: tuning is done by one process; start it alone")
    jdiff.config.one_of("tune.samplers", config.tune.samplers[0], list(choices.SAMPLERS))


def check_model(model: Model) -> None:
    """Raises UserError for a model that draws no images."""
    task, space = model.config.task, model.config.model.space
    if not isinstance(model.task, DiffusionTask):
        raise UserError(
            f"task={task!r} draws no images by a sampler, and there is nothing to tune; a diffusion model does"
        )
    if task == "flow_map" and not from_config.instants(model.config):
        raise UserError(
            f"flow_map.loss={model.config.flow_map.loss!r} without instants learned jumps alone, and tuning compares "
            "samplers that walk the flow: draw with sample.sampler=consistency, or tune a run trained with "
            "flow_map.instants=0.25"
        )
    if model.config.guidance.method == "cfg_plus_plus":
        raise UserError(
            f"guidance.method='cfg_plus_plus' does not go with {choices.USUAL}, which tuning compares with: set "
            "guidance.method=classifier_free"
        )
    if space == "masks":
        raise UserError(
            "model.space='masks': masks have no features that tell how good they are; tune a model of images"
        )


def _tune(model: Model, out: Path, stop: Callable[[int], bool], work: Tuning) -> None:
    config = model.config
    judge = scoring.judge(config, model.mesh, progress=config.log.progress)
    judge.check(config.tune.images)
    of = counts(config, judge.protocol.least)
    say(f"protocol: {judge.protocol.name}: {judge.protocol.about}")
    ask, mix = conditions(model, judge, {})
    last, _, first = seeds(config)
    known = Trajectories(model, ask, first, out / LADDERS)
    trials = Trials(model=model, judge=judge, ask=ask, place=out, stop=stop, progress=config.log.progress)
    budgets = sorted(set(config.tune.nfe))
    alone = choices.guidances(config, 0.0)[0]
    guidances = choices.guidances(config, known.spread(alone))
    usual = choices.usual(config, FINE)
    trials.planned = sum(planned(config, trials, len(guidances), calls) for calls in budgets)
    trials.planned += trials.cost(usual, of.last)
    say(
        f"{len(budgets)} budget{'s' * (len(budgets) > 1)} of denoiser calls, about {trials.planned:,.0f} network "
        "passes in all"
    )
    work.drawing = True
    facts: dict[str, Any] = {"version": 1, "step": model.step, "weights": fingerprint(model.weights)}
    told = {"judge": judge.identity(), "images": config.tune.images, "seed": last, "class_mix": mix}
    report.tell_of_other_weights(out, facts)
    found = []
    for calls in budgets:
        found.append(search(config, trials, known, guidances, calls))
        report.keep(out, facts, told, found[-1:])
    reference = fine(config, trials, {name: found[-1].best.settings[name] for name in alone})
    work.drawing = False
    report.write(out, facts, told, found, reference)
    trials.discard()

"""--mode=evaluate: numbers of a model's images, or of images that exist already, each with its protocol."""

import itertools
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import jdiff.config
from jdiff import request, scoring
from jdiff.common.arrays import fingerprint as weights_of
from jdiff.common.errors import DrawingError, UserError, keeping_in
from jdiff.common.ownership import owned
from jdiff.common.processes import is_first_process
from jdiff.common.progress import say
from jdiff.common.signals import leave
from jdiff.data.fingerprint import fingerprint
from jdiff.model import Model, restore
from jdiff.request import overridden
from jdiff.scoring import Judge, Result, masks, report, run, sweep
from jdiff.scoring.data import check_shape, open_files
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training import sharding
from jdiff.training.interrupt import Interrupt
from jdiff.weights.posthoc import check_kept


@dataclass
class Evaluating:
    """place: where features are kept. done: images of the set under way; None before the first. kept: whether they
    are; masks are told anew.
    """

    place: Path
    done: int | None = None
    kept: bool = True

    def ending(self) -> str | None:
        """The batch; there is nothing else to bring to an end."""
        return None if self.done is None else "finishing this batch, then stopping"

    def left(self) -> str:
        """What is there, and what is not."""
        return "stopped; nothing is lost" if self.done is None else f"stopped; {self.there()}"

    def there(self) -> str:
        """What the same command finds."""
        if not self.kept:
            return f"the numbers of {self.done:,} images are not kept; the same command begins anew"
        return f"the features of {self.done:,} images are in {self.place}; the same command goes on"


def evaluate(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Write evaluation.json, card.md and pictures to `out` and print the numbers; the exit status (128 + signal where
    one ended it).
    """
    out = out or workdir / f"{config.eval.name}{'_images' if config.eval.images else ''}"
    with Interrupt(Evaluating(out)) as interrupt, keeping_in(out), owned(out, "--out"):
        score = score_files if config.eval.images else score_drawn
        of_masks = config.model.space == "masks" and "image" in config.model.conditions
        score = score_masks if of_masks and not config.eval.images else score
        interrupt.work.kept = score is not score_masks
        status = score(config, workdir, out, partial(_one, interrupt, itertools.count(1)))
    if interrupt.signal:
        leave(128 + interrupt.signal)  # an end as ever would wait for the batch that is computed ahead
    return status


One = Callable[..., Result | None]  # see _one
GROUPS = tuple(name.rstrip(".") for name in jdiff.config.SWEPT)


def score_files(config: ConfigDict, workdir: Path, out: Path, one: One) -> int:
    """The numbers of images that exist already."""
    if several := config.eval.sweep:
        raise UserError(f"{several[0][0]}={several[0][1]}: eval.images are there already, and nothing is drawn")
    images, known = open_files(config)
    own = images.of([0])[0].shape[1:]
    judge = scoring.judge(config, sharding.make_mesh(), progress=config.log.progress, shape=own)
    check_shape(own, tuple(judge.config.data.shape), config.eval.images, judge.protocol)
    judge.check(len(images), drawn=False)
    tell(judge)
    identity = {"images": known, "count": len(images), **judge.identity()}
    result = one(out, identity, partial(scoring.score_files, judge, images, identity), config, {}, workdir)
    return 1 if result is None else told(out, result)


def score_drawn(config: ConfigDict, workdir: Path, out: Path, one: One) -> int:
    """The numbers of a run's images, of each combination of a sweep's settings."""
    jdiff.config.of_run(workdir)  # which says how to get one
    several = config.eval.sweep
    for width in filter(None, dict(several).get("sample.ema", ())):  # told before anything is measured
        check_kept(config.train.ema_widths, width, workdir)
    model: Model | None = None
    judge: Judge | None = None
    rows: list[sweep.Row] = []
    for settings in sweep.combinations(several):
        model = with_weights_of(config, workdir, settings, model)
        rest = _of_call(settings)
        if judge is None:
            for other in sweep.combinations(several):  # what cannot be drawn is told before anything is measured
                model.request(**_of_call(other))
            judge = scoring.judge(model.config, model.mesh, progress=config.log.progress)
            tell(judge)
        planned = scoring.plan(model, judge, **rest)
        place = out / sweep.name_of(settings) if several else out
        draw = partial(scoring.evaluate, model, judge, planned)
        done = partial(one, place, planned.identity, draw, config, model.config.to_dict(), workdir)
        if not _row(rows, settings, done, several=bool(several)):
            return 1
    return _told(out, rows, several=bool(several))


def with_weights_of(config: ConfigDict, workdir: Path, settings: sweep.Settings, before: Model | None) -> Model:
    """The model with the weights that these settings say, with the programs of the one before, if there is one."""
    wanted = config.copy_and_resolve_references()
    wanted.sample.checkpoint = str(settings.get("checkpoint", config.sample.checkpoint))
    wanted.sample.ema = settings.get("ema", config.sample.ema)
    if before and all(before.config.sample[name] == wanted.sample[name] for name in sweep.OF_WEIGHTS):
        return before
    read = restore(wanted, workdir)
    return before.with_weights(read.weights, step=read.step).with_config(read.config) if before else read


def _of_call(settings: sweep.Settings) -> dict[str, Any]:
    """The settings but for those that say which weights."""
    return {name: value for name, value in settings.items() if name not in sweep.OF_WEIGHTS}


def _row(rows: list[sweep.Row], settings: sweep.Settings, done: Callable[[], Result | None], *, several: bool) -> bool:
    """Add what these settings give; False where a signal ended it. several: it goes on past what cannot be drawn."""
    try:
        result = done()
    except DrawingError as error:
        if not several:
            raise
        say(f"left out: {sweep.name_of(settings)}: {error}")
        return True
    if result is None:
        return False
    rows.append((settings, result))
    if several:
        say(f"{sweep.name_of(settings)}: {result.numbers[0].title} {report.valued(result.numbers[0])}")
    return True


def _told(out: Path, rows: list[sweep.Row], *, several: bool) -> int:
    if not rows:
        raise UserError("no combination of the sweep could be drawn")
    return sweep.write(out, rows) if several else told(out, rows[0][1])


def score_masks(config: ConfigDict, workdir: Path, out: Path, one: One) -> int:
    """The numbers of a run's masks of held-out images, of each combination of a sweep's settings."""
    several, held_out = config.eval.sweep, masks.held_out_of(config)
    model: Model | None = None
    rows: list[sweep.Row] = []
    for settings in sweep.combinations(several):
        model = with_weights_of(config, workdir, settings, model)
        model = model.with_config(overridden(model.config, _of_call(settings), GROUPS))
        facts = _of_masks(model)
        identity = {"data": fingerprint(held_out), "weights": weights_of(model.weights), **facts}
        measure = partial(masks.evaluate, model, held_out, facts)
        place = out / sweep.name_of(settings) if several else out
        done = partial(one, place, identity, measure, config, model.config.to_dict(), workdir)
        if not _row(rows, settings, done, several=bool(several)):
            return 1
    return _told(out, rows, several=bool(several))


def _of_masks(model: Model) -> dict[str, Any]:
    """How masks are drawn."""
    members = int(model.config.segment.members)
    if isinstance(model.task, DiffusionTask):
        drawn = run.sampling(request.read(model.config, model.schedule, {}, conditions=None, workdir=model.workdir))
    else:
        drawn = {"sampler": "none", "steps": 1, "nfe": 1, "passes": 1, "guided": False, "guidance_scale": 1.0}
    return {
        "members": members,
        "sampling": {**drawn, "class_mix": ""},
        "seeds": [model.config.sample.seed],
        "checkpoint": run.of_weights(model),
    }


def _one(
    interrupt: Interrupt[Evaluating],
    batches: Iterator[int],
    place: Path,
    identity: Mapping[str, Any],
    score: Callable[..., Result | None],
    config: ConfigDict,
    trained: dict[str, Any],
    workdir: Path,
) -> Result | None:
    """The result in a folder, made there unless it is there already; None where a signal ended it. trained: the run's
    config, {} where there is none.
    """

    def stop(done: int) -> bool:
        interrupt.work.place, interrupt.work.done = place, done
        return interrupt.asked(next(batches), 1)

    result = report.read(place, identity)
    if result is not None:
        say(f"these numbers are in {place / report.FILE} already")
        return result
    if (place / report.FILE).is_file():
        say(f"the numbers in {place / report.FILE} are of another request, and are replaced")
    result = score(out=place, stop=stop, progress=config.log.progress)
    if result is None:
        say(interrupt.work.there())
        return None
    interrupt.work.done = None
    if is_first_process():
        report.write(place, result, identity, trained, command(config, workdir))
    run.discard(place)
    return result


def tell(judge: Judge) -> None:
    """What is measured with and against, before it takes long."""
    for note in judge.data.notes if judge.data else ():
        say(note)
    if judge.missing:
        say(f"the data are not read, so what is told by them is left out: {judge.missing}")
    trained_on = judge.config.data.fingerprint
    if judge.data and trained_on not in ("", judge.data.fingerprint):
        say(
            f"the data in data.dir={judge.config.data.dir!r} are others than the model was trained on (fingerprint "
            f"{trained_on} then, {judge.data.fingerprint} now): numbers are against these"
        )
    say(f"protocol: {judge.protocol.name}: {judge.protocol.about}")


def told(out: Path, result: Result) -> int:
    """Print a result."""
    say(f"\n{report.table(result)}\n\nnumbers: {out / report.FILE}\ncard: {out / report.CARD}")
    return 0


def command(config: ConfigDict, workdir: Path) -> str:
    """The command that gives these numbers again."""
    if any(argument.startswith("--mode") for argument in sys.argv):
        return shlex.join(["python", "-m", "jdiff.main", *sys.argv[1:]])
    before = dict(jdiff.config.items(jdiff.config.of_run(workdir))) if (workdir / jdiff.config.FILE).is_file() else {}
    changed = [
        f"--config.{name}={value}"
        for name, value in jdiff.config.items(config)
        if before.get(name, value) != value and name != "eval.sweep"
    ]
    changed += [f"--config.{name}={values}" for name, values in config.eval.sweep]
    return shlex.join(["python", "-m", "jdiff.main", "--mode=evaluate", f"--workdir={workdir}", *changed])

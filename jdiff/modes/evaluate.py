"""--mode=evaluate: numbers of a model's images, or of images that exist already, each with its protocol."""

import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import jdiff.config
from jdiff import scoring
from jdiff.common.errors import UserError
from jdiff.common.ownership import owned
from jdiff.common.processes import is_first_process
from jdiff.common.signals import leave
from jdiff.model import Model, restore
from jdiff.scoring import Judge, Result, report, sweep
from jdiff.scoring.data import files
from jdiff.training import sharding
from jdiff.training.interrupt import Interrupt
from jdiff.training.writers import say


@dataclass
class Evaluating:
    """place: where features are kept. done: images of the set under way; None before the first."""

    place: Path
    done: int | None = None

    def ending(self) -> str | None:
        """The batch; there is nothing else to bring to an end."""
        return None if self.done is None else "finishing this batch, then stopping"

    def left(self) -> str:
        """What is there, and what is not."""
        return "stopped; nothing is lost" if self.done is None else f"stopped; {self.there()}"

    def there(self) -> str:
        """What the same command finds."""
        return f"the features of {self.done:,} images are in {self.place}; the same command goes on"


def evaluate(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Write evaluation.json, card.md and pictures to `out` and print the numbers; the exit status (128 + signal where
    one ended it).
    """
    out = out or workdir / config.eval.name
    with Interrupt(Evaluating(out)) as interrupt, ExitStack() as stack:
        try:
            stack.enter_context(owned(out, "--out"))
            status = _evaluate(config, workdir, out, interrupt)
        except OSError as error:
            raise UserError(
                f"cannot write to {out}: {error}; make room, and the same command goes on, or give another folder with "
                "--out"
            ) from error
    if interrupt.signal:
        leave(status)  # an end as ever would wait for the batch that is computed ahead
    return status


def _evaluate(config: ConfigDict, workdir: Path, out: Path, interrupt: Interrupt[Evaluating]) -> int:
    shows, several = config.log.progress, config.eval.sweep
    one = partial(_one, interrupt=interrupt, shows=shows)
    if config.eval.images:
        if several:
            raise UserError(f"{several[0][0]}={several[0][1]}: eval.images are there already, and nothing is drawn")
        scored = scoring.judge(config, sharding.make_mesh(), progress=shows)
        tell(scored)
        images, known = files(scored.config, scored.protocol, tuple(scored.config.data.shape))
        identity = {"images": known, "count": len(images), **scored.identity()}
        result = one(
            out, identity, partial(scoring.score_files, scored, images, identity), {}, command(config, workdir)
        )
        return _ended(interrupt) if result is None else told(out, result)
    jdiff.config.of_run(workdir)  # which says how to get one
    models: dict[str, Model] = {}
    judge: Judge | None = None
    rows = []
    for settings in sweep.combinations(several):
        checkpoint = str(settings.pop("checkpoint", config.sample.checkpoint))
        if checkpoint not in models:
            models = {checkpoint: restore(config, workdir, checkpoint)}
        model = models[checkpoint]
        model.request(**settings)  # what cannot be drawn is told before anything is measured
        if judge is None:
            judge = scoring.judge(model.config, model.mesh, progress=shows)
            tell(judge)
        planned = scoring.plan(model, judge, **settings)
        named = {**settings, **({"checkpoint": checkpoint} if len(models) > 1 else {})}
        place = out / sweep.name_of(named) if several else out
        draw = partial(scoring.evaluate, model, judge, planned)
        result = one(place, planned.identity, draw, model.config.to_dict(), command(config, workdir))
        if result is None:
            return _ended(interrupt)
        rows.append((named, result))
        if several:
            say(f"{sweep.name_of(named)}: {result.numbers[0].title} {report.valued(result.numbers[0])}")
    if not several:
        return told(out, rows[0][1])
    return sweep.write(out, rows)


def _one(
    place: Path,
    identity: Mapping[str, Any],
    score: Callable[..., Result | None],
    config: dict[str, Any],
    repeated: str,
    *,
    interrupt: Interrupt[Evaluating],
    shows: bool,
) -> Result | None:
    """The result in a folder, made there unless it is there already; None where a signal ended it."""

    def stop(done: int) -> bool:
        interrupt.work.place, interrupt.work.done = place, done
        return interrupt.asked(done, 1)

    result = report.read(place, identity)
    if result is not None:
        say(f"these numbers are in {place / report.FILE} already")
        return result
    result = score(out=place, stop=stop, progress=shows)
    interrupt.work.done = None
    if result is not None and is_first_process():
        report.write(place, result, identity, config, repeated)
    return result


def _ended(interrupt: Interrupt[Evaluating]) -> int:
    say(interrupt.work.there())
    return 128 + (interrupt.signal or 0)


def tell(judge: Judge) -> None:
    """What is measured with and against, before it takes long."""
    for note in judge.data.notes if judge.data else ():
        say(note)
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
    before = dict(jdiff.config.items(jdiff.config.of_run(workdir))) if (workdir / jdiff.config.FILE).is_file() else {}
    changed = [
        f"--config.{name}={value}"
        for name, value in jdiff.config.items(config)
        if before.get(name, value) != value and name != "eval.sweep"
    ]
    changed += [f"--config.{name}={values}" for name, values in config.eval.sweep]
    return shlex.join(["python", "-m", "jdiff.main", "--mode=evaluate", f"--workdir={workdir}", *changed])

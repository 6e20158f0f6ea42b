"""The search in a budget of denoiser calls: successive halving (Karnin et al. 2013; Jamieson & Talwalkar, arXiv
1502.07943), axes first.

    1  guidances, with the usual solver                                              images / 20
    2  solvers x noise x ladders, with the guidances that were best                  images / 20
    3  of these the best quarter, but at least twice the finalists                   images / 10
    4  of these the better half                                                      images / 5
    5  the finalists, and beside them the usual setting and the config's own         images, of a fresh seed

Within a round, and from one to the next, the images of all settings are of the same seed, so that differences are
paired. The last round draws of a seed that decided nothing, so its numbers owe nothing to luck in the rounds before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.common.progress import say
from jdiff.tuning import choices
from jdiff.tuning.choices import Settings
from jdiff.tuning.ladders import MOST_RUNGS, Trajectories
from jdiff.tuning.trials import Score, Stopped, Trials

KEPT_GUIDANCES = 2
SEEDS = 2**32
FINE, FINE_SAMPLER = 50, choices.USUAL  # denoiser calls of the fine reference


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a budget gives. best: the best of the finals. usual: dpmpp_2m on ladder auto, own: the config's sampler, in
    so many calls. finals, tried: all scores of the last round, and of those before.
    """

    calls: int
    best: Score
    usual: Score
    own: Score | None
    finals: tuple[Score, ...]
    tried: tuple[Score, ...]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Images of the rounds, whole batches each but for the last."""

    first: int
    second: int
    third: int
    last: int


def counts(config: ConfigDict, least: int) -> Counts:
    """Of tune.images; at least so many."""
    images, batch = config.tune.images, config.sample.batch_size

    def whole(count: float) -> int:
        return min(images, max(least, math.ceil(count / batch) * batch))

    return Counts(first=whole(images / 20), second=whole(images / 10), third=whole(images / 5), last=images)


def seeds(config: ConfigDict) -> tuple[int, int, int]:
    """(of the last round, of those before, of the trajectories): the last is sample.seed, so that --mode=evaluate draws
    the same images.
    """
    first = config.sample.seed
    return first, (first + 1) % SEEDS, (first + 2) % SEEDS


def planned(config: ConfigDict, trials: Trials, guidances: int, calls: int) -> float:
    """About how many network passes a budget takes."""
    of, finalists = counts(config, trials.judge.protocol.least), config.tune.finalists
    each = trials.cost(choices.usual(config, calls), 1)
    of_guidance = sum(1 if solver.noisy else 3 for solver in choices.solvers(config, calls))
    of_solvers = of_guidance * min(guidances, KEPT_GUIDANCES)
    second = max(2 * finalists, of_solvers // 4)
    images = (of_solvers + (guidances if guidances > 1 else 0)) * of.first + second * (of.second - of.first)
    images += max(finalists, second // 2) * (of.third - of.second) + (finalists + 2) * of.last
    return each * images


def search(config: ConfigDict, trials: Trials, known: Trajectories, guidances: Sequence[Settings], calls: int) -> Found:
    """The best setting in so many calls. Raises Stopped where a signal ended it."""
    of = counts(config, trials.judge.protocol.least)
    last, early, _ = seeds(config)
    usual, own, finalists = choices.usual(config, calls), choices.own(config, calls), config.tune.finalists
    if own:
        try:
            trials.request(own, of.last, last)
        except UserError as error:
            say(f"{calls} calls: the run's own setting cannot be: {error}")
            own = None
    tried: list[Score] = []

    def compare(what: str, settings: Sequence[Settings], count: int, seed: int) -> list[Score]:
        """The scores of distinct settings, the best first."""
        distinct = list({repr(sorted(one.items())): one for one in settings}.values())
        rest = f"; {left}" if (left := trials.left()) else ""
        say(f"{calls} calls, {what}: {len(distinct)} settings, {count:,} images each{rest}")
        scores = [
            trials.score(one, count, seed, f"{calls} calls, {what}, {number} of {len(distinct)}")
            for number, one in enumerate(distinct, 1)
        ]
        scores.sort(key=lambda one: one.rank)
        return scores

    kept = list(guidances[:1])
    if len(guidances) > 1:
        tried += (scores := compare("guidance", [{**usual, **one} for one in guidances], of.first, early))
        kept = [{name: one.settings[name] for name in guidances[0]} for one in scores[:KEPT_GUIDANCES]]
    settings = [one for guidance in kept for one in _with_ladders(config, trials, known, guidance, calls)]
    tried += (scores := compare("solvers and ladders", settings, of.first, early))
    few = max(2 * finalists, len(scores) // 4)
    tried += (scores := compare("the best of these", _of(scores[:few]), of.second, early))
    few = max(finalists, len(scores) // 2)
    tried += (scores := compare("the better half", _of(scores[:few]), of.third, early))
    beside = [usual, *([own] if own else [])]
    finals = compare("finals, of a fresh seed", [*beside, *_of(scores[:finalists])], of.last, last)
    best = finals[0]
    if math.isinf(best.value):
        raise UserError(
            f"none of the settings tried for {calls} denoiser calls could be drawn: {choices.in_words(usual)}"
        )
    say(
        f"{calls} calls: {choices.in_words(best.settings)}: {best.title} {told(best)}, the default's "
        f"{told(_found(finals, usual))}"
    )
    return Found(
        calls=calls,
        best=best,
        usual=_found(finals, usual),
        own=_found(finals, own) if own else None,
        finals=tuple(finals),
        tried=tuple(tried),
    )


def fine(config: ConfigDict, trials: Trials, guidance: Settings) -> Score:
    """The fine reference under a guidance: what many calls give."""
    last, _, _ = seeds(config)
    rest = f"; {left}" if (left := trials.left()) else ""
    say(f"fine reference, {FINE} calls: {choices.guidance_in_words(guidance)}, {config.tune.images:,} images{rest}")
    return trials.score({**choices.usual(config, FINE), **guidance}, config.tune.images, last, "fine reference")


def told(score: Score) -> str:
    """A distance with what it may be off by."""
    return f"{score.value:.4g}" + ("" if score.error is None else f" ± {score.error:.2g}")


def _with_ladders(
    config: ConfigDict, trials: Trials, known: Trajectories, guidance: Settings, calls: int
) -> list[Settings]:
    """Each solver on each ladder, as far as they can be drawn."""
    found: list[Settings] = []
    for solver in choices.solvers(config, calls):
        plain = {**solver.settings, **guidance}
        ladders: list[Settings] = [{}]
        if solver.twin is not None:
            rungs = plain["sample.steps"]
            if trials.stop(0):
                raise Stopped
            nearest = known.karras(guidance, solver.twin, rungs)
            free = known.free(guidance, solver.twin, rungs) if rungs <= MOST_RUNGS else nearest
            ladders = [free] if solver.noisy else [{}, free, nearest]
        for ladder in ladders:
            try:
                trials.request({**plain, **ladder}, 1, 0)
            except UserError as error:
                say(f"left out: {choices.in_words({**plain, **ladder})}: {error}")
            else:
                found.append({**plain, **ladder})
    if not found:
        raise UserError(f"tune.samplers={tuple(config.tune.samplers)}: none of them goes with what this run asks for")
    return found


def _of(scores: Sequence[Score]) -> list[Settings]:
    return [one.settings for one in scores]


def _found(scores: Sequence[Score], settings: Settings) -> Score:
    return next(one for one in scores if dict(one.settings) == dict(settings))

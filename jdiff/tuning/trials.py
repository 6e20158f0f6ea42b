"""A setting -> its distance: drawn, measured, and kept as it comes, so that the same command goes on after an end."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jdiff.common.errors import DrawingError
from jdiff.common.files import replace_file
from jdiff.common.progress import say
from jdiff.common.shards import Shards
from jdiff.evaluation.numbers import LOWER, Number
from jdiff.from_config import presets
from jdiff.model import Model
from jdiff.request import Request
from jdiff.scoring import Judge
from jdiff.scoring.plan import Ask, Drawn
from jdiff.tuning import choices
from jdiff.tuning.choices import Settings

SCORES, FEATURES = "scores.json", "features"
SURE = 1.96  # standard errors of a 95 % interval


class Stopped(Exception):  # noqa: N818
    """A signal ended a trial; what was drawn is kept."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a setting gives. value: the protocol's first number of so many images of this seed, infinite where they
    could not be drawn. calls: denoiser calls an image, passes: of the network.
    """

    settings: Settings
    value: float
    error: float | None
    count: int
    seed: int
    calls: int
    passes: int
    about: str
    name: str
    title: str
    better: str

    @property
    def rank(self) -> float:
        """The lower the better."""
        return self.value if self.better == LOWER or math.isinf(self.value) else -self.value

    @property
    def interval(self) -> list[float] | None:
        """Of 95 %, by the sampling of the images; it holds no bias of few images."""
        if self.error is None:
            return None
        return [self.value - SURE * self.error, self.value + SURE * self.error]

    def plain(self) -> dict[str, Any]:
        """Of JSON's types."""
        known = {**asdict(self), "settings": dict(self.settings), "interval": self.interval}
        return {**known, "value": self.value if math.isfinite(self.value) else None}


@dataclass(eq=False, kw_only=True)
class Trials:
    """ask: what asks for images under an evaluation's conditions. place: where scores and features are kept. stop:
    asked after each batch. done, planned: network passes so far and in all, for how long it will take.
    """

    model: Model
    judge: Judge
    ask: Ask
    place: Path
    stop: Callable[[int], bool]
    progress: bool
    planned: float = 0.0
    done: float = 0.0
    fresh: float = 0.0  # of done, what this process drew
    began: float = field(default_factory=time.monotonic)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with suppress(OSError, ValueError, TypeError):  # absent or damaged: measured anew
            self.scores = dict(json.loads((self.place / SCORES).read_text("utf-8")))

    def request(self, settings: Settings, count: int, seed: int) -> tuple[Model, Request]:
        """The request for so many images by these settings, and the model that draws it. Raises UserError for what
        cannot be.
        """
        model = self.model.with_config(presets.applied(self.model.config, settings))
        return model, self.ask(model, count, {"seed": seed})

    def cost(self, settings: Settings, count: int) -> float:
        """Network passes of a trial."""
        _, asked = self.request(settings, 1, 0)
        return count * _calls(asked) * asked.passes()

    def left(self) -> str:
        """How long the rest takes, in words; "" where that is not known yet."""
        if not self.fresh or self.planned <= self.done:
            return ""
        seconds = (time.monotonic() - self.began) / self.fresh * (self.planned - self.done)
        return f"about {max(1, round(seconds / 60))} min left"

    def score(self, settings: Settings, count: int, seed: int, what: str) -> Score:
        """The distance of so many images of this seed; what is known is not measured again. what: the bar's name.

        Raises Stopped where a signal ended it.
        """
        model, asked = self.request(settings, count, seed)
        facts = {**model.identity(asked), **self.judge.identity(), "seed": seed}
        facts = {name: value for name, value in facts.items() if name not in ("sample.num_images", "conditions")}
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        cost = count * _calls(asked) * asked.passes()
        known = self.scores.get(f"{key}_{count}")
        if known is None:
            known = self._measured(model, asked, facts, key, what)
            self.scores[f"{key}_{count}"] = known
            replace_file(self.place / SCORES, json.dumps(self.scores, indent=1) + "\n")
            self.fresh += cost
        self.done += cost
        value = math.inf if known["value"] is None else known["value"]
        calls = _calls(asked)
        known = {"about": choices.in_words(settings), **known}
        return Score(
            settings=settings,
            count=count,
            seed=seed,
            calls=calls,
            passes=calls * asked.passes(),
            **{**known, "value": value},
        )

    def _measured(self, model: Model, asked: Request, facts: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
        shards = Shards(self.place / FEATURES / key, "features")
        rows, _ = shards.begin(facts)
        if rows > asked.count:  # of an earlier tune.images
            shards.discard()
            shards.begin(facts)
        try:
            found = self.judge.gather(Drawn(model, asked), shards, self.stop, what if self.progress else "")
        except DrawingError as error:
            say(f"not drawn: {choices.in_words(presets.settings_of(model.config))}: {error}")
            number = replace(_named(self.judge), value=math.inf)
        else:
            if found.count < asked.count:
                raise Stopped
            number = self.judge.protocol.metrics[0](self.judge.sets(found))[0]
        return {
            "about": choices.in_words(presets.settings_of(model.config)),
            "value": number.value if math.isfinite(number.value) else None,
            "error": number.error,
            "name": number.name,
            "title": number.title,
            "better": number.better,
        }

    def discard(self) -> None:
        """Delete the features, once all have become scores."""
        for folder in (self.place / FEATURES).glob("*"):
            Shards(folder, "features").discard()
            with suppress(OSError):  # files of others are there
                folder.rmdir()
        with suppress(OSError):
            (self.place / FEATURES).rmdir()


def _calls(asked: Request) -> int:
    return asked.sampler.nfe(len(asked.sigmas) - 1) or 0


def _named(judge: Judge) -> Number:
    """The protocol's first number, without a value."""
    (name, better), *_ = judge.protocol.metrics[0].better.items()
    title = getattr(judge.protocol.metrics[0], "title", name)
    return Number(name=name, title=title, value=math.inf, better=better, about="", count=0)

"""What an evaluation draws: requests to a model, a seed each, of the classes and conditions that it needs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.conditions.label import AS_IN_DATA
from jdiff.config import one_of
from jdiff.evaluation.gather import Images
from jdiff.request import KINDS, TO_CLASSES, Request
from jdiff.scoring import data as of_data
from jdiff.scoring.judge import UNIFORM, Judge

KEPT_BYTES = 16 << 20  # of drawn images


@runtime_checkable
class Draws(Protocol):
    """What draws: jdiff.model.Model."""

    config: ConfigDict
    step: int
    workdir: Path | None

    def request(self, num_images: int | None = None, **settings: Any) -> Request: ...
    def draw(self, asked: Request, *, first: int = 0) -> Iterator[Any]: ...
    def shown(self, images: Any) -> Any: ...
    def identity(self, asked: Request) -> dict[str, Any]: ...
    def bits_per_dim(self, images: Any, **settings: Any) -> Any: ...


@dataclass(eq=False)
class Drawn:
    """The images of a request, drawn when they are asked for. kept: the first KEPT_BYTES of them, a batch by the number
    of its first image, so that pictures of these are not drawn again.
    """

    model: Draws
    asked: Request
    kept: dict[int, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.asked.count

    def batches(self, first: int = 0) -> Iterator[Images]:
        """The images from number `first` on."""
        for batch in self.model.draw(self.asked, first=first):
            labels = batch.labels if batch.labels is not None and batch.labels.ndim == 1 else None
            images = self.model.shown(batch.images)
            if sum(one.nbytes for one in self.kept.values()) + images.nbytes <= KEPT_BYTES:
                self.kept[first] = images
            first += len(images)
            yield images, labels

    def of(self, numbers: Sequence[int] | np.ndarray) -> Images:
        """The images of these numbers; what is not kept is drawn again, within the batch that it was drawn in, so that
        nothing is compiled anew.
        """
        size, wanted = min(self.asked.config.sample.batch_size, self.asked.count), np.asarray(numbers).tolist()
        held = {first + k: image for first, images in self.kept.items() for k, image in enumerate(images)}
        for first in sorted({number // size * size for number in wanted if number not in held}):
            config = self.asked.config.copy_and_resolve_references()
            config.sample.num_images = min(first + size, self.asked.count)
            again = Drawn(self.model, replace(self.asked, config=config)).batches(first)
            images = np.concatenate([part for part, _ in again])  # several parts where memory is short
            held |= {first + k: image for k, image in enumerate(images)}
        return np.stack([held[number] for number in wanted]), None


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """What an evaluation draws: a request a seed. mix: how classes are mixed, in words. identity: all that decides its
    numbers.
    """

    requests: tuple[Request, ...]
    mix: str
    identity: Mapping[str, Any]

    @property
    def seeds(self) -> list[int]:
        return [asked.config.sample.seed for asked in self.requests]


def plan(model: Draws, judge: Judge, num_images: int | None = None, **settings: Any) -> Plan:
    """The plan of an evaluation; settings: as of Model.sample. Raises UserError for what cannot be drawn or scored."""
    wanted, count = model.config.eval, num_images or judge.count
    judge.check(count)
    first = settings.get("seed", model.config.sample.seed)
    seeds = range(first, first + (wanted.seeds or judge.protocol.seeds))
    given, mix = conditions(model, judge, settings)
    requests = tuple(given(model, count, {**settings, "seed": seed}) for seed in seeds)
    identity = {
        "count": count,
        "seeds": list(seeds),
        "batch_size": requests[0].config.sample.batch_size,
        "likelihood_images": wanted.likelihood_images,
        **model.identity(requests[0]),
        **judge.identity(),
    }
    return Plan(requests=requests, mix=mix, identity=identity)


Ask = Callable[[Draws, int, Mapping[str, Any]], Request]


def conditions(model: Draws, judge: Judge, settings: Mapping[str, Any]) -> tuple[Ask, str]:
    """(what asks for images under the conditions of an evaluation, how classes are mixed, in words): those that the
    caller or the config gives; classes alone as `class_mix` says; else the conditions of held-out images (of training
    images, where none are held out).
    """
    config = model.config
    known = set(config.model.conditions) - {"aspect"}
    given = {kind.argument for kind in KINDS if settings.get(kind.argument) is not None}
    given |= {name for name, listed in (("labels", config.sample.labels), ("texts", config.sample.texts)) if listed}
    by_classes = known == {"label"} or (not known and config.guidance.method == TO_CLASSES)
    if by_classes:
        labels, mix = class_mix(config, settings)
        return (lambda model, count, rest: model.request(count, **{**rest, **labels})), mix
    if config.eval.labels:
        raise UserError(f"eval.labels={config.eval.labels!r}: is for models that are given classes alone")
    if not known or given or judge.data is None:
        return (lambda model, count, rest: model.request(count, **rest)), "as asked" if "labels" in given else ""
    rows, captions = of_data.conditions(config, judge.data, model.workdir)

    def ask(model: Draws, count: int, rest: Mapping[str, Any]) -> Request:
        asked = model.request(count, **rest)
        kept = {name: values for name, values in asked.in_turn.items() if name not in (*rows, "drop")}
        return replace(asked, in_turn={**kept, **rows}, captions=captions)

    split = "held-out" if judge.data.held_out else "training"
    return ask, f"of {len(jax.tree.leaves(rows)[0]):,} {split} images"


def class_mix(config: ConfigDict, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """(which classes are drawn, as a setting of a request, how they are mixed in words); {} where the caller or the
    config says.
    """
    wanted, data = config.eval.labels, config.data
    if isinstance(given := settings.get("labels"), str):
        wanted = one_of("labels", given, [AS_IN_DATA, UNIFORM])
    elif given is not None or (config.sample.labels and not wanted):
        return {}, "as asked"
    known = data.labels_per_image == 1 and any(data.class_counts)
    if wanted == AS_IN_DATA or (not wanted and known):
        return {"labels": AS_IN_DATA}, "as in the data"
    if data.labels_per_image > 1:
        return {}, UNIFORM
    counts = data.class_counts or (1,) * len(data.class_names)
    return {"labels": [number for number, count in enumerate(counts) if count]}, UNIFORM
